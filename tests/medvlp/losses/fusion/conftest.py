from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medvlp.losses.objective import Scene
from medvlp.models.config import FusionConfig, ModelConfig
from medvlp.models.vlp import VLP
from medvlp.types import KINDS, Batch, Embeddings

VOCABULARY = 60
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = (PAD, UNK, CLS, SEP, MASK)
CONTINUES = tuple(range(40, 60))
EMBED, WIDTH = 8, 16


@pytest.fixture
def vocabulary() -> dict:
    """Constructor arguments of masked text for the tokens used here."""
    return {
        "width": WIDTH, "vocabulary": VOCABULARY, "mask_id": MASK,
        "special_ids": SPECIAL, "continues": CONTINUES,
    }  # fmt: skip


@pytest.fixture
def make_model():
    """A small VLP with a fusion encoder, in training mode."""

    def make(seed=0, **fusion) -> VLP:
        settings = {"layers": 2, "heads": 2, "width": WIDTH, "grid": 3, **fusion}
        config = ModelConfig.model_validate(
            {
                "embed_dim": EMBED,
                "preprocess": {"size": 32},
                "frames": {"levels": 2, "kwargs": {"width": 4, "stages": 3}},
                "pooling": {"heads": 2, "hidden": 6, "frequencies": 4},
                "text": {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24},
                "words": True,
                "fusion": FusionConfig(**settings),
            }
        )
        torch.manual_seed(seed)
        return VLP(config, VOCABULARY)

    return make


@pytest.fixture
def make_fused(make_model):
    """A scene with a model: random frames and tokens, embedded by it.

    Args:
        lengths: Frames of each sample.
        texts: How many texts each sample owns.
        words: Tokens of each text without [CLS] and [SEP]; drawn if not given.
    """

    def make(
        lengths, texts=None, *, words=None, target=None, roles=None, mentions=None, model=None,
        asked=None, questions=None, seed=0,
    ) -> Scene:  # fmt: skip
        model = make_model() if model is None else model
        draw = torch.Generator().manual_seed(seed)
        texts = [1] * len(lengths) if texts is None else texts
        b, m, n = len(lengths), sum(texts), sum(lengths)
        if words is None:
            sizes = torch.randint(1, 7, (m,), generator=draw).tolist()
            words = [torch.randint(5, 60, (size,), generator=draw).tolist() for size in sizes]
        width = max((len(row) for row in words), default=0) + 3
        tokens = torch.zeros(m, width, dtype=torch.long)
        for row, ids in zip(tokens, words, strict=True):
            row[: len(ids) + 2] = torch.tensor([CLS, *ids, SEP])
        owner = torch.repeat_interleave(torch.arange(b), torch.tensor(texts))
        if target is None:
            target = (owner == torch.arange(b)[:, None]).long().tolist()
        batch = Batch(
            frames=smooth_frames(n, draw),
            offsets=torch.tensor([0, *lengths]).cumsum(0),
            positions=torch.cat([torch.arange(k, dtype=torch.float32) for k in lengths]),
            kind=torch.full((b,), KINDS.index("clip")),
            tokens=tokens,
            token_mask=tokens != PAD,
            text_offsets=torch.tensor([0, *texts]).cumsum(0),
            text_key=torch.arange(m),
            claims=torch.zeros(m, 6, dtype=torch.int8),
            stated=torch.zeros(b, 6, dtype=torch.int8),
            text_role=torch.zeros(m, dtype=torch.long) if roles is None else torch.tensor(roles),
            mentions=None if mentions is None else torch.tensor(mentions).reshape(-1, 5),
            asked=asked,
        )
        wanted = torch.tensor(target, dtype=torch.int8).reshape(b, m)
        return embed(Scene(nothing_embedded(b, m), batch, wanted, questions, None, model))

    return make


def nothing_embedded(b, m) -> Embeddings:
    return Embeddings(torch.zeros(b, EMBED), torch.zeros(m, EMBED))


def embed(scene: Scene) -> Scene:
    """The scene with the embeddings that its model gives now."""
    batch, model = scene.batch, scene.model
    visual = model.encode_visual(
        batch.frames, batch.offsets, batch.positions, batch.kind, tokens=True
    )
    text = (
        model.read_text(batch.tokens, batch.token_mask, words=True) if len(batch.tokens) else None
    )
    embeddings = Embeddings(
        visual=visual.vector,
        text=torch.zeros(0, EMBED) if text is None else text.vector,
        patches=visual.patches,
        words=torch.zeros(0, batch.tokens.shape[1], EMBED) if text is None else text.words,
    )
    return replace(scene, embeddings=embeddings)


def smooth_frames(n, draw) -> torch.Tensor:
    coarse = torch.rand(n, 3, 4, 4, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (255 * fine).round().to(torch.uint8)


@pytest.fixture
def embed_again():
    return embed
