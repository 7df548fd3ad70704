"""Which text fits which visual, from what the texts state.

Other samples of a batch are not simply negatives: reports repeat, and two chests can both have
an effusion. A text is compared by what it claims with what is known of a visual, one slot a
(concept, side): 1 present, -1 absent, 0 unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from medvlp.errors import InputError
from medvlp.knowledge.concepts import NORMAL, Concept, ancestors, descendants
from medvlp.knowledge.tokens import text_key
from medvlp.types import Finding

__all__ = ["ClaimSlots", "SlotSide", "match", "text_key"]

SlotSide = Literal["any", "left", "right"]
SIDES: tuple[SlotSide, ...] = ("any", "left", "right")
_PRESENT, _DOUBTED, _ABSENT = 3, 2, 1
_VALUE = {_PRESENT: 1, _DOUBTED: 0, _ABSENT: -1, 0: 0}


class ClaimSlots:
    """The slots (concept x {any, left, right}) and how findings fill them.

    Slot order is the order of `concepts`, three slots each; `normal` has none, it denies others.
    Where several findings speak of one slot, present wins over uncertain, uncertain over absent.
    """

    def __init__(self, concepts: Mapping[str, Concept]):
        self.concepts = tuple(name for name in concepts if name != NORMAL)
        self._index = {name: 3 * at for at, name in enumerate(self.concepts)}
        self._above = ancestors(concepts)
        self._below = descendants(concepts)
        self._denies = concepts[NORMAL].denies if NORMAL in concepts else ()

    def __len__(self) -> int:
        return 3 * len(self.concepts)

    def slot(self, concept: str, side: SlotSide = "any") -> int:
        """Index of one slot.

        Raises:
            InputError: `concept-unknown`.
        """
        if concept not in self._index:
            raise InputError(
                "no slots for this concept",
                code="concept-unknown",
                got=concept,
                next_step="use an id of medvlp/knowledge/books",
            )
        return self._index[concept] + SIDES.index(side)

    def claims(self, findings: Iterable[Finding]) -> Int[Tensor, " k"]:
        """What a text itself claims, int8 [k]; uncertain findings claim nothing."""
        evidence = self._evidence(findings)
        return torch.tensor([_VALUE[level] for level in evidence], dtype=torch.int8)

    def stated(self, findings: Iterable[Finding], closed_world: bool = False) -> Int[Tensor, " k"]:
        """What is known of a visual from all its findings, int8 [k].

        Beyond what is claimed: a finding on one side denies the other side unless something else
        is said of it (that is how radiologists write); a present concept makes the more general
        ones present; an absent one makes the more special ones absent.

        Args:
            findings: All findings of the visual.
            closed_world: What is not mentioned is absent, as in a label table. Kinds of a
                present concept stay unknown when none of them is mentioned.
        """
        findings = list(findings)
        evidence = self._evidence(findings)
        self._deny_other_side(findings, evidence)
        self._generalise(evidence)
        self._specialise(evidence)
        if closed_world:
            self._close(evidence)
        return torch.tensor([_VALUE[level] for level in evidence], dtype=torch.int8)

    def _evidence(self, findings: Iterable[Finding]) -> list[int]:
        """The strongest direct evidence per slot."""
        evidence = [0] * len(self)
        for finding in self._expand(findings):
            start = self._index[finding.concept]
            level = {"present": _PRESENT, "uncertain": _DOUBTED, "absent": _ABSENT}[
                finding.polarity
            ]
            for offset in _offsets(finding):
                evidence[start + offset] = max(evidence[start + offset], level)
        return evidence

    def _expand(self, findings: Iterable[Finding]) -> Iterable[Finding]:
        """Findings that have slots; `normal` becomes what it denies."""
        for finding in findings:
            if finding.concept in self._index:
                yield finding
            elif finding.concept == NORMAL and finding.polarity == "present":
                for name in self._denies:
                    yield Finding(name, name, "absent")

    def _deny_other_side(self, findings: Sequence[Finding], evidence: list[int]) -> None:
        for finding in self._expand(findings):
            if finding.polarity == "present" and finding.side in ("left", "right"):
                other = 2 if finding.side == "left" else 1
                start = self._index[finding.concept]
                evidence[start + other] = evidence[start + other] or _ABSENT

    def _generalise(self, evidence: list[int]) -> None:
        direct = list(evidence)
        for name, start in self._index.items():
            for offset in range(3):
                level = direct[start + offset]
                if level < _DOUBTED:
                    continue
                for parent in self._above[name]:
                    at = self._index[parent] + offset
                    # Doubt about a kind does not undo what is said of the whole.
                    if level == _PRESENT or not evidence[at]:
                        evidence[at] = max(evidence[at], level)

    def _specialise(self, evidence: list[int]) -> None:
        for name, start in self._index.items():
            for offset in range(3):
                if evidence[start + offset] != _ABSENT:
                    continue
                for child in self._below[name]:
                    at = self._index[child] + offset
                    evidence[at] = evidence[at] or _ABSENT

    def _close(self, evidence: list[int]) -> None:
        """Fill what nothing is known of with absent, except what a present slot leaves open."""
        unknown: set[int] = set()
        for name, start in self._index.items():
            if evidence[start] < _DOUBTED:
                continue
            unknown.update((start + 1, start + 2))
            family = self._below[name]
            if not any(evidence[self._index[child]] >= _DOUBTED for child in family):
                unknown.update(self._index[child] + o for child in family for o in range(3))
        for at, level in enumerate(evidence):
            if not level and at not in unknown:
                evidence[at] = _ABSENT


def _offsets(finding: Finding) -> tuple[int, ...]:
    """Which of (any, left, right) a finding speaks of."""
    if finding.side == "bilateral":
        return (0, 1, 2)
    side = {"left": 1, "right": 2}.get(finding.side or "")
    if finding.polarity == "absent":
        return (side,) if side else (0, 1, 2)
    return (0, side) if side else (0,)


def match(
    stated: Int[Tensor, "b k"],
    claims: Int[Tensor, "m k"],
    owner: Int[Tensor, " m"],
    text_key: Int[Tensor, " m"],
) -> Int[Tensor, "b m"]:
    """Which texts fit which visuals.

    For visual i and text j, the first rule that applies: i owns j: 1. A text of i has the key of
    j, so that both say the same words: 1. Text j claims nothing: 0. It claims something that i is
    known to contradict: 0. All it claims is known to be so of i: 1. Otherwise nobody knows: -1,
    to be ignored.

    Args:
        stated: What is known of each visual (`ClaimSlots.stated`).
        claims: What each text claims (`ClaimSlots.claims`).
        owner: Index of the visual that each text belongs to; -1: none of these.
        text_key: Hash of each text (`text_key`).

    Returns:
        int8 [b, m]: 1 positive, 0 negative, -1 ignored.
    """
    # Slot values are -1, 0, 1, so two products count agreements and contradictions exactly.
    known, said = stated.float(), claims.float()
    net = known @ said.T
    shared = known.abs() @ said.abs().T
    contradicts = shared > net
    claimed = said.abs().sum(dim=1)
    agrees = (net == claimed) & (claimed > 0)
    # Which keys each visual has among its own texts; texts of nobody here are left out.
    distinct, number = torch.unique(text_key, return_inverse=True)
    has = torch.zeros(len(stated), len(distinct), dtype=torch.bool, device=net.device)
    ours = owner >= 0
    has[owner[ours], number[ours]] = True
    identical = has[:, number]
    result = torch.full(net.shape, -1, dtype=torch.int8, device=net.device)
    result[agrees] = 1
    result[contradicts | (claimed == 0)[None, :]] = 0
    result[identical] = 1
    return result
