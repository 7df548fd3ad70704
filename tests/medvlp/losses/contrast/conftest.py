from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from medvlp.batch import TextRole

LEAD, HEARD = int(TextRole.LEAD), int(TextRole.HEARD)


@pytest.fixture
def narrated(make_scene):
    """A scene of b samples with given cosines, in float64; only own pairs match.

    Args:
        pair: Of each sample, the cosine of its visual and its lead.
        told: Of each sample, the cosine of its lead and what was heard; None: nothing was heard.
    """

    def make(pair, told=None):
        b = len(pair)
        told = [None] * b if told is None else told
        # Axes i: the visual; b + i: what else the lead says; 2b + i: what else was heard.
        axes = torch.eye(3 * b, dtype=torch.float64)
        text, roles, owned, rows = [], [], [], []
        for i, (c, t) in enumerate(zip(pair, told, strict=True)):
            lead = c * axes[i] + math.sqrt(1 - c * c) * axes[b + i]
            text.append(lead)
            roles.append(LEAD)
            if t is not None:
                text.append(t * lead + math.sqrt(1 - t * t) * axes[2 * b + i])
                roles.append(HEARD)
            owned.append(1 if t is None else 2)
            rows += [i] * owned[-1]
        target = [[int(i == j) for j in rows] for i in range(b)]
        scene = make_scene([1] * b, [[0]] * len(rows), target, texts=owned, roles=roles, dim=3 * b)
        embeddings = replace(scene.embeddings, visual=axes[:b].clone(), text=torch.stack(text))
        return replace(scene, embeddings=embeddings)

    return make
