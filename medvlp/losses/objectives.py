"""The objectives of a run together: their weighted sum, what they need, their scales."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from medvlp.batch import QuestionRole
from medvlp.losses.build import build_loss
from medvlp.losses.config import LossConfig, objective_name
from medvlp.losses.doubt import Doubt
from medvlp.losses.doubt_config import DoubtConfig
from medvlp.losses.objective import LogitScale, Need, Objective, Scene
from medvlp.models.config import ModelConfig
from medvlp.models.tokens import TextTokenizer


class Objectives(nn.Module):
    """The configured objectives and their weighted sum.

    Args:
        configs: Names must differ.
        model: Of the model under them.
        tokenizer: Of the model; only objectives over words need it.
        doubt: Whether pairs that are probably wrong are left out.
    """

    def __init__(
        self,
        configs: Sequence[LossConfig],
        model: ModelConfig,
        tokenizer: TextTokenizer | None = None,
        doubt: DoubtConfig | None = None,
    ) -> None:
        super().__init__()
        self.doubt = None if doubt is None else Doubt(doubt)
        self.weights = {objective_name(config): config.weight for config in configs}
        if len(self.weights) != len(configs):
            raise ValueError("two objectives have the same name")
        self.parts = nn.ModuleDict(
            {objective_name(config): build_loss(config, model, tokenizer) for config in configs}
        )

    @property
    def needs(self) -> frozenset[Need]:
        """What the objectives need in a scene, all together."""
        return frozenset().union(*(part.needs for part in self._all()))

    @property
    def asks(self) -> frozenset[QuestionRole]:
        """Which texts of the knowledge book the objectives need, all together."""
        asked = frozenset[QuestionRole]().union(*(part.asks for part in self._all()))
        if "streams" in self.needs:
            return asked | {QuestionRole.NAME, QuestionRole.REGION}
        return asked

    def forward(self, scene: Scene) -> dict[str, Float[Tensor, ""]]:
        """Every objective by name, unweighted, and their weighted sum as `loss`."""
        if self.doubt is not None:
            scene = self.doubt(scene)
        losses = {name: part(scene) for name, part in self.parts.items()}
        total = sum(self.weights[name] * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        return {"loss": total, **losses}

    def after_step(self) -> None:
        """Called after every optimiser step."""
        for part in self._all():
            part.after_step()

    def figures(self) -> dict[str, float]:
        """The learned scales by objective and the share of doubted pairs, for the log."""
        scales = {
            f"{name}_{inner}".replace(".", "_"): float(part().detach())
            for name, objective in self.parts.items()
            for inner, part in objective.named_modules()
            if isinstance(part, LogitScale)
        }
        return scales if self.doubt is None else {**scales, "doubted": self.doubt.share()}

    def _all(self) -> list[Objective]:
        parts = []
        for part in self.parts.values():
            assert isinstance(part, Objective)
            parts.append(part)
        return parts
