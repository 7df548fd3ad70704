from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.fusion.prompt_pools import Padded, PromptPools, replace_rows, select_prompts


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 8), st.integers(0, 100))
def test_the_largest_products_are_taken_in_order(k, n, count, seed):
    query, pool = random(k, 3, seed=seed), random(n, 3, seed=seed + 1)
    got = select_prompts(query, pool, count)
    for i in range(k):
        scores = [sum(float(a) * float(b) for a, b in zip(query[i], p, strict=True)) for p in pool]
        best = sorted(range(n), key=lambda j: -scores[j])[:count]
        assert torch.allclose(got[i], pool[best], atol=1e-12)


def test_the_query_has_the_gradient_of_a_soft_choice():
    """PTUnifier's top-k passes none."""
    query, pool = random(1, 3).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    weight = random(2, 3, seed=2)
    (select_prompts(query, pool, 2)[0] * weight).sum().backward()
    scores = [float(query[0].detach() @ p) for p in pool.detach()]
    share = [math.exp(s) / sum(math.exp(t) for t in scores) for s in scores]
    mean = sum(s * p for s, p in zip(share, pool.detach(), strict=True))
    best = sorted(range(5), key=lambda j: -scores[j])[:2]
    wanted = sum(
        float(weight[r] @ pool[j].detach()) * (pool[j].detach() - mean) for r, j in enumerate(best)
    )
    assert wanted.abs().max() > 0.01
    assert torch.allclose(query.grad[0], wanted, atol=1e-12)
    assert (pool.grad.abs().sum(1) > 0).all()


def test_the_gradient_to_the_pool_is_exact_where_the_choice_is_fixed():
    pool = random(3, 2).requires_grad_()
    query = torch.zeros(1, 2, dtype=torch.float64)  # all the same: the gate has no gradient here
    assert gradcheck(lambda p: select_prompts(query, p, 3).sum(1), (pool,))


def test_huge_products_are_finite():
    query, pool = (1e20 * random(1, 3)).requires_grad_(), random(5, 3, seed=1)
    out = select_prompts(query, pool, 2)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_swapping_a_half_for_prompts_keeps_shapes_and_masks(count):
    mask = torch.tensor([[True, True, True], [True, False, False]])
    real, prompts = Padded(random(2, 3, 4), mask), random(2, count, 4, seed=1)
    got = replace_rows(real, prompts, torch.tensor([False, True]))
    size = max(3, count)
    assert got.tokens.shape == (2, size, 4)
    assert got.mask[0].tolist() == [True] * 3 + [False] * (size - 3)
    assert got.mask[1].tolist() == [True] * count + [False] * (size - count)
    assert torch.equal(got.tokens[0, :3], real.tokens[0])
    assert torch.equal(got.tokens[1, :count], prompts[1])


def test_the_mean_leaves_padding_out():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    got = Padded(random(2, 3, 4), mask).mean()
    assert torch.allclose(got[0], random(2, 3, 4)[0, :2].mean(0))
    assert (got[1] == 0).all()


def build(**settings_) -> PromptPools:
    torch.manual_seed(3)
    small = {
        "visual_pool": 12, "text_pool": 10, "visual_prompts": 4, "text_prompts": 3, **settings_
    }  # fmt: skip
    return PromptPools(embed_dim=8, width=16, **small)


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({}, {"matching", "contrast"}),
        ({"matching": 0.0}, {"contrast"}),
        ({"contrast": 0.0}, {"matching"}),
    ],
)
def test_every_configured_part_appears_in_the_loss(make_fused, weights, names):
    """PTUnifier's contrast was configured and never ran: its name was tested against another."""
    scene, objective = make_fused([1, 2, 1]), build(**weights)
    torch.manual_seed(0)
    parts = objective.parts(scene)
    assert set(parts) == names
    assert all(part.item() > 0 for part in parts.values())
    torch.manual_seed(0)
    wanted = sum({"matching": 0.5, "contrast": 0.1}[name] * part for name, part in parts.items())
    assert objective(scene).item() == pytest.approx(float(wanted.detach()), abs=1e-6)


def test_gradients_reach_both_pools_and_everything_else(make_fused):
    scene, objective = make_fused([1, 2, 1]), build()
    torch.manual_seed(0)
    objective(scene).backward()
    none = [name for name, p in objective.named_parameters() if p.grad is None]
    assert none == []
    assert objective.visual_pool.grad.abs().max() > 0
    assert objective.text_pool.grad.abs().max() > 0
    assert scene.model.frames.network.stages[0][0].weight.grad.abs().max() > 0


