from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from medvlp.batch import TextRole
from medvlp.losses.objective import Scene, text_owner


@pytest.fixture
def lecture(make_scene):
    """A scene of clips with lead, child and heard texts, some of them identical.

    Args:
        seed: Draws everything that is not given.
        samples: Of each clip, (frames, leads, children, heard).
        keys: How many different texts each role has; by default no two are identical.
        unknown: Whether some pairs are unknown.
    """

    def make(seed=0, samples=None, *, keys=None, unknown=True, dim=4) -> Scene:
        draw = random.Random(seed)
        if samples is None:
            samples = [
                (draw.randint(1, 4), draw.choice([0, 1, 1]), draw.randint(0, 3), draw.randint(0, 2))
                for _ in range(draw.randint(1, 5))
            ]
        roles, texts, key = [], [], []
        for _, *counts in samples:
            for role, count in zip(
                (TextRole.LEAD, TextRole.CHILD, TextRole.HEARD), counts, strict=True
            ):
                for _ in range(count):
                    roles.append(int(role))
                    number = len(key) if keys is None else draw.randrange(keys)
                    key.append(1000 * int(role) + number)
            texts.append(sum(counts))
        owner = [i for i, count in enumerate(texts) for _ in range(count)]
        own = [{k for k, o in zip(key, owner, strict=True) if o == i} for i in range(len(samples))]
        values = [0, 0, 0, -1, 1] if unknown else [0]
        drawn = {(i, k): draw.choice(values) for i in range(len(samples)) for k in sorted(set(key))}
        target = [[1 if k in own[i] else drawn[i, k] for k in key] for i in range(len(samples))]
        scene = make_scene(
            [sample[0] for sample in samples],
            [[0]] * max(len(key), 1),
            target if key else [[0]] * len(samples),
            texts=texts if key else None,
            roles=roles or [0],
            seed=seed,
            dim=dim,
        )
        if not key:
            return scene
        text = scene.embeddings.text.clone()
        first = {k: key.index(k) for k in key}
        text = text[[first[k] for k in key]]
        return replace(
            scene,
            batch=replace(scene.batch, text_key=torch.tensor(key)),
            embeddings=replace(scene.embeddings, text=text),
        )

    return make


@pytest.fixture
def reorder():
    """The same scene with its samples in another order."""

    def make(scene: Scene, order: list[int]) -> Scene:
        batch, embeddings = scene.batch, scene.embeddings

        def rows(offsets):
            return torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in order])

        def packed(offsets):
            return torch.cat([torch.zeros(1, dtype=torch.long), offsets.diff()[order]]).cumsum(0)

        texts, frames = rows(batch.text_offsets), rows(batch.offsets)
        return replace(
            scene,
            batch=replace(
                batch,
                offsets=packed(batch.offsets),
                text_offsets=packed(batch.text_offsets),
                **{name: getattr(batch, name)[frames] for name in ("frames", "positions")},
                **{name: getattr(batch, name)[order] for name in ("kind", "stated", "index")},
                **{
                    name: getattr(batch, name)[texts]
                    for name in (
                        "tokens",
                        "token_mask",
                        "claims",
                        "text_key",
                        "text_role",
                    )
                },
            ),
            embeddings=replace(
                embeddings,
                **{name: getattr(embeddings, name)[order] for name in ("visual", "second")},
                **{name: getattr(embeddings, name)[texts] for name in ("text", "words")},
                **{name: getattr(embeddings, name)[frames] for name in ("frames", "patches")},
            ),
            target=scene.target[order][:, texts],
        )

    return make


@pytest.fixture
def with_vectors():
    """The same scene with other vectors."""

    def make(scene: Scene, **vectors: torch.Tensor) -> Scene:
        return replace(scene, embeddings=replace(scene.embeddings, **vectors))

    return make


@pytest.fixture
def texts_of():
    """Numbers of the texts of one sample and role, as a list."""

    def make(scene: Scene, sample: int, role: TextRole) -> list[int]:
        owner = text_owner(scene.batch.text_offsets).tolist()
        return [
            j
            for j, (o, r) in enumerate(zip(owner, scene.batch.text_role.tolist(), strict=True))
            if o == sample and r == role
        ]

    return make
