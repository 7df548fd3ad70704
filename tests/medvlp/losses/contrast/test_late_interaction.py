from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.contrast.late_interaction import (
    LateInteraction,
    all_similarities,
    best_scores,
    text_groups,
    token_similarity,
    top_share,
)


def unit_rows(x):
    length = math.sqrt(sum(v * v for v in x))
    return [v / length for v in x]


def naive_similarities(scene):
    """s_I and s_T, patch by patch and word by word."""
    offsets = scene.batch.offsets.tolist()
    visuals = [
        [unit_rows(x) for frame in scene.embeddings.patches[a:z].tolist() for x in frame]
        for a, z in pairwise(offsets)
    ]
    texts = [
        [unit_rows(x) for x, real in zip(words, mask, strict=True) if real]
        for words, mask in zip(
            scene.embeddings.words.tolist(), scene.batch.token_mask.tolist(), strict=True
        )
    ]

    def dot(x, y):
        return sum(a * b for a, b in zip(x, y, strict=True))

    def by_first(xs, ys):
        return sum(max(dot(x, y) for y in ys) for x in xs) / len(xs)

    by_patches = [[by_first(v, t) if t else 0.0 for t in texts] for v in visuals]
    by_words = [[by_first(t, v) if t else 0.0 for t in texts] for v in visuals]
    return by_patches, by_words


def naive_nce(scores, target):
    rows = []
    for values, marks in zip(scores, target, strict=True):
        total = sum(math.exp(s) for s, t in zip(values, marks, strict=True) if t >= 0)
        hits = [s for s, t in zip(values, marks, strict=True) if t == 1]
        if hits:
            rows.append(sum(math.log(total) - s for s in hits) / len(hits))
    return sum(rows) / len(rows)


