from __future__ import annotations

import pytest
import torch

from pretrain.augment import augment
from pretrain.config import AugmentConfig

NOTHING = AugmentConfig(
    scale=(1.0, 1.0), aspect=1.0, rotate=0, brightness=0, contrast=0, gamma=0, flip=False
)


def frames(n: int = 4, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def run(x, config, *, owner=None, flippable=None, seed=0):
    owner = torch.arange(len(x)) if owner is None else torch.tensor(owner)
    b = int(owner.max()) + 1
    flippable = torch.zeros(b, dtype=torch.bool) if flippable is None else flippable
    return augment(x, owner, flippable, config, torch.Generator().manual_seed(seed))


def test_no_change_is_the_identity():
    x = frames()
    assert torch.allclose(run(x, NOTHING), x.float() / 255, atol=1e-5)


def test_the_seed_decides_everything():
    config = AugmentConfig(erase=0.5, flip=True)
    x = frames()
    flippable = torch.ones(4, dtype=torch.bool)
    first = run(x, config, flippable=flippable)
    assert torch.equal(first, run(x, config, flippable=flippable))
    assert not torch.allclose(first, run(x, config, flippable=flippable, seed=1))


def test_frames_of_one_sample_change_alike():
    x = frames(1).repeat(5, 1, 1, 1)
    config = AugmentConfig(erase=1.0)
    out = run(x, config, owner=[0, 0, 0, 1, 1])
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[3], out[4])
    assert not torch.allclose(out[0], out[3])


def test_only_flippable_samples_are_mirrored():
    x = frames(1).repeat(64, 1, 1, 1)
    flippable = torch.arange(64) < 32
    out = run(x, NOTHING, flippable=flippable)
    mirrored = [torch.allclose(frame, x[0].flip(2) / 255, atol=1e-5) for frame in out]
    kept = [torch.allclose(frame, x[0] / 255, atol=1e-5) for frame in out]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert not any(mirrored[32:])
    assert 5 < sum(mirrored[:32]) < 27


@pytest.mark.parametrize("degrees", [0.0, 10.0])
def test_rotation_keeps_the_centre(degrees: float):
    x = torch.zeros(8, 3, 33, 33, dtype=torch.uint8)
    x[:, :, 16, 16] = 255
    out = run(x, NOTHING.model_copy(update={"rotate": degrees}))
    assert (out.flatten(2).argmax(-1) == 16 * 33 + 16).all()


def test_erased_frames_lose_one_rectangle_of_the_stated_size():
    x = torch.full((20, 3, 40, 40), 255, dtype=torch.uint8)
    out = run(x, NOTHING.model_copy(update={"erase": 1.0}))
    share = (out[:, 0] == 0).float().mean((1, 2))
    assert ((share > 0.1**2) & (share < 0.45**2)).all()


def test_black_and_white_frames_stay_finite():
    x = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255)]).to(torch.uint8)
    assert torch.isfinite(run(x, AugmentConfig())).all()
