"""Facet contrast: one visual matches several descriptions of what it shows."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.patch_text import balanced_sigmoid_loss
from medvlp.losses.objective import LogitScale, Objective, Scene

Projection = Literal["facet", "shared", "none"]
_SMALLEST = 1e-4


class FacetProjection(nn.Module):
    """The cosine of a facet with the visual as it looks from that facet.

        z_if = unit( v_i + W2 relu(W1 [v_i ; u_f]) )      g_if = z_if . u_f

    No vector can be near several descriptions that are far from each other; z_if has a direction
    of its own for each. W2 starts at 0, so that z_if starts as v_i.

    Args:
        dim: Width of the joint space.
        width: Rank of what is added.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.of_visual = nn.Linear(dim, width, bias=False)
        self.of_facet = nn.Linear(dim, width)
        self.out = nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, visual: Float[Tensor, "b e"], facets: Float[Tensor, "f e"]
    ) -> Float[Tensor, "b f"]:
        """Cosines of unit vectors; no [b f e] tensor is built.

        With h the hidden values: (v + W2 h) . u = v . u + h . W2'u, and
        |v + W2 h|^2 = |v|^2 + 2 h . W2'v + h' (W2'W2) h.
        """
        hidden = functional.relu(self.of_visual(visual)[:, None] + self.of_facet(facets))
        up = self.out.weight
        dot = visual @ facets.T + torch.einsum("bfw,fw->bf", hidden, facets @ up)
        cross = torch.einsum("bfw,bw->bf", hidden, visual @ up)
        square = (visual**2).sum(1)[:, None] + 2 * cross + (hidden @ (up.T @ up) * hidden).sum(2)
        cosines: Tensor = dot * square.clamp_min(_SMALLEST).rsqrt()
        return cosines


class SharedProjection(nn.Module):
    """The cosine of a facet with one linear map of the visual, the identity at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.out.weight)

    def forward(
        self, visual: Float[Tensor, "b e"], facets: Float[Tensor, "f e"]
    ) -> Float[Tensor, "b f"]:
        """Cosines."""
        moved = self.out(visual)
        length = (moved**2).sum(1, keepdim=True).clamp_min(_SMALLEST)
        cosines: Tensor = (moved * length.rsqrt()) @ facets.T
        return cosines


class FacetContrast(Objective):
    """Balanced sigmoid loss of visuals and the radiographic facets of concepts.

        L = B( s g_if - b )

    B is `balanced_sigmoid_loss` over the pairs of a visual and a facet of a concept that it is
    known to have (positive) or to be without (negative); doubted and unknown ones take no part.
    After DeViDe (arXiv 2404.03618): descriptions of shape, texture, border and so on, and a
    projection by which an image matches several of them. Its code is not public; that the
    projection sees the facet is our reading of it. MAVL (Phan et al. 2024) contrasts facets by a
    softmax with soft targets; a sigmoid needs no such targets.

    Args:
        dim: Width of the joint space.
        projection: `facet`: `FacetProjection`; `shared`: one linear map of the visual for all
            facets; `none`: the visual as it is.
        width: Rank of the projection `facet`.
        temperature: 1 / s, start value; learned.
        min_temperature: Its lower bound.
        bias: b, start value; learned.
    """

    needs = frozenset({"questions"})
    asks = frozenset({QuestionRole.FACET})

    def __init__(
        self,
        *,
        dim: int,
        projection: Projection = "facet",
        width: int = 64,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.projection: FacetProjection | SharedProjection | None = None
        if projection == "facet":
            self.projection = FacetProjection(dim, width)
        elif projection == "shared":
            self.projection = SharedProjection(dim)
        self.scale = LogitScale(temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no facet's concept is known of any visual."""
        visual, asked = scene.embeddings.visual, scene.batch.asked
        if asked is None or scene.questions is None:
            return visual.sum() * 0
        facets = scene.asked(QuestionRole.FACET)
        cosines = visual @ facets.T if self.projection is None else self.projection(visual, facets)
        subject = asked.subject[asked.rows(QuestionRole.FACET)]
        present, absent = scene.known()
        logits = self.scale() * cosines - self.bias
        return balanced_sigmoid_loss(logits, present[:, subject], absent[:, subject])
