"""The training step: a batch to its objectives. Everything else is in its own file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from medvlp.batch import QuestionRole
from medvlp.knowledge.positives import match
from medvlp.losses.objective import Scene, text_owner
from medvlp.losses.objectives import Objectives
from medvlp.models.pooling import FrameStats
from medvlp.models.vlp import VLP, TextFeatures, VisualFeatures
from medvlp.types import Batch, Embeddings
from pretrain.config import OptimConfig, PretrainConfig
from pretrain.features import PATCH_NEEDS

_TEXT_SIDE = ("model.text.", "model.text_projection.", "model.word_projection.")
"""Parameters that learn at the text tower's rate."""


class PretrainModule(L.LightningModule):
    """A vision-language model under its objectives.

    Args:
        model: What is trained.
        config: Of the run.
        objectives: Under which it is trained.
    """

    def __init__(self, model: VLP, config: PretrainConfig, objectives: Objectives) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives
        self.config = config
        self.last_losses: dict[str, Tensor] = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the step, so that a resumed run draws what the first would have."""
        torch.manual_seed(self.config.trainer.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The weighted sum of the objectives."""
        scene = self.scene(batch)
        with torch.autocast(self.device.type, enabled=False):
            losses: dict[str, Tensor] = self.objectives(scene)
        self.last_losses = {name: value.detach() for name, value in losses.items()}
        return losses["loss"]

    def scene(self, batch: Batch) -> Scene:
        """A batch encoded as far as the objectives need it."""
        needs = self.objectives.needs
        visual = self._visual(batch)
        text, questions = self._texts(batch)
        second = None
        if batch.second is not None:
            second = self.model.encode_visual(
                batch.second, batch.offsets, batch.positions, batch.kind
            ).vector
        embeddings = Embeddings(
            visual=visual.vector,
            text=text.vector,
            patches=visual.patches,
            slice_weights=visual.slice_weights,
            frames=visual.frames,
            words=text.words,
            second=second,
            raw_visual=visual.raw,
            raw_text=text.raw,
        )
        scene = Scene(embeddings, batch, pair_targets(batch), questions, None, self.model)
        if "streams" not in needs or questions is None:
            return scene
        streams = self.model.read_streams(
            visual,
            batch.offsets,
            batch.positions,
            scene.asked(QuestionRole.NAME),
            scene.asked(QuestionRole.REGION),
        )
        return replace(scene, streams=streams)

    def _visual(self, batch: Batch) -> VisualFeatures:
        """The visuals, from their pixels or from what a frozen tower saw in them."""
        needs = self.objectives.needs
        patches, by_frame = bool(needs & PATCH_NEEDS), "frames" in needs
        where = (batch.offsets, batch.positions, batch.kind)
        seen = batch.features
        if seen is None:
            return self.model.encode_visual(batch.frames, *where, patches, by_frame=by_frame)
        return self.model.pool_cached(
            FrameStats(seen.mean, seen.top, seen.attention),
            *where,
            tokens=seen.tokens,
            grid=seen.grid,
            by_frame=by_frame,
        )

    def _texts(self, batch: Batch) -> tuple[TextFeatures, Float[Tensor, "q e"] | None]:
        """The texts and the vectors of the questions; each distinct text is read once."""
        first, where = first_of_each(batch.text_key)
        tokens, mask = batch.tokens[first], batch.token_mask[first]
        if batch.asked is not None:
            # One call: the tower sees a text relative to the other texts of the call.
            tokens = stack_padded(tokens, batch.asked.tokens)
            mask = stack_padded(mask, batch.asked.mask)
        wanted = bool(self.objectives.needs & {"words", "fusion"})
        read = self.model.read_text(tokens, mask, words=wanted)
        questions = read.vector[len(first) :] if batch.asked is not None else None
        words = None
        if read.words is not None:
            words = read.words[: len(first), : batch.tokens.shape[1]][where]
        own = slice(len(first))
        return TextFeatures(read.vector[own][where], words, read.raw[own][where]), questions

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step; then learned temperatures are brought back into bounds."""
        super().optimizer_step(*args, **kwargs)
        self.objectives.after_step()

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Bound the gradient's norm.

        Lightning refuses to clip for a fused optimiser under mixed precision, because with a
        gradient scaler the gradients would still be scaled; bfloat16 has no scaler.
        """
        if self.config.optim.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.optim.clip)

    def configure_optimizers(self) -> Any:
        """AdamW; no decay of norms, biases, scales and embeddings of one dimension."""
        optim = self.config.optim
        optimizer = torch.optim.AdamW(
            parameter_groups(self, optim), lr=optim.lr, betas=optim.betas, fused=True
        )
        steps = self.config.trainer.max_steps
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, steps, optim))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def pair_targets(batch: Batch) -> Tensor:
    """Which texts hold for which visuals: int8 [b, m] of 1, 0, -1 (unknown)."""
    return match(batch.stated, batch.claims, text_owner(batch.text_offsets), batch.text_key)


def first_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first of each distinct key, and for every item which of them is its own.

    Args:
        keys: int64 [m].
    """
    distinct, where = torch.unique(keys, return_inverse=True)
    first = torch.full_like(distinct, len(keys))
    first = first.scatter_reduce(0, where, torch.arange(len(keys), device=keys.device), "amin")
    return first, where


def stack_padded(first: Tensor, second: Tensor) -> Tensor:
    """Rows of two tables under each other, the narrower one padded with zeros."""
    width = max(first.shape[1], second.shape[1])
    padded = [functional.pad(part, (0, width - part.shape[1])) for part in (first, second)]
    return torch.cat(padded)


def parameter_groups(module: PretrainModule, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            text = name.startswith(_TEXT_SIDE)
            groups.setdefault((text, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": (optim.text_lr or optim.lr) if text else optim.lr,
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for (text, decays), parameters in groups.items()
    ]


def lr_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, then cosine from 1 to `final_lr`."""
    warmup = max(1, round(optim.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
