from __future__ import annotations

import pytest
import torch

from medvlp.losses.objective import Scene
from medvlp.types import Batch, Embeddings


def unit(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=dtype)
    return x / x.norm(dim=-1, keepdim=True)


@pytest.fixture
def make_scene():
    """A scene with given frames a sample, claims a text and targets."""

    def make(lengths, claims, target, *, patches=3, dim=4, seed=0) -> Scene:
        b, m, n = len(lengths), len(claims), sum(lengths)
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        batch = Batch(
            frames=torch.zeros(n, 3, 2, 2),
            offsets=offsets,
            positions=torch.zeros(n),
            kind=torch.zeros(b, dtype=torch.long),
            tokens=torch.zeros(m, 1, dtype=torch.long),
            token_mask=torch.ones(m, 1, dtype=torch.bool),
            text_offsets=torch.tensor([0] * b + [m]),
            text_key=torch.arange(m),
            claims=torch.tensor(claims, dtype=torch.int8),
            stated=torch.zeros(b, len(claims[0]), dtype=torch.int8),
        )
        embeddings = Embeddings(
            unit(b, dim, seed=seed), unit(m, dim, seed=seed + 1),
            unit(n, patches, dim, seed=seed + 2),
        )  # fmt: skip
        return Scene(embeddings, batch, torch.tensor(target, dtype=torch.int8))

    return make
