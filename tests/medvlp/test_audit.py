import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp import audit
from medvlp.errors import IntegrityError


def _log(path: Path, entries: int = 5) -> str:
    head = ""
    for number in range(entries):
        head = audit.append(path, "step", number=number)
    return head


def test_an_untouched_log_verifies_and_ends_at_its_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = _log(path)
    assert audit.verify(path, anchor=head) == 5
    assert audit.head(path) == head


def test_truncation_is_seen_through_the_anchor(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = _log(path)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    assert audit.verify(path) == 4
    with pytest.raises(IntegrityError, match="audit-truncated"):
        audit.verify(path, anchor=head)


@settings(max_examples=25, deadline=None)
@given(where=st.integers(0, 4), how=st.sampled_from(["edit", "delete", "swap", "repeat"]))
def test_any_edit_deletion_or_reordering_breaks_the_chain(
    tmp_path_factory: pytest.TempPathFactory, where: int, how: str
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    head = _log(path)
    lines = path.read_text().splitlines()
    if how == "edit":
        entry = json.loads(lines[where])
        entry["facts"]["number"] += 100
        lines[where] = json.dumps(entry)
    elif how == "delete":
        del lines[where]
    elif how == "swap":
        other = (where + 1) % 5
        lines[where], lines[other] = lines[other], lines[where]
    else:
        lines.insert(where, lines[where])
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(IntegrityError):
        audit.verify(path, anchor=head)


def test_a_line_that_is_no_entry_breaks_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    _log(path, 1)
    with path.open("a") as log:
        log.write("[]\n")
    with pytest.raises(IntegrityError, match="audit-chain-broken"):
        audit.verify(path)
