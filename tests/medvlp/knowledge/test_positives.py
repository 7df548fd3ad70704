from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import InputError
from medvlp.knowledge.concepts import Concept, load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.positives import ClaimSlots, match
from medvlp.types import Finding, Polarity, Side

CONCEPTS = {
    concept.id: concept
    for concept in (
        Concept("normal", "normal", denies=("opacity", "effusion")),
        Concept("opacity", "opacity"),
        Concept("pneumonia", "pneumonia", is_a=("opacity",)),
        Concept("bacterial", "bacterial pneumonia", is_a=("pneumonia",)),
        Concept("viral", "viral pneumonia", is_a=("pneumonia",)),
        Concept("effusion", "effusion"),
    )
}
SLOTS = ClaimSlots(CONCEPTS)


def finding(concept: str, polarity: Polarity = "present", side: Side | None = None) -> Finding:
    return Finding(concept, concept, polarity, side=side)


def of(vector: torch.Tensor, concept: str) -> tuple[int, ...]:
    return tuple(int(vector[SLOTS.slot(concept, side)]) for side in ("any", "left", "right"))


def test_there_are_three_slots_a_concept_and_none_for_normal() -> None:
    assert len(SLOTS) == 15
    assert SLOTS.stated([]).shape == (15,)
    with pytest.raises(InputError, match="concept-unknown"):
        SLOTS.slot("normal")


@pytest.mark.parametrize(
    ("given_findings", "stated", "claims"),
    [
        ([], (0, 0, 0), (0, 0, 0)),
        ([("present", None)], (1, 0, 0), (1, 0, 0)),
        ([("present", "left")], (1, 1, -1), (1, 1, 0)),
        ([("present", "right")], (1, -1, 1), (1, 0, 1)),
        ([("present", "bilateral")], (1, 1, 1), (1, 1, 1)),
        ([("absent", None)], (-1, -1, -1), (-1, -1, -1)),
        ([("absent", "left")], (0, -1, 0), (0, -1, 0)),
        ([("uncertain", None)], (0, 0, 0), (0, 0, 0)),
        ([("present", "left"), ("absent", None)], (1, 1, -1), (1, 1, -1)),
        ([("present", "left"), ("present", "right")], (1, 1, 1), (1, 1, 1)),
        ([("present", "left"), ("uncertain", "right")], (1, 1, 0), (1, 1, 0)),
        ([("absent", None), ("uncertain", None)], (0, -1, -1), (0, -1, -1)),
        ([("uncertain", None), ("present", None)], (1, 0, 0), (1, 0, 0)),
    ],
)
def test_slots_of_one_concept(
    given_findings: list[tuple[Polarity, Side | None]],
    stated: tuple[int, ...],
    claims: tuple[int, ...],
) -> None:
    for order in (given_findings, given_findings[::-1]):
        findings = [finding("effusion", polarity, side) for polarity, side in order]
        assert of(SLOTS.stated(findings), "effusion") == stated
        assert of(SLOTS.claims(findings), "effusion") == claims


def test_a_present_child_makes_its_parents_present() -> None:
    stated = SLOTS.stated([finding("bacterial", side="left")])
    assert of(stated, "pneumonia")[0] == of(stated, "opacity")[0] == 1
    assert of(stated, "viral") == (0, 0, 0)
    assert of(SLOTS.claims([finding("bacterial")]), "pneumonia") == (0, 0, 0)


def test_an_absent_parent_makes_its_children_absent_unless_they_are_stated() -> None:
    absent = SLOTS.stated([finding("opacity", "absent")])
    assert of(absent, "bacterial") == of(absent, "viral") == (-1, -1, -1)
    mixed = SLOTS.stated([finding("opacity", "absent"), finding("viral")])
    assert of(mixed, "viral")[0] == of(mixed, "opacity")[0] == 1
    assert of(mixed, "bacterial") == (-1, -1, -1) or of(mixed, "bacterial")[0] <= 0


def test_an_absent_child_says_nothing_of_its_parent() -> None:
    assert of(SLOTS.stated([finding("viral", "absent")]), "pneumonia") == (0, 0, 0)


def test_normal_denies_what_it_denies_and_what_is_below() -> None:
    for vector in (SLOTS.stated([finding("normal")]), SLOTS.claims([finding("normal")])):
        assert of(vector, "opacity") == of(vector, "effusion") == (-1, -1, -1)
    assert of(SLOTS.stated([finding("normal")]), "viral") == (-1, -1, -1)


