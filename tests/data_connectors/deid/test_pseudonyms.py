from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.deid.pseudonyms import Pseudonyms, load_key
from medvlp.errors import ConfigError

KEY = bytes(range(32))


def test_a_pseudonym_is_the_truncated_hmac_of_the_identifier():
    message = b"medvlp/patient\0MRN-0042"
    expected = hmac.new(KEY, message, hashlib.sha256).hexdigest()[:32]
    assert Pseudonyms(KEY).patient("MRN-0042") == expected


def test_case_and_spaces_do_not_make_another_patient():
    names = Pseudonyms(KEY)
    assert names.patient(" mrn-0042 ") == names.patient("MRN-0042")


@given(st.text(min_size=1).filter(str.strip))
def test_kinds_of_identifier_are_apart(text):
    names = Pseudonyms(KEY)
    made = [names.patient(text), names.study(text), names.part(text), names.path("s", text)]
    assert len(set(made)) == 4


def test_another_key_gives_another_pseudonym():
    assert Pseudonyms(KEY).patient("1") != Pseudonyms(KEY[::-1]).patient("1")


def test_a_study_without_an_identifier_has_no_pseudonym():
    assert Pseudonyms(KEY).study("  ") == ""


def test_the_key_file_is_made_once_and_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "deep" / "key"
    first = load_key(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(path.read_text().strip())) == 32
    assert load_key(path, create=True).patient("1") == first.patient("1")
    assert [p.name for p in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "deid-key-missing"), ("not hex", "deid-key-invalid"), ("00ff", "deid-key-invalid")],
)
def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path, content, code):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_key(path, create=False)
    assert caught.value.code == code
    assert content is None or content not in str(caught.value)
