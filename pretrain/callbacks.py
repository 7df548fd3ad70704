"""What happens beside the training step: history, progress, checkpoints, the time limit."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medvlp.errors import MedvlpError
from medvlp.files import whole
from medvlp.types import Batch
from pretrain.config import TrainerConfig
from pretrain.module import PretrainModule

log = logging.getLogger(__name__)


class History(L.Callback):
    """Logs every objective by name: to the history file, to the tracker, to stderr.

    Args:
        file: Open for appending.
        config: How often.
        seconds: Time spent before a resume.
    """

    def __init__(self, file: TextIO, config: TrainerConfig, seconds: float) -> None:
        self.file = file
        self.config = config
        self.before = seconds
        self.seconds = seconds
        self.loss = float("nan")
        self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the progress bar."""
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task(
            "training", total=self.config.max_steps, completed=trainer.global_step
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log, show, and stop when the time is over."""
        assert isinstance(pl_module, PretrainModule)
        step = trainer.global_step
        self.seconds = self.before + time.monotonic() - self._started
        limit = self.config.max_seconds
        if limit is not None and self.seconds > limit:
            log.warning("stopped by trainer.max_seconds after %d steps", step)
            trainer.should_stop = True
        last = step == self.config.max_steps or trainer.should_stop
        self._bar.advance(self._task)
        if step % self.config.log_every == 0 or step == 1 or last:
            self._write(trainer, pl_module, step)

    def _write(self, trainer: L.Trainer, module: PretrainModule, step: int) -> None:
        losses = {name: float(value) for name, value in module.last_losses.items()}
        self.loss = losses["loss"]
        if not math.isfinite(self.loss):
            raise MedvlpError(
                "the loss is not finite", code="loss-not-finite", got=f"step {step}",
                next_step="lower optim.lr, or raise min_temperature of the objectives",
            )  # fmt: skip
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        figures = module.objectives.figures()
        line = {"step": step, **losses, **figures, "lr": lr, "seconds": round(self.seconds, 2)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if trainer.logger is not None:
            tracked = {f"train/{k}": v for k, v in line.items() if k not in ("step", "seconds")}
            trainer.logger.log_metrics(tracked, step=step)
        self._bar.update(self._task, description=f"loss {self.loss:.3f}")
        if not sys.stderr.isatty():
            log.info(
                "step %d of %d, loss %.3f, %.0f s",
                step, self.config.max_steps, self.loss, self.seconds,
            )  # fmt: skip

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        if hasattr(self, "_bar"):
            self._bar.stop()

    def state_dict(self) -> dict[str, Any]:
        """Goes into the resume checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes back from the resume checkpoint."""
        self.before = self.seconds = float(state_dict["seconds"])


class Checkpoints(L.Callback):
    """Saves what a resume needs every so many steps; a kill leaves the last whole one.

    Args:
        path: The checkpoint file.
        every: Steps.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save under another name, then put it in place."""
        if trainer.global_step % self.every:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole(self.path) as partial:
            trainer.save_checkpoint(partial)
