"""A radiologist's report of known findings, in varied words.

What is present is stated (uncertainly, at times, when it is small); of what is absent about a
quarter is not mentioned. Sides, lobes and sizes are those of the truth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_connectors.phantom import phrases
from data_connectors.phantom.findings import CONCEPTS, Planted
from data_connectors.phantom.identity import Person

Polarity = Literal["present", "absent", "uncertain"]
_NEVER_MENTIONED = 0.25
_FORGOTTEN = 0.02


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence of the findings section and what it claims."""

    text: str
    concepts: tuple[str, ...]
    polarity: Polarity | None
    """None: it claims nothing of the eight concepts."""
    side: str | None = None
    lobe: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A report in its sections."""

    comparison: str
    findings: str
    impression: str
    statements: tuple[Statement, ...]

    @property
    def text(self) -> str:
        """The sections under their headings."""
        return (
            f"COMPARISON: {self.comparison}\n\nFINDINGS: {self.findings}\n\n"
            f"IMPRESSION: {self.impression}"
        )


def expand(template: str, rng: np.random.Generator, slots: Mapping[str, str] | None = None) -> str:
    """Pick alternatives and fill slots; `a` becomes `an` where it must; sentence case.

    A slot's value may hold alternatives of its own.
    """
    text = template
    for name, value in (slots or {}).items():
        text = text.replace("{" + name + "}", value)
    while (match := re.search(r"\[([^\[\]]*)\]", text)) is not None:
        choices = match[1].split("|")
        chosen = choices[int(rng.integers(len(choices)))]
        text = text[: match.start()] + chosen + text[match.end() :]
    text = re.sub(r"\s+([.,])", r"\1", re.sub(r" {2,}", " ", text)).strip()
    text = re.sub(r"\b([Aa]) (?=[aeio]|un|up|8|11\b|18\b)", r"\1n ", text)
    return text[:1].upper() + text[1:]


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of several, equally often."""
    return options[int(rng.integers(len(options)))]


def write_report(
    rng: np.random.Generator, findings: tuple[Planted, ...], person: Person
) -> Written:
    """The report of one patient."""
    compared = rng.uniform() < 0.55
    statements = [
        _state(rng, finding, compared)
        for finding in findings
        if not (finding.grade < 0.3 and rng.uniform() < _FORGOTTEN)
    ]
    statements += _absences(rng, findings, compared)
    statements += _other_side(rng, findings)
    number = int(rng.integers(1, 4))
    for template in rng.choice(phrases.BOILERPLATE, number, replace=False):
        statements.append(Statement(expand(str(template), rng), (), None))
    if not findings and rng.uniform() < 0.5:
        statements.append(Statement(expand(pick(rng, phrases.CLEAR), rng), (), None))
    # Radiologists start with what matters, most of the time.
    order = [int(i) for i in rng.permutation(len(statements))]
    if rng.uniform() < 0.6:
        order = sorted(order, key=lambda i: statements[i].polarity not in ("present", "uncertain"))
    statements = [statements[i] for i in order]
    return Written(
        comparison=_comparison(rng, person, compared),
        findings=" ".join(statement.text for statement in statements),
        impression=_impression(rng, statements, findings, person),
        statements=tuple(statements),
    )


def _slots(rng: np.random.Generator, finding: Planted) -> dict[str, str]:
    grade = phrases.GRADE_WORDS[finding.severity]
    if finding.severity == "moderate" and finding.size_mm is None:
        grade = phrases.DEGREE_MODERATE
    if finding.concept in ("consolidation", "atelectasis"):
        grade = grade.replace("moderately sized", "moderate")
    size = finding.size_mm or 0.0
    zone = {"bilateral": "[in both lungs|bilaterally]"}.get(
        finding.side, f"[in the {finding.side} lung|on the {finding.side}]"
    )
    return {
        "grade": grade,
        "gradely": phrases.GRADE_ADVERBS.get(finding.severity, ""),
        "side": finding.side,
        "lobe": finding.lobe or f"{finding.side} lung",
        "size": f"{size:.0f}",
        "cm": f"{size / 10:.1f}",
        "zone": zone,
        "count": ("one", "two", "three", "four")[len(finding.more_mm)],
        "most": "larger" if len(finding.more_mm) == 1 else "largest",
    }


