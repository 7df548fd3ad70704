from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional

from medvlp.batch import TextRole
from medvlp.losses.fusion.matching import (
    Matching,
    draw_candidates,
    draw_negatives,
    matching_loss,
)
from medvlp.models.fusion import gather_visual


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-800, 800), st.booleans()), min_size=1, max_size=12))
def test_the_loss_equals_the_naive_loop(pairs):
    total = 0.0
    for logit, match in pairs:
        signed = logit if match else -logit
        total += math.log1p(math.exp(-signed)) if signed > -700 else -signed
    logits = torch.tensor([p[0] for p in pairs], dtype=torch.float64)
    got = matching_loss(logits, torch.tensor([p[1] for p in pairs]))
    assert got.item() == pytest.approx(total / len(pairs), rel=1e-9, abs=1e-12)


def test_gradcheck():
    match = torch.tensor([True, False, True])
    assert gradcheck(lambda x: matching_loss(x, match), (random(3).requires_grad_(),))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.sampled_from([None, 0.07, 1e-3]))
def test_a_pair_that_holds_or_is_unknown_is_never_a_negative(k, seed, temperature):
    torch.manual_seed(seed)
    target = torch.randint(-1, 2, (k, k), dtype=torch.int8)
    got = draw_candidates(random(k, k, seed=seed), target, temperature)
    assert got.rows[:k].tolist() == got.columns[:k].tolist() == list(range(k))
    assert got.match.tolist() == [True] * k + [False] * (len(got.match) - k)
    for row, column in zip(got.rows[k:].tolist(), got.columns[k:].tolist(), strict=True):
        assert target[row, column] == 0
        assert row != column
    allowed = (target == 0) & ~torch.eye(k, dtype=torch.bool)
    # One wrong text for every visual that has one, and one wrong visual for every text.
    texts = int(allowed.any(1).sum())
    assert got.rows[k : k + texts].tolist() == allowed.any(1).nonzero()[:, 0].tolist()
    assert got.columns[k + texts :].tolist() == allowed.any(0).nonzero()[:, 0].tolist()


def test_hard_negatives_are_drawn_in_proportion_to_the_softmax():
    torch.manual_seed(0)
    row = torch.tensor([0.3, 0.1, 0.9, 0.2], dtype=torch.float64)
    allowed = torch.tensor([True, True, False, True])
    times = 20_000
    drawn = draw_negatives(row.expand(times, 4), allowed.expand(times, 4), 0.2)
    weights = [math.exp(float(s) / 0.2) if a else 0.0 for s, a in zip(row, allowed, strict=True)]
    share = torch.bincount(drawn, minlength=4) / times
    for got, weight in zip(share.tolist(), weights, strict=True):
        assert got == pytest.approx(weight / sum(weights), abs=0.015)
    alike = draw_negatives(row.expand(times, 4), allowed.expand(times, 4), None)
    for got, wanted in zip(torch.bincount(alike, minlength=4) / times, allowed, strict=True):
        assert float(got) == pytest.approx(float(wanted) / 3, abs=0.015)


def test_a_hard_text_is_hard_for_its_visual_and_a_hard_visual_for_its_text():
    torch.manual_seed(0)
    similarity = torch.tensor([[1.0, 0.9, 0.1], [0.2, 1.0, 0.8], [0.1, 0.3, 1.0]])
    got = draw_candidates(similarity, torch.zeros(3, 3).long(), 1e-4)
    assert got.columns[3:6].tolist() == [1, 2, 1]  # largest of each row
    assert got.rows[6:].tolist() == [1, 0, 1]  # largest of each column


def test_huge_similarities_are_drawn_from():
    torch.manual_seed(0)
    similarity = torch.tensor([[1e30, -1e30, 0.0], [0.0, 1e30, 1e30]])
    allowed = torch.tensor([[False, True, True], [True, False, False]])
    assert draw_negatives(similarity, allowed, 0.01).tolist() == [2, 0]


def test_no_allowed_column_is_no_draw():
    assert draw_negatives(torch.zeros(1, 3), torch.zeros(1, 3).bool(), None).tolist() == [-1]


def build(**settings_) -> Matching:
    torch.manual_seed(3)
    return Matching(width=16, **settings_)


