"""What is asked of every visual: sentences of the knowledge book about concepts and regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Int, Int8
from torch import Tensor

from medvlp.batch import Asked, QuestionRole
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.facets import load_facets
from medvlp.knowledge.positives import ClaimSlots
from medvlp.knowledge.regions import load_regions
from medvlp.knowledge.relations import relations
from medvlp.models.tokens import TextTokenizer
from medvlp.types import Finding

# Not the templates of evaluation prompts: those are to be met there for the first time.
CLAIMS = ("{Name}.", "{Name} is seen.", "The image shows {name}.", "Findings of {name}.")
DENIALS = (
    "{Name} is absent.",
    "No {name} is seen.",
    "The image shows no {name}.",
    "Without {name}.",
)
PLACES = ("{Name}.", "It is located at the {name}.", "In the {name}.")

_SYNONYMS = 3
"""How many synonyms of a concept are used beside its name."""
_AT_LEAST = 5
"""A concept or region is asked about if so many train samples have it (and, of concepts, so many
lack it)."""


class Questions:
    """The concepts and regions that the training data can answer, and how they are put in words.

    Args:
        slots: Of the claims.
        stated: What is known of each training sample.
        findings: Of each training sample.
        tokenizer: Of the model.
        roles: Which questions to ask.
        facet_drop: Probability that a facet of a concept is left out of a step.
    """

    def __init__(
        self,
        slots: ClaimSlots,
        stated: Int8[Tensor, "n k"],
        findings: Sequence[Sequence[Finding]],
        tokenizer: TextTokenizer,
        roles: Iterable[QuestionRole],
        *,
        facet_drop: float = 0.3,
    ) -> None:
        self.roles = tuple(sorted(roles))
        self._tokenizer = tokenizer
        self._facet_drop = facet_drop
        some = ((stated == 1).sum(0) >= _AT_LEAST) & ((stated == -1).sum(0) >= _AT_LEAST)
        self.concepts = tuple(c for c in slots.concepts if bool(some[slots.slot(c)]))
        self.slots: Int[Tensor, " s"] = torch.tensor(
            [slots.slot(concept) for concept in self.concepts], dtype=torch.long
        )
        placed = QuestionRole.REGION in self.roles and len(self.concepts) > 0
        self.regions, self.relations = self._relations(findings if placed else [])
        book = load_concepts()
        spoken = [(book[c].name, *book[c].synonyms[:_SYNONYMS]) for c in self.concepts]
        where = [load_regions()[name] for name in self.regions]
        places = [(region.name, *region.synonyms[:_SYNONYMS]) for region in where]
        self._fixed: dict[QuestionRole, list[list[list[int]]]] = {
            QuestionRole.CLAIM: [self._variants(CLAIMS, names) for names in spoken],
            QuestionRole.DENIAL: [self._variants(DENIALS, names) for names in spoken],
            QuestionRole.REGION: [self._variants(PLACES, names) for names in places],
        }

    def draw(self, chosen: Sequence[int], rng: np.random.Generator) -> Asked | None:
        """The questions of one step, in words drawn anew; None if there is nothing to ask.

        Args:
            chosen: Numbers of the samples of the batch.
            rng: Decides the words.
        """
        rows: list[tuple[list[int], QuestionRole, int]] = []
        for role in self.roles:
            rows += [(ids, role, subject) for subject, ids in self._asked(role, rng)]
        if not rows:
            return None
        tokens = self._tokenizer.pad([ids for ids, _, _ in rows])
        return Asked(
            tokens=tokens.ids,
            mask=tokens.mask,
            role=torch.tensor([role for _, role, _ in rows]),
            subject=torch.tensor([subject for _, _, subject in rows]),
            slots=self.slots,
            relations=torch.zeros(len(chosen), len(self.concepts), 0, dtype=torch.int8)
            if self.relations is None
            else self.relations[list(chosen)],
        )

    def _asked(
        self, role: QuestionRole, rng: np.random.Generator
    ) -> Iterable[tuple[int, list[int]]]:
        if role in self._fixed:
            for subject, variants in enumerate(self._fixed[role]):
                yield subject, variants[int(rng.integers(len(variants)))]
            return
        book = load_facets()
        for subject, concept in enumerate(self.concepts):
            if role == QuestionRole.NAME:
                texts = [_pick(self._names(concept), rng)]
            else:
                texts = list(book.facet_texts(concept, rng, drop=self._facet_drop))
            for text in texts:
                yield subject, self._tokenizer.ids(text)

    def _names(self, concept: str) -> tuple[str, ...]:
        """A concept by name, by synonym or by definition."""
        known = load_concepts()[concept]
        names = (known.name, *known.synonyms[:_SYNONYMS])
        return (*(name[:1].upper() + name[1:] + "." for name in names),
                *load_facets().definitions(concept))  # fmt: skip

    def _relations(
        self, findings: Sequence[Sequence[Finding]]
    ) -> tuple[tuple[str, ...], Int8[Tensor, "n s r"] | None]:
        """The regions in which enough samples have something, and what is where in each sample."""
        if not findings:
            return (), None
        names = tuple(load_regions())
        table = torch.from_numpy(
            np.stack([relations(tuple(row), self.concepts, names) for row in findings])
        )
        used = (table == 1).any(1).sum(0) >= _AT_LEAST
        kept = tuple(name for name, keep in zip(names, used.tolist(), strict=True) if keep)
        return kept, table[:, :, used]

    def _variants(self, templates: Iterable[str], names: Iterable[str]) -> list[list[int]]:
        return [
            self._tokenizer.ids(_filled(template, name)) for template in templates for name in names
        ]


def _filled(template: str, name: str) -> str:
    return template.replace("{name}", name).replace("{Name}", name[:1].upper() + name[1:])


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
