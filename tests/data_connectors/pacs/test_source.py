from __future__ import annotations

from pathlib import Path

import pytest

from data_connectors.config import IngestConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.ingest.planning import public_config
from data_connectors.ingest.pulling import as_folder, at_home, store_of
from data_connectors.pacs.archive import Wanted, wild
from data_connectors.pacs.secret import read_secret
from data_connectors.pacs.source import ArchiveFilter, Credentials, DicomwebSource, DimseSource
from medvlp.errors import ConfigError

WEB = {"kind": "dicomweb", "name": "web", "url": "https://pacs.zyxwv.example:8443/dicom-web"}
DIMSE = {"kind": "dimse", "name": "dimse", "host": "pacs.zyxwv.example", "called": "ZYXWV"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("user:Canary-55\n")
    path.chmod(0o600)
    return path


def test_a_secret_comes_from_a_private_file_or_the_environment(secret, monkeypatch):
    assert read_secret(Credentials(file=secret)).header == "Basic dXNlcjpDYW5hcnktNTU="
    monkeypatch.setenv("MEDVLP_TEST_TOKEN", "abc.def")
    assert read_secret(Credentials(env="MEDVLP_TEST_TOKEN", scheme="bearer")).header == (
        "Bearer abc.def"
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(secret, mode):
    secret.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secret(Credentials(file=secret))
    assert caught.value.code == "pacs-secret-open"
    assert "Canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "user-without-password", "a:b\nInjected: header", "a:b\x01"])
def test_a_secret_of_the_wrong_form_is_refused(secret, text):
    secret.write_text(text)
    with pytest.raises(ConfigError, match="pacs-secret-form"):
        read_secret(Credentials(file=secret))


def test_a_missing_secret_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="pacs-secret-missing"):
        read_secret(Credentials(file=tmp_path / "none"))
    with pytest.raises(ConfigError, match="MEDVLP_NOT_SET"):
        read_secret(Credentials(env="MEDVLP_NOT_SET"))


@pytest.mark.parametrize("keys", [
    WEB | {"credentials": {}}, WEB | {"credentials": {"file": "a", "env": "b"}},
    WEB | {"credentials": {"password": "x"}}, WEB | {"password": "x"}, WEB | {"path": "x"},
    DIMSE | {"called": "SEVENTEEN LETTERS"}, DIMSE | {"called": "A\\B"}, DIMSE | {"called": " "},
    DIMSE | {"host": "a b"}, DIMSE | {"host": "169.254.169.254"}, DIMSE | {"port": 0},
    WEB | {"find": {"studied_from": "2024-02-01", "studied_to": "2024-01-01"}},
])  # fmt: skip
def test_configs_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValueError):  # noqa: PT011
        IngestConfig.model_validate({"sources": [keys]})


def test_what_is_published_names_no_network_no_secret_and_nobody():
    config = IngestConfig.model_validate({"sources": [
        WEB | {"credentials": {"file": "zyxwv.secret"}, "find": {
            "modalities": ["CT"], "patients": "zyxwv.txt", "study_description": "*zyxwv*"}},
        DIMSE | {"listen": {"bind": "10.1.2.3", "senders": ["ZYXWV2"]}, "store": "zyxwv",
                 "tls": {"ca": "zyxwv.pem"}, "caption": "CT of the chest."},
    ]})  # fmt: skip
    told = str(public_config(config, Pseudonyms(bytes(32))))
    assert "zyxwv" not in told.lower()
    assert "10.1.2.3" not in told
    assert "CT of the chest." in told
    assert "'modalities': ['CT']" in told


def test_an_archive_is_read_as_the_folder_it_is_pulled_into(tmp_path):
    source = DicomwebSource(**WEB, min_slices=5, caption="x", labels=Path("labels.csv"))
    folder = as_folder(source, tmp_path, tmp_path / "out")
    assert folder.path == tmp_path / "out.pulled" / "web" / "dicom"
    assert (folder.name, folder.min_slices, folder.caption) == ("web", 5, "x")
    assert folder.labels == tmp_path / "labels.csv"
    named = DimseSource(**DIMSE, store=Path("here"))
    assert store_of(named, tmp_path, tmp_path / "out") == tmp_path / "here"


def test_paths_of_a_config_start_from_its_folder(tmp_path):
    source = DicomwebSource(**WEB, credentials={"file": "s"}, find={"patients": "/abs/p"})
    moved = at_home(source, tmp_path)
    assert moved.credentials.file == tmp_path / "s"
    assert moved.find.patients == Path("/abs/p")


def test_lists_are_read_and_an_empty_one_is_not_everything(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffP-2\n\n P-1 \nP-2\n", encoding="utf-8")
    keys = list(Wanted(ArchiveFilter(patients=path)).study_keys())
    assert keys == [{"PatientID": "P-1"}, {"PatientID": "P-2"}]
    path.write_text("\n")
    with pytest.raises(ConfigError, match="pacs-list"):
        Wanted(ArchiveFilter(patients=path))


def test_letters_that_archives_encode_differently_become_wildcards():
    assert wild("Doe^Jane") == "Doe*Jane"
    assert wild("P 3") == "P*3"
    assert wild("A-1.2_3") == "A-1.2_3"
    assert wild("^5") == "^5"  # a wildcard alone would ask for everybody