def test_in_a_closed_world_what_is_not_mentioned_is_absent() -> None:
    stated = SLOTS.stated([finding("bacterial")], closed_world=True)
    assert of(stated, "bacterial") == (1, 0, 0)
    assert of(stated, "viral") == of(stated, "effusion") == (-1, -1, -1)
    assert of(stated, "pneumonia")[0] == 1
    # Nobody said which pneumonia it is, so neither kind is denied.
    unspecific = SLOTS.stated([finding("pneumonia")], closed_world=True)
    assert of(unspecific, "bacterial") == of(unspecific, "viral") == (0, 0, 0)
    doubtful = SLOTS.stated([finding("effusion", "uncertain")], closed_world=True)
    assert of(doubtful, "effusion")[0] == 0


def test_findings_without_slots_are_left_out() -> None:
    assert not SLOTS.stated([finding("gallstones")]).any()


FINDINGS = st.lists(
    st.builds(
        finding,
        st.sampled_from(list(CONCEPTS)),
        st.sampled_from(["present", "absent", "uncertain"]),
        st.sampled_from([None, "left", "right", "bilateral"]),
    ),
    max_size=5,
)


@given(FINDINGS, st.booleans(), st.randoms())
def test_stated_never_contradicts_claims_and_ignores_order(findings, closed, random) -> None:  # type: ignore[no-untyped-def]
    stated, claims = SLOTS.stated(findings, closed), SLOTS.claims(findings)
    assert stated.dtype == claims.dtype == torch.int8
    # A parent's denial gives way to a stated child; nothing else claimed may be turned round.
    turned = (stated * claims < 0).nonzero().flatten().tolist()
    for at in turned:
        assert claims[at] == -1
    shuffled = list(findings)
    random.shuffle(shuffled)
    assert torch.equal(SLOTS.stated(shuffled, closed), stated)


def oracle(
    stated: np.ndarray, claims: np.ndarray, owner: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """The rules of `match`, pair by pair and slot by slot."""
    result = np.zeros((len(stated), len(claims)), dtype=np.int8)
    for i in range(len(stated)):
        mine = {int(keys[j]) for j in range(len(keys)) if owner[j] == i}
        for j in range(len(claims)):
            said = [k for k in range(claims.shape[1]) if claims[j, k] != 0]
            if owner[j] == i or int(keys[j]) in mine:
                result[i, j] = 1
            elif not said or any(stated[i, k] == -claims[j, k] for k in said):
                result[i, j] = 0
            elif all(stated[i, k] == claims[j, k] for k in said):
                result[i, j] = 1
            else:
                result[i, j] = -1
    return result


@settings(max_examples=200)
@given(st.data())
def test_match_equals_the_rules_spelled_out(data: st.DataObject) -> None:
    b, m, k = (data.draw(st.integers(1, n)) for n in (4, 6, 5))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    stated = rng.integers(-1, 2, (b, k)).astype(np.int8)
    claims = (rng.integers(-1, 2, (m, k)) * (rng.random((m, k)) < 0.5)).astype(np.int8)
    owner = rng.integers(-1, b, m)
    keys = rng.integers(0, 4, m) * 2**61
    found = match(*(torch.from_numpy(array) for array in (stated, claims, owner, keys)))
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), oracle(stated, claims, owner, keys))


def test_matching_on_sentences_of_reports() -> None:
    slots = ClaimSlots(load_concepts())
    reports = [
        "Small left pleural effusion. No pneumothorax.",
        "Right pleural effusion.",
        "No pleural effusion. Heart size is normal.",
    ]
    texts = [
        "Left pleural effusion.",
        "There is a pleural effusion.",
        "No pneumothorax.",
        "The heart is enlarged.",
        "Compared with the prior study.",
    ]
    stated = torch.stack([slots.stated(extract_findings(text)) for text in reports])
    claims = torch.stack([slots.claims(extract_findings(text)) for text in texts])
    owner = torch.full((len(texts),), -1)
    found = match(stated, claims, owner, torch.arange(len(texts)))
    assert found.T.tolist() == [
        [1, 0, 0],  # left effusion: the right-sided one contradicts it
        [1, 1, 0],
        [1, -1, -1],  # nobody knows about pneumothorax in the other two
        [-1, -1, 0],
        [0, 0, 0],  # says nothing of a finding: a plain negative
    ]
