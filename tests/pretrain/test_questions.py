from __future__ import annotations

import numpy as np
import torch

from medvlp.batch import QuestionRole
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.positives import ClaimSlots
from medvlp.knowledge.regions import load_regions
from medvlp.models.tokens import train_wordpiece
from medvlp.types import Finding
from pretrain.questions import CLAIMS, DENIALS, Questions

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


def _questions(stated, *roles, findings=None):
    rows = [()] * len(stated) if findings is None else findings
    return Questions(SLOTS, stated, rows, _tokenizer(), roles)


def _some():
    return _stated(nodule=[1] * 5 + [-1] * 5, mass=[1] * 5 + [-1] * 5)


def test_only_concepts_that_some_have_and_some_lack_are_asked():
    stated = _stated(nodule=[1] * 5 + [-1] * 5, mass=[1] * 10, emphysema=[-1] * 9 + [1])
    questions = _questions(stated, QuestionRole.CLAIM)
    assert questions.slots.tolist() == [SLOTS.slot("nodule")]


def test_claims_come_first_then_denials_and_the_words_vary():
    questions = _questions(_some(), QuestionRole.DENIAL, QuestionRole.CLAIM)
    rng = np.random.default_rng(0)
    drawn = [questions.draw([0], rng) for _ in range(8)]
    assert all(asked.role.tolist() == [0, 0, 1, 1] for asked in drawn)
    assert all(asked.subject.tolist() == [0, 1, 0, 1] for asked in drawn)
    assert len({tuple(asked.tokens.flatten().tolist()) for asked in drawn}) > 1


def test_a_claim_claims_its_concept_and_a_denial_denies_it():
    questions = _questions(_some(), QuestionRole.CLAIM, QuestionRole.DENIAL)
    rng, tokenizer = np.random.default_rng(0), _tokenizer()
    for _ in range(20):
        asked = questions.draw([0], rng)
        rows = zip(asked.role.tolist(), asked.subject.tolist(), asked.tokens, asked.mask,
                   strict=True)  # fmt: skip
        for role, subject, tokens, mask in rows:
            concept = load_concepts()[questions.concepts[subject]]
            templates = CLAIMS if role == QuestionRole.CLAIM else DENIALS
            said = [
                tokenizer.ids(t.replace("{name}", n).replace("{Name}", n[:1].upper() + n[1:]))
                for t in templates
                for n in (concept.name, *concept.synonyms)
            ]
            assert tokens[mask.bool()].tolist() in said


def test_nothing_known_means_nothing_asked():
    questions = _questions(_stated(nodule=[0, 0]), *QuestionRole)
    assert questions.draw([0], np.random.default_rng(0)) is None
    assert _questions(_some()).draw([0], np.random.default_rng(0)) is None


def test_facets_belong_to_their_concept_and_one_is_always_left():
    questions = _questions(_some(), QuestionRole.FACET)
    for step in range(20):
        asked = questions.draw([0], np.random.default_rng(step))
        assert set(asked.subject.tolist()) == {0, 1}
        assert set(asked.role.tolist()) == {QuestionRole.FACET}


def test_relations_are_those_of_the_samples_of_the_batch():
    right = Finding("nodule", "nodule", "present", anatomy="upper_lobe", side="right")
    findings = [(right,)] * 5 + [(Finding("nodule", "nodule", "absent"),)] * 5
    questions = _questions(_some(), QuestionRole.NAME, QuestionRole.REGION, findings=findings)
    assert "right_upper_lobe" in questions.regions
    asked = questions.draw([7, 0], np.random.default_rng(0))
    where = questions.regions.index("right_upper_lobe")
    nodule = questions.concepts.index("nodule")
    assert asked.relations[:, nodule, where].tolist() == [-1, 1]
    assert asked.relations.shape == (2, len(questions.concepts), len(questions.regions))
    assert len(questions.regions) < len(load_regions())
    assert len(asked.rows(QuestionRole.REGION)) == len(questions.regions)


def test_the_templates_say_what_they_are_meant_to_say():
    for templates, polarity in ((CLAIMS, "present"), (DENIALS, "absent")):
        for template in templates:
            text = template.replace("{name}", "pleural effusion").replace(
                "{Name}", "Pleural effusion"
            )
            assert [(f.concept, f.polarity) for f in extract_findings(text)] == [
                ("pleural_effusion", polarity)
            ], text
