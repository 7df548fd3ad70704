from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.batch import TextRole
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.contrast.sentences import (
    SentenceGrouping,
    grouped_patches,
    only_denies,
    sentence_target,
)


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def naive_grouped(patches, text, offsets, owner, threshold=None):
    """Sentence by sentence, patch by patch."""
    rows = []
    for t, i in zip(text.tolist(), owner.tolist(), strict=True):
        own = [x for f in patches[offsets[i] : offsets[i + 1]].tolist() for x in f]
        scores = [dot(x, t) for x in own]
        low, top = min(scores), max(scores)
        limit = 1 / len(own) if threshold is None else threshold
        weights = [(s - low) / (top - low) if top > low else 1.0 for s in scores]
        weights = [w if w >= limit else 0.0 for w in weights]
        mass = sum(weights)
        rows.append(
            [sum(w * x[d] for w, x in zip(weights, own, strict=True)) / mass for d in range(len(t))]
        )
    return torch.tensor(rows, dtype=torch.float64)


def case(seed: int, texts=(3, 0, 1, 2), frames=(2, 1, 1, 3), p: int = 3):
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randn(sum(frames), p, 4, generator=draw, dtype=torch.float64)
    text = torch.randn(sum(texts), 4, generator=draw, dtype=torch.float64)
    text = text / text.norm(dim=1, keepdim=True)
    offsets = torch.tensor([0, *frames]).cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor(texts))
    return patches, text, offsets, owner


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([None, 0.5, 1.0]))
def test_grouping_equals_the_naive_loop(seed, threshold):
    scene = case(seed)
    assert torch.allclose(
        grouped_patches(*scene, threshold), naive_grouped(*scene, threshold), atol=1e-9
    )


def test_a_sentence_groups_patches_of_its_own_visual_only():
    patches, text, offsets, owner = case(0)
    before = grouped_patches(patches, text, offsets, owner)
    changed = patches.clone()
    changed[offsets[2] : offsets[3]] += 5
    after = grouped_patches(changed, text, offsets, owner)
    assert torch.equal((before != after).any(1), owner == 2)


def test_grouping_pairs_the_right_sentence_with_the_right_image():
    """The public code stacks sentence-major and reads sample-major: pairs are misaligned."""
    texts = (3, 1, 2)
    text = torch.eye(8, dtype=torch.float64)[:6]
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor(texts))
    # Visual i shows its own sentences, one patch each, and ground where there are fewer.
    patches = torch.eye(8, dtype=torch.float64)[7].expand(3, 3, 8).clone()
    for j, i in enumerate(owner.tolist()):
        patches[i, j - [0, 3, 4][i]] = text[j]
    grouped = grouped_patches(patches, text, torch.tensor([0, 1, 2, 3]), owner)
    logits = grouped @ text.T
    assert torch.equal(logits.argmax(1), torch.arange(6))
    assert torch.equal(logits.argmax(0), torch.arange(6))


def test_patches_below_the_threshold_are_not_of_the_group():
    patches = torch.tensor([[[1.0, 5.0], [0.6, 7.0], [0.0, 9.0]]], dtype=torch.float64)
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    bounds, owner = torch.tensor([0, 1]), torch.tensor([0])
    both = grouped_patches(patches, text, bounds, owner, 0.5)
    assert both[0].tolist() == pytest.approx([1.36 / 1.6, (5 + 0.6 * 7) / 1.6])
    assert grouped_patches(patches, text, bounds, owner, 0.7)[0].tolist() == [1, 5]


def test_equal_patches_give_their_mean_and_a_finite_gradient():
    patches = torch.ones(2, 3, 4, dtype=torch.float64).requires_grad_()
    text = torch.eye(4, dtype=torch.float64)[:2].requires_grad_()
    grouped = grouped_patches(patches, text, torch.tensor([0, 2]), torch.tensor([0, 0]))
    assert torch.allclose(grouped, torch.ones(2, 4, dtype=torch.float64))
    grouped.pow(2).sum().backward()
    assert torch.isfinite(patches.grad).all()
    assert torch.isfinite(text.grad).all()


def test_gradients_pass_gradcheck():
    patches, text, offsets, owner = case(4, (2, 1), (1, 2), 2)
    assert gradcheck(
        lambda x, t: grouped_patches(x, t, offsets, owner),
        (patches.requires_grad_(), text.requires_grad_()),
    )


def test_the_scale_of_patches_does_not_change_what_is_grouped():
    patches, text, offsets, owner = case(5)
    assert torch.allclose(
        grouped_patches(3 * patches, text, offsets, owner),
        3 * grouped_patches(patches, text, offsets, owner),
    )


def test_which_sentences_fit():
    # Slots (any, left, right) of two concepts. Visual 0 says 0, 1, 2; visual 1 says 3, 4, 5.
    claims = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0],  # left effusion
            [1, 0, 0, 0, 0, 0],  # effusion
            [0, 0, 0, -1, -1, -1],  # no pneumothorax
            [0, 0, 0, -1, -1, -1],  # the same words
            [1, 0, 1, 0, 0, 0],  # right effusion, which visual 0 has not
            [0, 0, 0, 0, 0, 0],  # comparison with May
        ]
    )
    target = torch.tensor([[1, 1, 1, 1, 0, 0], [-1, 1, 1, 1, 1, 1]], dtype=torch.int8)
    owner, key = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([1, 2, 3, 3, 5, 6])
    assert sentence_target(target, owner, key, claims).tolist() == [
        [1, -1, 0, -1, -1, 0],  # its own kin is open, a right effusion has patches like it
        [-1, 1, 0, -1, -1, 0],
        [0, 0, 1, 1, 0, 0],  # the same words are a positive anywhere
        [-1, -1, 1, 1, 0, 0],
        [-1, -1, -1, 0, 1, 0],
        [-1, -1, -1, 0, 0, 1],
    ]


