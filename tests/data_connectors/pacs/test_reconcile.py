from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_connectors.pacs.ledger import STORED, WANTED, Entry, Instance
from data_connectors.pacs.reconcile import judge, lacks

states = st.sampled_from([STORED, WANTED, "pacs-wrong-patient", "pacs-uid-conflict"])


@st.composite
def entries(draw):
    listed = draw(st.booleans())
    rows = draw(st.lists(states, max_size=6))
    instances = tuple(
        Instance(str(n), "", listed, state, "", 10 if state == STORED else 0)
        for n, state in enumerate(rows)
    )
    counted = draw(st.none() | st.integers(0, 8))
    return Entry(counted, listed, draw(st.booleans()), ("P",), instances)


@given(entries(), st.booleans())
def test_all_or_nothing_and_everything_said_is_accounted_for(entry, trust):
    verdict = judge(entry, lambda uid: f"s/{uid}", trust_counts=trust)
    came = len(entry.stored)
    inputs = [name for refused in verdict.refused for name in refused.inputs]
    assert sorted(inputs) == sorted(verdict.missing)  # each once
    if verdict.refused:
        assert verdict.instances == 0
        said = [len(entry.instances), (entry.counted or 0) if trust or not entry.listed else 0]
        assert len(verdict.missing) == max(said)
        return
    assert verdict.instances in (came, 0)
    if verdict.instances:
        assert came == len(entry.instances)
        assert not entry.listed or len(entry.instances) == came
        assert entry.counted in (came, None) or (entry.listed and not trust)


def test_a_series_with_one_instance_too_few_is_refused_whole():
    rows = tuple(Instance(str(n), "", True, STORED, "", 5) for n in range(3))
    entry = Entry(4, True, True, ("P",), rows)
    verdict = judge(entry, str, trust_counts=True)
    assert [r.code for r in verdict.refused] == ["pacs-incomplete"]
    assert "lists 3 and counts 4" in verdict.refused[0].reason
    assert verdict.missing == {"0": 5, "1": 5, "2": 5, "missing 3": 0}
    assert lacks(entry) == 0
