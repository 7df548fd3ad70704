from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medvlp.batch import QuestionRole, TextRole
from medvlp.errors import ConfigError
from medvlp.losses.fusion.pairs import (
    frozen_statistics,
    fusion_of,
    named_concepts,
    own_pairs,
    trimmed,
)

PLAIN, DOCUMENT, LEAD = TextRole.PLAIN, TextRole.DOCUMENT, TextRole.LEAD


@pytest.mark.parametrize(
    ("texts", "roles", "visuals", "wanted"),
    [
        ([2, 1], [DOCUMENT, PLAIN, LEAD], [0, 1], [1, 2]),
        ([2, 1], [DOCUMENT, DOCUMENT, DOCUMENT], [0, 1], [0, 2]),
        ([0, 2, 0], [PLAIN, PLAIN], [1], [0]),
        ([3, 0, 1], [DOCUMENT, LEAD, PLAIN, DOCUMENT], [0, 2], [1, 3]),
    ],
)
def test_the_first_text_that_is_no_document(make_scene, texts, roles, visuals, wanted):
    m, b = len(roles), len(texts)
    batch = make_scene([1] * b, [[0]] * m, [[0] * m] * b, texts=texts, roles=roles).batch
    pairs = own_pairs(batch)
    assert pairs.visuals.tolist() == visuals
    assert pairs.texts.tolist() == wanted
    assert own_pairs(replace(batch, text_role=None)).visuals.tolist() == visuals


def test_without_texts_there_are_no_pairs(make_fused):
    pairs = own_pairs(make_fused([1, 2], [0, 0]).batch)
    assert len(pairs.visuals) == len(pairs.texts) == 0


def test_a_model_without_fusion_is_refused(make_fused):
    scene = make_fused([1, 1])
    scene.model.fusion = None
    with pytest.raises(ConfigError, match="fusion"):
        fusion_of(scene)


def test_trimming_takes_away_only_what_is_padding_everywhere():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    words, kept = trimmed(torch.ones(2, 4, 3), mask)
    assert words.shape == (2, 3, 3)
    assert torch.equal(kept, mask[:, :3])


def test_a_masked_batch_leaves_no_trace_in_the_running_statistics(make_fused):
    scene = make_fused([2, 1])
    model, batch = scene.model, scene.batch
    norms = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    inputs = batch.frames, batch.offsets, batch.positions, batch.kind
    with frozen_statistics(model):
        quiet = model.encode_visual(*inputs, tokens=True).patches
        model.encode_words(batch.tokens, batch.token_mask)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in norms.items())
    again = model.encode_visual(*inputs, tokens=True).patches
    assert torch.equal(quiet, again)
    assert not all(torch.equal(model.state_dict()[k], v) for k, v in norms.items())


def test_momenta_come_back_after_an_error(make_model):
    model = make_model()
    with pytest.raises(RuntimeError), frozen_statistics(model):
        raise RuntimeError
    assert model.visual_norm.momentum == 0.1


def test_a_concept_with_several_names_counts_by_their_mean(make_scene):
    asked = [(QuestionRole.CLAIM, 0), (QuestionRole.NAME, 0), (QuestionRole.NAME, 1)]
    asked += [(QuestionRole.NAME, 0), (QuestionRole.REGION, 0)]
    scene = make_scene(
        [1], [[0] * 6], [[1]], asked=asked, mentions=[[0, 1, 2, 0, 1], [0, 3, 4, 1, -1]]
    )
    got = named_concepts(scene, torch.tensor([0]), 5, None)
    questions = scene.questions
    assert torch.allclose(got.vectors[0, 0], (questions[1] + questions[3]) / 2)
    assert torch.allclose(got.vectors[0, 1], questions[2])
    no_names = make_scene(
        [1], [[0] * 3], [[1]], asked=[(QuestionRole.CLAIM, 0)], mentions=[[0, 1, 2, 0, 1]]
    )
    assert named_concepts(no_names, torch.tensor([0]), 5, None) is None
    assert named_concepts(replace(scene, questions=None), torch.tensor([0]), 5, None) is None
