from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.evidence import patch_evidence


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def naive(patches, text, offsets, share, sharpness):
    count = max(1, round(share * patches.shape[1]))
    rows = []
    for start, end in itertools.pairwise(offsets):
        row = []
        for t in text:
            frames = []
            for n in range(start, end):
                best = sorted((float(q @ t) for q in patches[n]), reverse=True)[:count]
                frames.append(sum(best) / count)
            mean = sum(math.exp(sharpness * f) for f in frames) / len(frames)
            row.append(math.log(mean) / sharpness)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[1], [1, 4, 2]])
@pytest.mark.parametrize(("share", "sharpness"), [(0.02, 0.5), (0.4, 20.0), (1.0, 5.0)])
def test_evidence_equals_the_naive_loop(lengths, share, sharpness):
    patches, text = unit(sum(lengths), 7, 4), unit(3, 4, seed=1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    got = patch_evidence(patches, text, offsets, share, sharpness)
    assert torch.allclose(got, naive(patches, text, offsets.tolist(), share, sharpness), atol=1e-10)


def test_evidence_passes_gradcheck():
    patches, text = unit(4, 5, 4).requires_grad_(), unit(2, 4, seed=1).requires_grad_()
    offsets = torch.tensor([0, 1, 4])
    assert torch.autograd.gradcheck(
        lambda p, t: patch_evidence(p, t, offsets, 0.4, 5.0), (patches, text)
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_a_sample_does_not_depend_on_its_neighbours(lengths, seed):
    patches, text = unit(sum(lengths), 6, 4, seed=seed), unit(3, 4, seed=1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    together = patch_evidence(patches, text, offsets)
    for i, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = patch_evidence(patches[start:end], text, torch.tensor([0, end - start]))
        assert torch.allclose(together[i], alone[0], atol=1e-12)


def test_repeating_every_frame_and_permuting_patches_changes_nothing():
    patches, text = unit(2, 6, 4), unit(2, 4, seed=1)
    once = patch_evidence(patches, text, torch.tensor([0, 2]))
    again = patch_evidence(
        patches.repeat(2, 1, 1)[:, [3, 1, 5, 0, 4, 2]], text, torch.tensor([0, 4])
    )
    assert torch.allclose(once, again)


def test_one_patch_of_one_frame_is_enough():
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    patches = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(24, 50, 1)
    without = patch_evidence(patches, text, torch.tensor([0, 24]))
    patches[7, 31] = text[0]
    seen = patch_evidence(patches, text, torch.tensor([0, 24]))
    assert seen.item() > without.item() + 0.2
