"""Sentences that claim and that deny each concept, made from the knowledge book."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int, Int8
from torch import Tensor

from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.positives import ClaimSlots
from medvlp.models.tokens import TextTokenizer, Tokens

# Not the templates of evaluation prompts: those are to be met there for the first time.
CLAIMS = ("{Name}.", "{Name} is seen.", "The image shows {name}.", "Findings of {name}.")
DENIALS = (
    "{Name} is absent.",
    "No {name} is seen.",
    "The image shows no {name}.",
    "Without {name}.",
)


class Statements:
    """What is asked of every visual: the concepts that the training data can answer.

    Args:
        slots: Of the claims.
        stated: What is known of each training sample.
        tokenizer: Of the model.
        at_least: A concept takes part if so many samples have it and so many lack it.
        synonyms: How many synonyms of a concept are used beside its name.
    """

    def __init__(
        self,
        slots: ClaimSlots,
        stated: Int8[Tensor, "n k"],
        tokenizer: TextTokenizer,
        *,
        at_least: int = 5,
        synonyms: int = 3,
    ) -> None:
        some = ((stated == 1).sum(0) >= at_least) & ((stated == -1).sum(0) >= at_least)
        concepts = [name for name in slots.concepts if bool(some[slots.slot(name)])]
        self.slots: Int[Tensor, " c"] = torch.tensor(
            [slots.slot(name) for name in concepts], dtype=torch.long
        )
        self._tokenizer = tokenizer
        book = load_concepts()
        names = [(book[name].name, *book[name].synonyms[:synonyms]) for name in concepts]
        self._claims = [self._variants(CLAIMS, spoken) for spoken in names]
        self._denials = [self._variants(DENIALS, spoken) for spoken in names]

    def draw(self, rng: np.random.Generator) -> Tokens | None:
        """One claim a concept, then one denial a concept, in words drawn anew."""
        rows = [
            variants[int(rng.integers(len(variants)))]
            for side in (self._claims, self._denials)
            for variants in side
        ]
        return self._tokenizer.pad(rows) if rows else None

    def _variants(self, templates: tuple[str, ...], names: tuple[str, ...]) -> list[list[int]]:
        return [
            self._tokenizer.ids(
                template.replace("{name}", name).replace("{Name}", name[:1].upper() + name[1:])
            )
            for template in templates
            for name in names
        ]
