from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from medvlp.losses.patch_text import PatchText, smooth_max_similarity
from medvlp.types import Embeddings

from .conftest import unit


def naive_similarity(patches, text, offsets, sharpness):
    rows = []
    for start, end in itertools.pairwise(offsets):
        flat = [patches[n, p] for n in range(start, end) for p in range(patches.shape[1])]
        row = []
        for t in text:
            values = [math.exp(sharpness * float(q @ t)) for q in flat]
            row.append(math.log(sum(values) / len(values)) / sharpness)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[1], [1, 4, 2]])
@pytest.mark.parametrize("sharpness", [0.5, 10.0])
def test_similarity_equals_the_naive_loop(lengths, sharpness):
    n = sum(lengths)
    patches, text = unit(n, 5, 4), unit(3, 4, seed=1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    got = smooth_max_similarity(patches, text, offsets, sharpness)
    expected = naive_similarity(patches, text, offsets.tolist(), sharpness)
    assert torch.allclose(got, expected, atol=1e-10)


def test_similarity_passes_gradcheck():
    patches, text = unit(4, 3, 4).requires_grad_(), unit(2, 4, seed=1).requires_grad_()
    offsets = torch.tensor([0, 1, 4])
    assert torch.autograd.gradcheck(
        lambda p, t: smooth_max_similarity(p, t, offsets, 5.0), (patches, text)
    )


def test_similarity_lies_between_mean_and_maximum():
    patches, text = unit(3, 6, 4), unit(2, 4, seed=1)
    cosines = (patches @ text.T).flatten(0, 1)
    offsets = torch.tensor([0, 3])
    for sharpness in (1e-4, 10.0, 500.0):
        value = smooth_max_similarity(patches, text, offsets, sharpness)[0]
        assert (value <= cosines.amax(0) + 1e-9).all()
        assert (value >= cosines.mean(0) - 1e-3).all()
    assert torch.allclose(
        smooth_max_similarity(patches, text, offsets, 1e-5)[0], cosines.mean(0), atol=1e-4
    )


def test_repeating_every_frame_changes_nothing():
    patches, text = unit(2, 3, 4), unit(2, 4, seed=1)
    once = smooth_max_similarity(patches, text, torch.tensor([0, 2]), 10.0)
    twice = smooth_max_similarity(patches.repeat(2, 1, 1), text, torch.tensor([0, 4]), 10.0)
    assert torch.allclose(once, twice)


def test_a_denial_attracts_no_patch(make_scene):
    # Text 0 says present, text 1 says absent, text 2 says nothing.
    scene = make_scene([2, 1], [[1, 0], [-1, 0], [0, 0]], [[1, 0, 0], [0, 1, 1]])
    text = scene.embeddings.text.clone().requires_grad_()
    patches = scene.embeddings.patches
    scene = replace(scene, embeddings=Embeddings(scene.embeddings.visual, text, patches))
    PatchText()(scene).backward()
    assert text.grad[0].abs().max() > 0
    assert text.grad[1:].abs().max() == 0


def test_an_ignored_visual_is_neither_pulled_nor_pushed(make_scene):
    scene = make_scene([1, 1, 1], [[1]], [[1], [-1], [0]])
    patches = scene.embeddings.patches.clone().requires_grad_()
    embeddings = Embeddings(scene.embeddings.visual, scene.embeddings.text, patches)
    PatchText()(replace(scene, embeddings=embeddings)).backward()
    moved = patches.grad.abs().sum((1, 2)) > 0
    assert moved.tolist() == [True, False, True]


def test_without_a_present_claim_the_loss_and_gradient_are_zero(make_scene):
    scene = make_scene([2, 1], [[-1], [0]], [[1, 0], [0, 1]])
    patches = scene.embeddings.patches.clone().requires_grad_()
    embeddings = Embeddings(scene.embeddings.visual, scene.embeddings.text, patches)
    loss = PatchText()(replace(scene, embeddings=embeddings))
    loss.backward()
    assert loss.item() == 0
    assert patches.grad.abs().max() == 0


def test_a_batch_of_one_is_zero(make_scene):
    assert PatchText()(make_scene([3], [[1]], [[1]])).item() == pytest.approx(0, abs=1e-9)
