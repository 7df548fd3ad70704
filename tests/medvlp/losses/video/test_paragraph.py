from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.losses.video import paragraph
from medvlp.losses.video.levels import table_of
from medvlp.losses.video.paragraph import (
    alignment,
    bucket_value,
    frame_word_similarity,
    fused_similarity,
    paragraph_scores,
    rescaled,
)


def plan_of(score, value, epsilon, iterations):
    """Sinkhorn of one pair with its bucket, entry by entry; the bucket dropped, mass 1."""
    n, m = len(score), len(score[0])
    wide = [[*row, value] for row in score] + [[value] * (m + 1)]
    plan = [[math.exp(s / epsilon) for s in row] for row in wide]
    rows, columns = [1.0] * n + [float(m)], [1.0] * m + [float(n)]
    for _ in range(iterations):
        plan = [[x * want / sum(row) for x in row] for row, want in zip(plan, rows, strict=True)]
        sums = [sum(row[j] for row in plan) for j in range(m + 1)]
        plan = [[x * columns[j] / sums[j] for j, x in enumerate(row)] for row in plan]
    kept = [row[:m] for row in plan[:n]]
    mass = sum(map(sum, kept))
    return [[x / mass for x in row] for row in kept]


def case(seed, a=3):
    draw = torch.Generator().manual_seed(seed)
    frames = torch.randint(1, 5, (a,), generator=draw)
    texts = torch.randint(1, 5, (a,), generator=draw)
    similarity = torch.rand(int(frames.sum()), int(texts.sum()), generator=draw).double()
    return similarity, *(table_of(torch.arange(a).repeat_interleave(x), a) for x in (frames, texts))


def rows_of(table, i):
    return table.row[i][table.there[i]].tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), epsilon=st.sampled_from([0.1, 0.5]))
def test_scores_equal_the_loop_over_videos_and_paragraphs(seed, epsilon):
    similarity, frames, texts = case(seed)
    value = torch.tensor(0.4, dtype=torch.float64)
    scores = paragraph_scores(similarity, frames, texts, value, epsilon=epsilon, iterations=20)
    for i in range(3):
        for k in range(3):
            own = similarity[rows_of(frames, i)][:, rows_of(texts, k)].tolist()
            plan = plan_of(own, 0.4, epsilon, 20)
            expected = sum(
                q * s for x, y in zip(plan, own, strict=True) for q, s in zip(x, y, strict=True)
            )
            assert scores[i, k].item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.1, 1.0]))
def test_words_are_compared_by_soft_maximum_and_mean(seed, alpha):
    draw = torch.Generator().manual_seed(seed)
    frames = torch.nn.functional.normalize(torch.randn(3, 4, generator=draw).double(), dim=1)
    words = torch.randn(2, 5, 4, generator=draw).double()
    mask = torch.rand(2, 5, generator=draw) < 0.6
    mask[:, 0] = True
    best, mean = [], []
    for frame in frames.tolist():
        cosines = [
            [
                sum(a * c for a, c in zip(frame, w, strict=True)) / math.hypot(*w)
                for w, on in zip(text, there, strict=True)
                if on
            ]
            for text, there in zip(words.tolist(), mask.tolist(), strict=True)
        ]
        best.append([alpha * math.log(sum(math.exp(x / alpha) for x in row)) for row in cosines])
        mean.append([sum(row) / len(row) for row in cosines])

    def scaled(table):
        flat = [x for row in table for x in row]
        return [[(x - min(flat)) / (max(flat) - min(flat)) for x in row] for row in table]

    expected = (torch.tensor(scaled(best)) + torch.tensor(scaled(mean))) / 2
    fine = frame_word_similarity(frames, words, mask, alpha)
    assert torch.allclose(fine, expected.double(), atol=1e-6)
    words[~mask] = 1e3
    assert torch.equal(fine, frame_word_similarity(frames, words, mask, alpha))