@torch.no_grad()
@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_the_objective_equals_pairs_fused_one_by_one(make_fused, negatives):
    scene = make_fused([2, 1, 3, 1], [2, 0, 1, 1], roles=[TextRole.DOCUMENT, 0, 0, 0])
    objective = build(negatives=negatives)
    torch.manual_seed(5)
    got = objective(scene)
    visuals, texts = [0, 2, 3], [1, 2, 3]
    e, batch, fusion = scene.embeddings, scene.batch, scene.model.fusion
    torch.manual_seed(5)
    similarity = e.visual[visuals] @ e.text[texts].T
    target = scene.target[visuals][:, texts]
    drawn = draw_candidates(similarity, target, 0.07 if negatives == "hard" else None)
    total, count = 0.0, 0
    for row, column, match in zip(*(x.tolist() for x in drawn), strict=True):
        start, end = batch.offsets[visuals[row]], batch.offsets[visuals[row] + 1]
        cells, there = gather_visual(e.patches[start:end], torch.tensor([0, end - start]), 3)
        length = int(batch.token_mask[texts[column]].sum())
        words = e.words[texts[column], :length][None]
        fused = fusion(cells, there, words, torch.ones(1, length, dtype=torch.bool), cells=9)
        logit = objective.head(torch.cat([fused.visual_cls, fused.word_cls], 1))
        total += float(functional.softplus(-logit if match else logit))
        count += 1
    assert count == 9
    assert got.item() == pytest.approx(total / count, abs=1e-6)


def test_the_draw_follows_the_random_state(make_fused):
    scene, objective = make_fused([1] * 6), build()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(objective(scene).item())
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_more_padding_changes_nothing(make_fused):
    scene, objective = make_fused([1, 2, 1]), build()
    torch.manual_seed(0)
    before = objective(scene)
    batch = scene.batch
    pad = functional.pad
    wider = replace(
        scene,
        batch=replace(
            batch, tokens=pad(batch.tokens, (0, 4)), token_mask=pad(batch.token_mask, (0, 4))
        ),
        embeddings=replace(scene.embeddings, words=pad(scene.embeddings.words, (0, 0, 0, 4))),
    )
    torch.manual_seed(0)
    assert objective(wider).item() == pytest.approx(before.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("lengths", "texts", "target"),
    [
        ([2], [1], None),
        ([1, 1], [0, 0], None),
        ([1, 1], [1, 1], [[1, 1], [1, 1]]),
        ([1, 1], [1, 1], [[1, -1], [-1, 1]]),
    ],
)
def test_without_a_negative_the_loss_and_its_gradient_are_zero(make_fused, lengths, texts, target):
    scene = make_fused(lengths, texts, target=target)
    loss = build()(scene)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in scene.model.fusion.parameters())


def test_documents_are_no_negatives_where_sentences_are_the_positives(make_fused, monkeypatch):
    """Or the length of a text alone would tell that it does not match."""
    scene = make_fused([1] * 4, [2] * 4, roles=[TextRole.DOCUMENT, 0] * 4)
    seen = []
    module = importlib.import_module("medvlp.losses.fusion.matching")
    fuse = module.fuse
    monkeypatch.setattr(module, "fuse", lambda *a, **k: (seen.extend(a[3].tolist()), fuse(*a))[1])
    for seed in range(5):
        torch.manual_seed(seed)
        build(negatives="random")(scene)
    assert set(seen) == {1, 3, 5, 7}


def test_gradients_reach_the_towers_and_matching_is_learnt(make_fused, embed_again):
    scene, objective = make_fused([1, 2, 1, 1], words=[[5], [9, 41], [20], [30]]), build()
    parameters = [*objective.parameters(), *scene.model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for step in range(30):
        torch.manual_seed(step)
        loss = objective(embed_again(scene))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert scene.model.frames.network.stages[0][0].weight.grad.abs().max() > 0
    assert scene.model.word_projection.weight.grad.abs().max() > 0
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_patches_in_half_precision_are_taken(make_fused):
    scene = make_fused([1, 2])
    half = replace(scene.embeddings, patches=scene.embeddings.patches.bfloat16())
    loss = build()(replace(scene, embeddings=half))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
