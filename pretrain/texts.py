"""The texts of the train samples: tokens, claims, roles and which ones a step shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int8
from torch import Tensor

from medvlp.batch import TextRole
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.positives import ClaimSlots, text_key
from medvlp.models.config import TextTowerConfig
from medvlp.models.spans import token_span
from medvlp.models.text import hf_tokenizer
from medvlp.models.tokens import TextTokenizer, train_wordpiece
from medvlp.types import Finding, Sample, Text

DOCUMENT_LEVELS = frozenset({"document", "findings", "impression"})
PART_LEVELS = frozenset({"step", "phase"})
"""Levels whose text holds for every part of their clip."""
_POLARITY = {"present": 1, "absent": -1, "uncertain": 0}


class Drawn(NamedTuple):
    """One text of a sample, as a row of the bank."""

    row: int
    role: TextRole
    time_s: float
    """When it begins; nan where it has no time."""
    sample: int
    """Number of the sample whose text it is: another one's where the role is PARENT."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The texts of one sample."""

    short: tuple[Drawn, ...]
    """Sentences, captions, narration."""
    long: tuple[Drawn, ...]
    """Documents and their sections."""


class TextBank:
    """Every distinct text once: ids, claims, key, mentions.

    Args:
        samples: Train samples.
        tokenizer: Of the model.
    """

    def __init__(self, samples: Sequence[Sample], tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.slots = ClaimSlots(load_concepts())
        rows: dict[str, int] = {}
        for sample in samples:
            for text in sample.texts:
                if text.text.strip():
                    rows.setdefault(text.text, len(rows))
        self.texts = tuple(rows)
        self.ids = [tokenizer.ids(text) for text in self.texts]
        self.cut = sum(tokenizer.truncated(self.texts))
        """Texts that do not fit into the text tower."""
        self.keys = torch.tensor([text_key(text) for text in self.texts], dtype=torch.long)
        findings = [extract_findings(text) for text in self.texts]
        claims = [self.slots.claims(found) for found in findings]
        self.claims: Int8[Tensor, "t k"] = torch.stack([torch.as_tensor(row) for row in claims])
        self._mentions = [
            self._spans(text, found) for text, found in zip(self.texts, findings, strict=True)
        ]
        children, number = _children(samples), {s.key: i for i, s in enumerate(samples)}
        self.choices = tuple(
            _choice(i, sample, children.get(sample.key, ()), rows)
            for i, sample in enumerate(samples)
        )
        self.parents = tuple(_parents(sample, samples, number, rows) for sample in samples)

    def draw(
        self,
        sample: int,
        count: int,
        document_share: float,
        rng: np.random.Generator,
        *,
        lead: bool = False,
        parents: bool = False,
    ) -> list[Drawn]:
        """Up to `count` distinct texts of one sample.

        Sentences first: each states one thing. Now and then a document or section takes the
        place of one, so that long texts are known too.

        Args:
            sample: Its number.
            count: Most texts.
            document_share: How often a long text is drawn where there are short ones too.
            rng: Decides which.
            lead: A clip's own text always comes, and first; then others in order of time.
            parents: After a clip's own text, those of the step and phase it lies in.
        """
        choice = self.choices[sample]
        if lead and choice.short and choice.short[0].role == TextRole.LEAD:
            first, *others = choice.short
            above = [p for p in self.parents[sample] if p.row != first.row] if parents else []
            above = above[: count - 1]
            kept = [others[i] for i in rng.permutation(len(others))[: count - 1 - len(above)]]
            return [first, *above, *sorted(kept, key=lambda text: (text.role, text.time_s))]
        short = [choice.short[i] for i in rng.permutation(len(choice.short))[:count]]
        room = count - len(short)
        if choice.long and (room or rng.random() < document_share):
            order = rng.permutation(len(choice.long))[: max(room, 1)]
            drawn = [choice.long[i] for i in order]
            short = short[: count - len(drawn)] + drawn
        return short

    def mentions(self, rows: Sequence[int]) -> Int[Tensor, "mentions 5"]:
        """Named concepts of some texts, as `Batch.mentions` wants them."""
        found = [(at, *one) for at, row in enumerate(rows) for one in self._mentions[row]]
        return torch.tensor(found, dtype=torch.long).reshape(-1, 5)

    def _spans(self, text: str, findings: Sequence[Finding]) -> list[tuple[int, int, int, int]]:
        offsets = self.tokenizer.offsets(text) if findings else []
        spans = []
        for finding in findings:
            place = token_span(offsets, finding.start, finding.end)
            if place is not None and finding.concept in self.slots.concepts:
                concept = self.slots.slot(finding.concept) // 3
                spans.append((*place, concept, _POLARITY[finding.polarity]))
        return spans


def _children(samples: Sequence[Sample]) -> dict[str, list[Text]]:
    """The own texts of the clips one level below a clip, in order of time."""
    children: dict[str, list[Text]] = {}
    for sample in samples:
        if sample.parent is not None and sample.kind == "clip" and sample.texts:
            children.setdefault(sample.parent, []).append(sample.texts[0])
    return {key: sorted(texts, key=_time) for key, texts in children.items()}


def _parents(
    sample: Sample, samples: Sequence[Sample], number: Mapping[str, int], rows: Mapping[str, int]
) -> tuple[Drawn, ...]:
    """The own texts of the step and phase that a clip lies in, the nearest first, each once."""
    found: dict[int, Drawn] = {}
    while sample.kind == "clip" and sample.parent is not None and sample.parent in number:
        at = number[sample.parent]
        sample = samples[at]
        text = sample.texts[0]
        if text.level in PART_LEVELS and text.text in rows:
            row = rows[text.text]
            found.setdefault(row, Drawn(row, TextRole.PARENT, _time(text), at))
    return tuple(found.values())


def _choice(
    number: int, sample: Sample, children: Sequence[Text], rows: Mapping[str, int]
) -> Choice:
    texts = [text for text in sample.texts if text.text in rows]
    if sample.kind == "clip" and texts:
        return Choice(_clip_texts(number, texts, children, rows), ())
    short: dict[int, Drawn] = {}
    long: dict[int, Drawn] = {}
    for text in texts:
        row = rows[text.text]
        if text.level in DOCUMENT_LEVELS:
            long[row] = Drawn(row, TextRole.DOCUMENT, _time(text), number)
        else:
            short[row] = Drawn(row, TextRole.PLAIN, _time(text), number)
    # A section of one sentence is that sentence.
    return Choice(
        tuple(short.values()), tuple(one for row, one in long.items() if row not in short)
    )


def _clip_texts(
    number: int, texts: Sequence[Text], children: Sequence[Text], rows: Mapping[str, int]
) -> tuple[Drawn, ...]:
    """A clip's own text, then what else was said or written of it, each text once."""
    lead = texts[0]
    drawn = {rows[lead.text]: Drawn(rows[lead.text], TextRole.LEAD, _time(lead), number)}
    for text in texts[1:]:
        heard = text.level == lead.level and text.source != lead.source
        role = TextRole.HEARD if heard else TextRole.CHILD
        drawn.setdefault(rows[text.text], Drawn(rows[text.text], role, _time(text), number))
    if not any(one.role == TextRole.CHILD for one in drawn.values()):
        for text in children:
            if text.text in rows:
                row = rows[text.text]
                drawn.setdefault(row, Drawn(row, TextRole.CHILD, _time(text), number))
    return tuple(drawn.values())


def _time(text: Text) -> float:
    return float("nan") if text.start_s is None else text.start_s


def build_tokenizer(config: TextTowerConfig, samples: Sequence[Sample]) -> TextTokenizer:
    """The tokenizer of a Hugging Face encoder, or a vocabulary of the train texts.

    The names of the known concepts are in the vocabulary too, so that a prompt about a finding
    that no train report mentions is still made of words.
    """
    if config.hf is not None:
        return hf_tokenizer(config)
    texts = [text.text for sample in samples for text in sample.texts]
    names = [phrase for concept in load_concepts().values() for phrase in concept.phrases]
    return train_wordpiece(
        [*texts, *names], vocabulary=config.vocabulary, max_tokens=config.max_tokens
    )