def test_a_text_without_words_is_no_nan():
    words = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    fine = frame_word_similarity(torch.randn(2, 4), words * mask[..., None], mask, 1.0)
    fine.sum().backward()
    assert torch.isfinite(fine).all()
    assert torch.isfinite(words.grad).all()
    assert words.grad[1].abs().max() == 0


def test_the_fused_similarity_weighs_the_cosine_by_a_half():
    cosines = torch.tensor([[0.0, 1.0], [0.5, -1.0]])
    fine = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(
        fused_similarity(cosines, fine, 0.5),
        torch.tensor([[0.25 + 1, 0.5], [0.375, 0.0]]) / 1.5,
    )
    assert torch.equal(fused_similarity(cosines, None, 0.5), rescaled(cosines))


def test_equal_similarities_rescale_to_zero_with_a_gradient():
    x = torch.full((2, 2), 0.3, requires_grad=True)
    rescaled(x).sum().backward()
    assert rescaled(x).abs().max() == 0
    assert torch.isfinite(x.grad).all()


def test_the_bucket_is_a_quantile_of_the_diagonal():
    similarity = torch.arange(36.0, dtype=torch.float64).reshape(6, 6)
    square = table_of(torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    value = bucket_value(similarity, square, square, 0.3)
    assert value.item() == pytest.approx(similarity.diag().quantile(0.3).item())
    frames, texts = table_of(torch.zeros(6).long(), 1), table_of(torch.zeros(2).long(), 1)
    wide = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    assert bucket_value(wide, frames, texts, 0.0) == wide[1, 0]
    assert bucket_value(wide, frames, texts, 1.0) == wide[4, 1]


def test_an_unpaired_clips_mass_goes_to_the_bucket():
    table = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    there = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    value = torch.tensor(0.5, dtype=torch.float64)
    plan = alignment(table, *there, value, epsilon=0.1, iterations=50)[0]
    assert plan.sum().item() == pytest.approx(1)
    assert plan[2].sum() < 0.02
    assert plan[0, 0] > 0.48
    assert plan[1, 1] > 0.48


def test_a_table_that_loses_all_its_mass_still_sums_to_one():
    table = torch.zeros(1, 2, 2)
    there = torch.ones(1, 2, dtype=torch.bool)
    plan = alignment(table, there, there, torch.tensor(1e4), epsilon=0.1, iterations=5)
    assert plan.sum().item() == pytest.approx(1)


def test_texts_out_of_order_are_aligned_and_a_long_paragraph_has_no_advantage():
    """Realigned by transport: the score of a shuffled paragraph is that of the ordered one."""
    eye = torch.eye(3, dtype=torch.float64)
    similarity = torch.cat([eye, eye[:, [2, 0, 1]], eye, eye], 1)
    frames = table_of(torch.zeros(3).long(), 3)
    texts = table_of(torch.tensor([0] * 3 + [1] * 3 + [2] * 6), 3)
    frames = type(frames)(frames.row[[0, 0, 0]], frames.there[[0, 0, 0]])
    value = torch.tensor(0.5, dtype=torch.float64)
    scores = paragraph_scores(similarity, frames, texts, value, epsilon=0.1, iterations=50)[0]
    assert scores[1].item() == pytest.approx(scores[0].item(), abs=1e-9)
    assert scores[2] <= scores[0] + 1e-3


def test_gradients_pass_gradcheck_for_a_fixed_plan(monkeypatch):
    similarity, frames, texts = case(3)
    value = torch.tensor(0.4, dtype=torch.float64)
    plans = []

    def keep(*args, **kwargs):
        plans.append(alignment(*args, **kwargs))
        return plans[0]

    monkeypatch.setattr(paragraph, "alignment", keep)
    similarity.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: paragraph_scores(x, frames, texts, value, epsilon=0.1, iterations=9),
        (similarity,),
    )
    assert not plans[0].requires_grad