def _state(rng: np.random.Generator, finding: Planted, compared: bool) -> Statement:
    unsure = finding.grade < 0.3 and not finding.more_mm and rng.uniform() < 0.4
    unsure = unsure and finding.side != "bilateral"
    key = finding.concept
    if finding.more_mm:
        key = "nodules"
    elif finding.concept == "pleural_effusion" and finding.side == "bilateral":
        key = "pleural_effusions"
    template = pick(rng, phrases.UNCERTAIN[key] if unsure else phrases.PRESENT[key])
    text = expand(template, rng, _slots(rng, finding))
    if compared and not unsure and rng.uniform() < 0.3:
        text = (
            text.removesuffix(".") + ", " + _uncapped(expand(pick(rng, phrases.CHANGE), rng)) + "."
        )
    side = None if finding.side == "midline" else finding.side
    polarity: Polarity = "uncertain" if unsure else "present"
    return Statement(text, (finding.concept,), polarity, side, finding.lobe)


def _uncapped(text: str) -> str:
    return text[:1].lower() + text[1:]


def _absences(
    rng: np.random.Generator, findings: tuple[Planted, ...], compared: bool
) -> list[Statement]:
    present = {finding.concept for finding in findings}
    absent = [c for c in CONCEPTS if c not in present and rng.uniform() > _NEVER_MENTIONED]
    absent = [absent[int(i)] for i in rng.permutation(len(absent))]
    statements: list[Statement] = []
    while absent:
        if absent[0] in phrases.ABSENT:
            concept = absent.pop(0)
            text = expand(pick(rng, phrases.ABSENT[concept]), rng)
            statements.append(Statement(text, (concept,), "absent"))
            continue
        count = min(int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])), len(absent))
        group = [c for c in absent[:count] if c not in phrases.ABSENT]
        absent = [c for c in absent if c not in group]
        templates: tuple[str, ...] = (phrases.NO_ONE, phrases.NO_TWO, phrases.NO_THREE)[
            len(group) - 1
        ]
        if compared and group[0] in phrases.PASSING and len(group) == 1 and rng.uniform() < 0.2:
            templates = phrases.NO_MORE
        named = ("one", "two", "three")[: len(group)]
        slots = {slot: phrases.NAMES[c] for slot, c in zip(named, group, strict=True)}
        text = expand(pick(rng, templates), rng, slots)
        statements.append(Statement(text, tuple(group), "absent"))
    return statements


def _other_side(rng: np.random.Generator, findings: tuple[Planted, ...]) -> list[Statement]:
    """At times the healthy side is named too, as in `No pneumothorax on the right`."""
    statements = []
    for finding in findings:
        paired = finding.concept in ("pneumothorax", "pleural_effusion")
        if paired and finding.side in ("left", "right") and rng.uniform() < 0.1:
            other = "right" if finding.side == "left" else "left"
            slots = {"one": phrases.NAMES[finding.concept], "side": other}
            text = expand(phrases.NO_SIDE, rng, slots)
            statements.append(Statement(text, (finding.concept,), "absent", other))
    return statements


def _comparison(rng: np.random.Generator, person: Person, compared: bool) -> str:
    if not compared:
        return expand(pick(rng, phrases.NO_COMPARISON), rng)
    slots = {"date": person.previous.isoformat(), "person": person.name}
    return expand(pick(rng, phrases.COMPARISON), rng, slots)


def _impression(
    rng: np.random.Generator, statements: list[Statement], findings: tuple[Planted, ...],
    person: Person,
) -> str:  # fmt: skip
    """The stated findings once more, in other words; or that there are none."""
    stated = {c: s.polarity for s in statements for c in s.concepts if s.polarity != "absent"}
    lines = []
    for finding in findings:
        if finding.concept not in stated:
            continue
        key = finding.concept
        if finding.more_mm:
            key = "nodules"
        elif finding.concept == "pleural_effusion" and finding.side == "bilateral":
            key = "pleural_effusions"
        unsure = stated[finding.concept] == "uncertain"
        template = pick(rng, phrases.UNCERTAIN[key] if unsure else phrases.PRESENT[key])
        lines.append(expand(template, rng, _slots(rng, finding)))
    if not lines:
        lines = [expand(pick(rng, phrases.NORMAL_IMPRESSION), rng)]
    if findings and rng.uniform() < 0.35:
        lines.append(expand(pick(rng, phrases.FOLLOW_UP), rng, {"referring": person.referring}))
    if len(lines) > 1 and rng.uniform() < 0.5:
        return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return " ".join(lines)