def test_an_opposite_claim_of_another_visual_is_a_negative():
    claims = torch.tensor([[1, 0, 0], [-1, -1, -1]])
    target = torch.tensor([[1, 0], [0, 1]], dtype=torch.int8)
    wanted = sentence_target(target, torch.tensor([0, 1]), torch.tensor([1, 2]), claims)
    assert wanted.tolist() == [[1, 0], [0, 1]]


def test_sentences_that_only_deny():
    claims = torch.tensor([[1, -1], [-1, 0], [0, 0], [1, 0]])
    assert only_denies(claims).tolist() == [False, True, False, False]


def scene_of(make_scene, **changes):
    claims = [[1, 0, 0], [0, 0, 0], [-1, -1, -1], [0, 0, 0]]
    target = [[1, 1, 0, 0], [0, 0, 1, 1]]
    return make_scene([2, 1], claims, target, texts=[2, 2], **changes)


def test_the_objective_is_the_sum_of_its_two_parts(make_scene):
    scene = scene_of(make_scene)
    e, batch = scene.embeddings, scene.batch
    whole = symmetric_nce(10 * e.visual @ e.text.T, scene.target)
    kept = torch.tensor([0, 1, 3])  # a sentence that only denies is in no patch
    owner = torch.tensor([0, 0, 1])
    grouped = naive_grouped(e.patches, e.text[kept], batch.offsets, owner)
    grouped = grouped / grouped.norm(dim=1, keepdim=True)
    local = symmetric_nce(10 * grouped @ e.text[kept].T, torch.eye(3, dtype=torch.int8))
    objective = SentenceGrouping(temperature=0.1, sentence_weight=0.5, grouping_weight=2).double()
    assert objective(scene).item() == pytest.approx((0.5 * whole + 2 * local).item(), rel=1e-6)


def test_a_denial_attracts_no_patch_unless_asked(make_scene):
    scene = scene_of(make_scene)
    grads = []
    for ground in (False, True):
        text = scene.embeddings.text.clone().requires_grad_()
        embeddings = replace(scene.embeddings, text=text)
        objective = SentenceGrouping(sentence_weight=0, ground_denials=ground).double()
        objective(replace(scene, embeddings=embeddings)).backward()
        grads.append(text.grad[2].abs().max().item())
    assert grads[0] == 0
    assert grads[1] > 0


def test_documents_are_no_sentences(make_scene):
    roles = [TextRole.PLAIN, TextRole.DOCUMENT, TextRole.PLAIN, TextRole.PLAIN]
    scene = scene_of(make_scene, roles=[int(r) for r in roles])
    text = scene.embeddings.text.clone().requires_grad_()
    embeddings = replace(scene.embeddings, text=text)
    SentenceGrouping()(replace(scene, embeddings=embeddings)).backward()
    assert (text.grad.abs().sum(1) > 0).tolist() == [True, False, True, True]


def test_only_documents_or_one_sentence_give_zero(make_scene):
    documents = scene_of(make_scene, roles=[int(TextRole.DOCUMENT)] * 4)
    patches = documents.embeddings.patches.clone().requires_grad_()
    loss = SentenceGrouping()(
        replace(documents, embeddings=replace(documents.embeddings, patches=patches))
    )
    loss.backward()
    assert loss.item() == 0
    assert patches.grad.abs().max() == 0
    assert SentenceGrouping()(make_scene([1], [[1, 0, 0]], [[1]])).item() == 0


def test_identical_sentences_pull_nothing_apart(make_scene):
    scene = make_scene([1, 1], [[1, 0, 0]] * 2, [[1, 1], [1, 1]], texts=[1, 1])
    batch = replace(scene.batch, text_key=torch.zeros(2, dtype=torch.long))
    same = replace(
        scene.embeddings,
        text=scene.embeddings.text[:1].expand(2, 4),
        visual=scene.embeddings.visual[:1].expand(2, 4),
        patches=scene.embeddings.patches[:1].expand(2, 3, 4),
    )
    loss = SentenceGrouping()(replace(scene, batch=batch, embeddings=same))
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_order_of_samples_does_not_matter(make_scene):
    scene = scene_of(make_scene)
    e, batch = scene.embeddings, scene.batch
    texts, frames, samples = torch.tensor([2, 3, 0, 1]), torch.tensor([2, 0, 1]), [1, 0]
    turned = replace(
        scene,
        embeddings=replace(
            e, visual=e.visual[samples], text=e.text[texts], patches=e.patches[frames]
        ),
        batch=replace(
            batch,
            offsets=torch.tensor([0, 1, 3]),
            text_key=batch.text_key[texts],
            claims=batch.claims[texts],
        ),
        target=scene.target[samples][:, texts],
    )
    objective = SentenceGrouping().double()
    assert torch.allclose(objective(scene), objective(turned))


def test_huge_logits_stay_finite(make_scene):
    objective = SentenceGrouping(temperature=1e-6).double()
    assert torch.isfinite(objective(scene_of(make_scene)))