def scene_of(make_scene, seed, lengths=(2, 1, 3), m=4):
    """Ragged frames, words and ignored pairs."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, 2, (len(lengths), m), generator=draw)
    target[0, 0] = 1
    scene = make_scene(list(lengths), [[0]] * m, target.tolist(), seed=seed, length=6)
    mask = torch.arange(6)[None, :] < torch.randint(1, 7, (m, 1), generator=draw)
    words = scene.embeddings.words * 3 * mask[:, :, None]
    patches = scene.embeddings.patches * 2
    return replace(
        scene,
        batch=replace(scene.batch, token_mask=mask),
        embeddings=replace(scene.embeddings, words=words, patches=patches),
    )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000))
def test_the_loss_equals_the_naive_loop(make_scene, seed):
    scene = scene_of(make_scene, seed)
    by_patches, by_words = naive_similarities(scene)
    target = scene.target.tolist()

    def scaled(rows):
        return [[4 * s for s in row] for row in rows]

    columns = [list(x) for x in zip(*scaled(by_words), strict=True)]
    back = naive_nce(columns, [list(x) for x in zip(*target, strict=True)])
    expected = (naive_nce(scaled(by_patches), target) + back) / 2
    loss = LateInteraction(temperature=0.25, keep=1.0).double()(scene)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def tokens(seed: int, r: int = 6, w: int = 5):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(r, 4, generator=draw, dtype=torch.float64)
    y = torch.randn(w, 4, generator=draw, dtype=torch.float64)
    return x, torch.tensor([0, 0, 0, 0, 1, 1])[:r], y, torch.tensor([0, 0, 0, 2, 2])[:w]


def test_the_two_matrices_differ_and_are_means_not_sums():
    x, visual_of, y, text_of = tokens(0)
    by_patches, by_words = token_similarity(x, visual_of, y, text_of, 2, 3)
    products = x @ y.T
    assert by_patches[0, 2].item() == pytest.approx(products[:4, 3:].amax(1).mean().item())
    assert by_words[0, 2].item() == pytest.approx(products[:4, 3:].amax(0).mean().item())
    assert by_patches[1, 1] == by_words[1, 1] == 0
    assert not torch.allclose(by_patches, by_words)


def test_chunks_change_neither_values_nor_gradients():
    x, visual_of, y, text_of = tokens(1)
    results = []
    for budget in (10_000, 18, 12, 1):  # with 12, a group begins with a text without words
        patches, words = x.clone().requires_grad_(), y.clone().requires_grad_()
        both = all_similarities(patches, visual_of, words, text_of, 2, 3, budget)
        both.pow(2).sum().backward()
        results.append((both.detach(), patches.grad, words.grad))
    for other in results[1:]:
        assert all(torch.allclose(a, b) for a, b in zip(results[0], other, strict=True))


def test_groups_of_texts_cover_all_words_and_keep_to_the_limit():
    text_of = torch.tensor([0, 0, 0, 2, 2, 3, 4, 4])
    groups = text_groups(text_of, 6, 4)
    assert groups == [(0, 2, 0, 3), (2, 4, 3, 6), (4, 6, 6, 8)]
    assert text_groups(text_of, 6, 100) == [(0, 6, 0, 8)]
    assert [g[:2] for g in text_groups(text_of, 6, 1)] == [(i, i + 1) for i in range(6)]


@pytest.mark.parametrize("budget", [10_000, 6])
def test_gradients_pass_gradcheck(budget):
    x, visual_of, y, text_of = tokens(2)
    assert gradcheck(
        lambda a, b: all_similarities(a, visual_of, b, text_of, 2, 3, budget),
        (x.requires_grad_(), y.requires_grad_()),
    )


def test_padding_never_wins(make_scene):
    scene = scene_of(make_scene, 5)
    objective = LateInteraction(keep=1.0).double()
    # Even where every real word is opposite to the patches and a zero vector would be closer.
    away = replace(scene.embeddings, words=-scene.embeddings.patches[0, 0].expand(4, 6, 4).clone())
    mask = scene.batch.token_mask
    loss = objective(replace(scene, embeddings=away))
    wide = torch.cat([away.words, torch.full((4, 3, 4), 7.0, dtype=torch.float64)], 1)
    wide_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], 1)
    batch = replace(scene.batch, token_mask=wide_mask, tokens=torch.zeros(4, 9, dtype=torch.long))
    padded = replace(scene, batch=batch, embeddings=replace(away, words=wide))
    assert torch.allclose(loss, objective(padded))
    by_patches, _ = naive_similarities(replace(scene, embeddings=away))
    assert by_patches[0][0] < 0 or mask.all()


@pytest.mark.parametrize("keep", [1.0, 0.25])
def test_the_length_of_patches_and_words_does_not_matter(make_scene, keep):
    scene = scene_of(make_scene, 6)
    longer = replace(
        scene.embeddings,
        patches=scene.embeddings.patches * 7,
        words=scene.embeddings.words * 0.1,
    )
    objective = LateInteraction(keep=keep).double()
    assert torch.allclose(objective(scene), objective(replace(scene, embeddings=longer)))


def test_the_order_of_texts_does_not_matter(make_scene):
    scene = scene_of(make_scene, 7)
    order = torch.tensor([2, 0, 3, 1])
    turned = replace(
        scene,
        batch=replace(scene.batch, token_mask=scene.batch.token_mask[order]),
        embeddings=replace(scene.embeddings, words=scene.embeddings.words[order]),
        target=scene.target[:, order],
    )
    for keep in (1.0, 0.3):
        objective = LateInteraction(keep=keep).double()
        assert torch.allclose(objective(scene), objective(turned))


def test_the_best_share_of_every_segment_is_kept():
    score = torch.tensor([1.0, 4.0, 3.0, 2.0, 9.0, 8.0, 0.5])
    owner = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert top_share(score, owner, 3, 0.5).tolist() == [1, 2, 4, 6]
    assert top_share(score, owner, 3, 0.01).tolist() == [1, 4, 6]
    assert top_share(score, owner, 3, 1.0).tolist() == list(range(7))


def test_scores_are_the_best_of_the_other_kind_whatever_the_chunk():
    x, _, y, _ = tokens(8)
    for budget in (1, 12, 1000):
        of_patch, of_word = best_scores(x, y, budget)
        assert torch.allclose(of_patch, (x @ y.T).amax(1))
        assert torch.allclose(of_word, (x @ y.T).amax(0))


def test_dropped_tokens_have_no_gradient(make_scene):
    scene = scene_of(make_scene, 9)
    patches = scene.embeddings.patches.clone().requires_grad_()
    embeddings = replace(scene.embeddings, patches=patches)
    LateInteraction(keep=0.25).double()(replace(scene, embeddings=embeddings)).backward()
    used = (patches.grad.abs().sum(2) > 0).flatten()
    # Visuals have 6, 3 and 9 patches; a quarter, rounded up.
    assert [int(part.sum()) for part in used.split([6, 3, 9])] == [2, 1, 3]


def test_a_text_without_words_takes_no_part(make_scene):
    scene = scene_of(make_scene, 10)
    mask = scene.batch.token_mask.clone()
    mask[3] = False
    scene = replace(scene, batch=replace(scene.batch, token_mask=mask))
    marked = scene.target.clone()
    marked[:, 3] = -1
    objective = LateInteraction(keep=1.0).double()
    loss = objective(scene)
    assert torch.isfinite(loss)
    assert torch.allclose(loss, objective(replace(scene, target=marked)))


def test_no_words_no_positives_and_one_sample_give_zero(make_scene):
    scene = make_scene([2], [[0]], [[1]])
    assert LateInteraction()(scene).item() == 0
    silent = replace(scene.batch, token_mask=torch.zeros(1, 5, dtype=torch.bool))
    patches = scene.embeddings.patches.clone().requires_grad_()
    quiet = replace(scene, batch=silent, embeddings=replace(scene.embeddings, patches=patches))
    LateInteraction()(quiet).backward()
    assert patches.grad.abs().max() == 0
    assert LateInteraction()(make_scene([1, 1], [[0]], [[0], [-1]])).item() == 0


def test_huge_logits_stay_finite(make_scene):
    scene = scene_of(make_scene, 11)
    assert torch.isfinite(LateInteraction(temperature=1e-6).double()(scene))


def test_half_precision_patches_are_compared(make_scene):
    scene = scene_of(make_scene, 12)
    half = replace(
        scene.embeddings,
        patches=scene.embeddings.patches.bfloat16(),
        words=scene.embeddings.words.float(),
    )
    exact = LateInteraction(keep=1.0).double()(scene).item()
    loss = LateInteraction(keep=1.0)(replace(scene, embeddings=half))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05)
