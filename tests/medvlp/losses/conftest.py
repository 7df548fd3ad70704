from __future__ import annotations

import pytest
import torch

from medvlp.batch import Asked, QuestionRole
from medvlp.losses.objective import Scene
from medvlp.models.streams import StreamOutput
from medvlp.types import Batch, Embeddings


def unit(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=dtype)
    return x / x.norm(dim=-1, keepdim=True)


@pytest.fixture
def make_scene():
    """A scene with given frames a sample, claims a text and targets, in float64.

    Args:
        lengths: Frames of each sample.
        claims: Of each text, one value a slot.
        target: [b][m].
        texts: How many texts each sample owns; by default all belong to the last.
        roles: Of each text.
        stated: Of each sample, one value a slot; by default nothing is known.
        mentions: Rows (text, first, last, concept, polarity).
        length: Tokens of each text.
        asked: Rows (role, subject) of the questions; `relations` [b][s][r] belongs to them, and
            `slots` [s] (three times the subject by default).
    """

    def make(
        lengths, claims, target, *, patches=3, dim=4, seed=0, texts=None, roles=None,
        stated=None, mentions=None, length=5, asked=None, relations=None, slots=None,
    ) -> Scene:  # fmt: skip
        b, m, n = len(lengths), len(claims), sum(lengths)
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        owned = [0] * (b - 1) + [m] if texts is None else texts
        batch = Batch(
            frames=torch.zeros(n, 3, 2, 2),
            offsets=offsets,
            positions=torch.cat([torch.arange(k, dtype=torch.float32) for k in lengths]),
            kind=torch.zeros(b, dtype=torch.long),
            tokens=torch.zeros(m, length, dtype=torch.long),
            token_mask=torch.ones(m, length, dtype=torch.bool),
            text_offsets=torch.tensor([0, *owned]).cumsum(0),
            text_key=torch.arange(m),
            claims=torch.tensor(claims, dtype=torch.int8),
            stated=torch.zeros(b, len(claims[0]), dtype=torch.int8)
            if stated is None
            else torch.tensor(stated, dtype=torch.int8),
            text_role=torch.zeros(m, dtype=torch.long) if roles is None else torch.tensor(roles),
            mentions=None
            if mentions is None
            else torch.tensor(mentions, dtype=torch.long).reshape(-1, 5),
            asked=None if asked is None else _asked(asked, relations, slots, b),
            index=torch.arange(b),
        )
        embeddings = Embeddings(
            visual=unit(b, dim, seed=seed),
            text=unit(m, dim, seed=seed + 1),
            patches=unit(n, patches, dim, seed=seed + 2),
            frames=unit(n, dim, seed=seed + 3),
            words=unit(m, length, dim, seed=seed + 4),
            second=unit(b, dim, seed=seed + 5),
        )
        questions = None if asked is None else unit(len(asked), dim, seed=seed + 6)
        streams = None
        if batch.asked is not None:
            s, r = batch.asked.relations.shape[1:]
            draw = torch.Generator().manual_seed(seed + 7)
            sizes = ((b, s, dim), (b, r, dim), (b, s), (b, r), (b, s, r), (b, s, dim), (b, r, dim))
            streams = StreamOutput(
                *(torch.randn(*size, generator=draw, dtype=torch.float64) for size in sizes)
            )
        wanted = torch.tensor(target, dtype=torch.int8).reshape(b, m)
        return Scene(embeddings, batch, wanted, questions, streams)

    return make


def _asked(rows, relations, slots, b) -> Asked:
    role, subject = torch.tensor(rows).T
    concepts = subject[role != QuestionRole.REGION]
    s = int(concepts.max()) + 1 if len(concepts) else 0
    regions = subject[role == QuestionRole.REGION]
    r = int(regions.max()) + 1 if len(regions) else 0
    return Asked(
        tokens=torch.zeros(len(rows), 1, dtype=torch.long),
        mask=torch.ones(len(rows), 1, dtype=torch.bool),
        role=role,
        subject=subject,
        slots=3 * torch.arange(s) if slots is None else torch.tensor(slots),
        relations=torch.zeros(b, s, r, dtype=torch.int8)
        if relations is None
        else torch.tensor(relations, dtype=torch.int8),
    )
