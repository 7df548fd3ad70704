from __future__ import annotations

import numpy as np
import torch

from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.positives import ClaimSlots
from medvlp.models.tokens import train_wordpiece
from pretrain.statements import CLAIMS, DENIALS, Statements

SLOTS = ClaimSlots(load_concepts())


def _stated(**known):
    """Rows of a table: concept -> one value a sample."""
    size = len(next(iter(known.values())))
    table = torch.zeros(size, len(SLOTS), dtype=torch.int8)
    for concept, values in known.items():
        table[:, SLOTS.slot(concept)] = torch.tensor(values, dtype=torch.int8)
    return table


def _tokenizer():
    names = [phrase for concept in load_concepts().values() for phrase in concept.phrases]
    return train_wordpiece([*names, *CLAIMS, *DENIALS], vocabulary=2000, max_tokens=32)


def test_only_concepts_that_some_have_and_some_lack_are_asked():
    stated = _stated(nodule=[1] * 5 + [-1] * 5, mass=[1] * 10, emphysema=[-1] * 9 + [1])
    statements = Statements(SLOTS, stated, _tokenizer())
    assert statements.slots.tolist() == [SLOTS.slot("nodule")]


def test_claims_come_first_then_denials_and_the_words_vary():
    stated = _stated(nodule=[1] * 5 + [-1] * 5, mass=[1] * 5 + [-1] * 5)
    statements = Statements(SLOTS, stated, _tokenizer())
    rng = np.random.default_rng(0)
    drawn = [statements.draw(rng).ids for _ in range(8)]
    assert all(len(ids) == 4 for ids in drawn)
    assert len({tuple(ids.flatten().tolist()) for ids in drawn}) > 1


def test_nothing_known_means_nothing_asked():
    statements = Statements(SLOTS, _stated(nodule=[0, 0]), _tokenizer())
    assert statements.draw(np.random.default_rng(0)) is None


def test_the_templates_say_what_they_are_meant_to_say():
    for templates, polarity in ((CLAIMS, "present"), (DENIALS, "absent")):
        for template in templates:
            text = template.replace("{name}", "pleural effusion").replace(
                "{Name}", "Pleural effusion"
            )
            assert [(f.concept, f.polarity) for f in extract_findings(text)] == [
                ("pleural_effusion", polarity)
            ], text
