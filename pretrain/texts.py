"""The texts of the train samples: tokens, claims and which ones a step shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int8
from torch import Tensor

from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.positives import ClaimSlots, text_key
from medvlp.models.config import TextTowerConfig
from medvlp.models.text import hf_tokenizer
from medvlp.models.tokens import TextTokenizer, train_wordpiece
from medvlp.types import Sample

DOCUMENT_LEVELS = frozenset({"document", "findings", "impression"})


@dataclass(frozen=True, slots=True)
class Choice:
    """The texts of one sample as rows of the bank."""

    short: tuple[int, ...]
    """Sentences, captions, narration."""
    long: tuple[int, ...]
    """Documents and their sections."""


class TextBank:
    """Every distinct text once: ids, claims, key.

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
        self.keys = torch.tensor([text_key(text) for text in self.texts], dtype=torch.long)
        claims = [self.slots.claims(extract_findings(text)) for text in self.texts]
        self.claims: Int8[Tensor, "t k"] = torch.stack([torch.as_tensor(row) for row in claims])
        self.choices = tuple(_choice(sample, rows) for sample in samples)

    def draw(
        self, sample: int, count: int, document_share: float, rng: np.random.Generator
    ) -> list[int]:
        """Rows of up to `count` distinct texts of one sample.

        Sentences first: each states one thing. Now and then a document or section takes the
        place of one, so that long texts are known too.
        """
        choice = self.choices[sample]
        short = list(rng.permutation(choice.short)[:count]) if choice.short else []
        room = count - len(short)
        if choice.long and (room or rng.random() < document_share):
            drawn = list(rng.permutation(choice.long)[: max(room, 1)])
            short = short[: count - len(drawn)] + drawn
        return [int(row) for row in short]


def _choice(sample: Sample, rows: Mapping[str, int]) -> Choice:
    short: dict[int, None] = {}
    long: dict[int, None] = {}
    for text in sample.texts:
        if text.text in rows:
            (long if text.level in DOCUMENT_LEVELS else short)[rows[text.text]] = None
    # A section of one sentence is that sentence.
    return Choice(tuple(short), tuple(row for row in long if row not in short))


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
