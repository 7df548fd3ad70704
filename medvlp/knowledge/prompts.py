"""Prompts for zero-shot labels: data that is linted and hashed, so that a score can name them.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from medvlp.config import Config
from medvlp.knowledge.concepts import NORMAL, Concept, load_concepts
from medvlp.knowledge.tokens import normal_text

POSITIVE = ("There is {name}.", "{Name} is present.")
NEGATIVE = ("No {name}.", "There is no evidence of {name}.")
NORMAL_POSITIVE = ("Normal chest radiograph.", "No acute cardiopulmonary abnormality.")
NORMAL_NEGATIVE = ("Abnormal chest radiograph.", "There is an acute cardiopulmonary abnormality.")


class LabelPrompts(Config):
    """The prompts of one label."""

    label: str
    positive: tuple[str, ...] = Field(min_length=1)
    """Sentences that are true where the label is."""
    negative: tuple[str, ...] = ()
    """Sentences that are true where the label is not; may be empty for exclusive classes."""


class PromptSet(Config):
    """Prompts of all labels of a task, in the order of its classes."""

    prompts: tuple[LabelPrompts, ...] = Field(min_length=1)

    @classmethod
    def from_labels(
        cls,
        labels: Iterable[str],
        *,
        positive: Sequence[str] = POSITIVE,
        negative: Sequence[str] = NEGATIVE,
        synonyms: int = 0,
        names: Mapping[str, str] | None = None,
        concepts: Mapping[str, Concept] | None = None,
    ) -> PromptSet:
        """Build prompts from templates and concept names.

        Args:
            labels: Concept ids; a label that is no concept is named by its words.
            positive: Templates with `{name}` or `{Name}`.
            negative: Likewise; none for exclusive classes.
            synonyms: How many synonyms of a concept to use beside its name.
            names: Names that win over the concept's own.
            concepts: The concepts; the shipped ones by default.
        """
        known = load_concepts() if concepts is None else concepts
        rows = []
        for label in labels:
            if label == NORMAL and not (names and NORMAL in names):
                rows.append(
                    LabelPrompts(
                        label=label,
                        positive=NORMAL_POSITIVE,
                        negative=NORMAL_NEGATIVE if negative else (),
                    )
                )
                continue
            spoken = _names(label, known.get(label), synonyms, names or {})
            rows.append(
                LabelPrompts(
                    label=label,
                    positive=tuple(_fill(text, name) for name in spoken for text in positive),
                    negative=tuple(_fill(text, name) for name in spoken for text in negative),
                )
            )
        return cls(prompts=tuple(rows))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(row.label for row in self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of all prompts in order: equal digests, equal prompts."""
        rows = [[row.label, row.positive, row.negative] for row in self.prompts]
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def lint(self) -> tuple[str, ...]:
        """What is wrong with the prompts, one line a problem; empty when all is well."""
        problems = [f"label-twice: {label}" for label in _repeated(self.labels)]
        seen: dict[str, tuple[str, str]] = {}
        for row in self.prompts:
            if row.negative and len(row.negative) != len(row.positive):
                problems.append(f"unbalanced: {row.label} has unequal numbers of prompts")
            for side, texts in (("positive", row.positive), ("negative", row.negative)):
                for text in texts:
                    problems.extend(_lint_text(row.label, side, text))
                    key = normal_text(text)
                    first = seen.setdefault(key, (row.label, side))
                    if key and first != (row.label, side):
                        problems.append(
                            f"duplicate: {text!r} is {first[1]} for {first[0]} "
                            f"and {side} for {row.label}"
                        )
                for key in _repeated(tuple(normal_text(text) for text in texts)):
                    problems.append(f"repeated: {row.label} has {key!r} twice")
        return tuple(problems)


def build_prompts(labels: Iterable[str]) -> PromptSet:
    """Prompts of labels with the default templates."""
    return PromptSet.from_labels(labels)


def _names(
    label: str, concept: Concept | None, synonyms: int, names: Mapping[str, str]
) -> tuple[str, ...]:
    name = names.get(label) or (concept.name if concept else label.replace("_", " "))
    return (name, *(concept.synonyms[:synonyms] if concept else ()))


def _fill(template: str, name: str) -> str:
    return template.replace("{name}", name).replace("{Name}", name[:1].upper() + name[1:])


def _lint_text(label: str, side: str, text: str) -> list[str]:
    plain = f" {normal_text(text)} "
    problems = []
    if not any(char.isalnum() for char in text):
        problems.append(f"empty: a {side} prompt of {label} has no words")
    if "{" in text or "}" in text:
        problems.append(f"unfilled: {text!r} of {label} still has a placeholder")
    for phrase in (" no no ", " no normal ", " not not ", " no without ", " evidence of no "):
        if phrase in plain:
            problems.append(f"double-negation: {text!r} of {label} says {phrase.strip()!r}")
    return problems


def _repeated(items: Sequence[str]) -> list[str]:
    return sorted({item for item in items if items.count(item) > 1})