@torch.no_grad()
def test_in_the_contrast_each_side_sees_its_own_half_only(make_fused):
    """If the text's vector knew the visual, the pair would be solved without learning."""
    scene, objective = make_fused([1, 2, 1]), build(matching=0.0)
    fuse = importlib.import_module("medvlp.losses.fusion.prompt_pools").fuse
    e = scene.embeddings
    changed = [
        replace(e, patches=e.patches.flip(0)),
        replace(e, words=e.words.flip(0)),
    ]
    outputs = []
    module = importlib.import_module("medvlp.losses.fusion.prompt_pools")
    for embeddings in (e, *changed):
        calls: list = []

        def remember(*args, calls=calls):
            calls.append(fuse(*args))
            return calls[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "fuse", remember)
            objective(replace(scene, embeddings=embeddings))
        seen, read = calls
        outputs.append((seen.visual_cls, read.word_cls))
    assert torch.allclose(outputs[0][1], outputs[1][1], atol=1e-6)
    assert not torch.allclose(outputs[0][0], outputs[1][0], atol=1e-4)
    assert torch.allclose(outputs[0][0], outputs[2][0], atol=1e-6)
    assert not torch.allclose(outputs[0][1], outputs[2][1], atol=1e-4)


def slow_nce(logits, target):
    total, rows = 0.0, 0
    for i in range(len(target)):
        known = [math.exp(float(logits[i, j])) for j in range(len(target)) if target[i][j] >= 0]
        own = [float(logits[i, j]) for j in range(len(target)) if target[i][j] == 1]
        if own:
            total += sum(math.log(sum(known)) - s for s in own) / len(own)
            rows += 1
    return total / rows


@torch.no_grad()
def test_the_contrast_equals_its_formula(make_fused):
    target = [[1, -1, 0], [-1, 1, 1], [0, 1, 1]]
    scene, objective = make_fused([1, 1, 1], target=target), build(matching=0.0)
    scene.model.eval()
    fusion, e = scene.model.fusion, scene.embeddings
    logits = torch.zeros(3, 3)
    vectors = []
    for i in range(3):
        planes = e.patches[i].T.reshape(1, 8, 8, 8)
        cells = torch.nn.functional.adaptive_avg_pool2d(planes, 3).flatten(2).transpose(1, 2)
        length = int(scene.batch.token_mask[i].sum())
        words = e.words[i : i + 1, :length]
        for_words = select_prompts(cells.mean(1), objective.text_pool, 3)
        for_visual = select_prompts(words.mean(1), objective.visual_pool, 4)
        true = [torch.ones(1, size, dtype=torch.bool) for size in (9, 3, 4, length)]
        seen = fusion(cells, true[0], for_words, true[1], cells=9).visual_cls[0]
        read = fusion(for_visual, true[2], words, true[3], cells=9).word_cls[0]
        seen, read = objective.visual_projection(seen), objective.text_projection(read)
        vectors.append((seen / seen.norm(), read / read.norm()))
    for i in range(3):
        for j in range(3):
            logits[i, j] = objective.scale() * vectors[i][0] @ vectors[j][1]
    rows = slow_nce(logits, target)
    columns = slow_nce(logits.T, [list(column) for column in zip(*target, strict=True)])
    got = objective.parts(scene)["contrast"]
    assert got.item() == pytest.approx((rows + columns) / 2, abs=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_matching_runs_on_whole_and_on_halved_pairs(make_fused, dropout):
    scene, objective = make_fused([1, 2, 1]), build(dropout=dropout, contrast=0.0)
    torch.manual_seed(0)
    objective(scene).backward()
    touched = objective.text_pool.grad is not None and objective.text_pool.grad.abs().max() > 0
    touched = touched or bool(objective.visual_pool.grad.abs().max() > 0)
    assert touched == (dropout == 1.0)


def test_the_draw_follows_the_random_state(make_fused):
    scene, objective = make_fused([1] * 5), build()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(objective(scene).item())
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_degenerate_batches(make_fused):
    nothing = build()(make_fused([1, 2], [0, 0]))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.isfinite(build()(make_fused([2])))
    same = make_fused([1, 1], target=[[1, 1], [1, 1]])
    loss = build()(same)
    loss.backward()
    assert torch.isfinite(loss)


def test_a_report_that_is_missing_is_stood_in_for_by_half_precision_patches_too(make_fused):
    scene = make_fused([1, 2])
    half = replace(scene.embeddings, patches=scene.embeddings.patches.bfloat16())
    assert torch.isfinite(build(dropout=1.0)(replace(scene, embeddings=half)))
