"""One pretraining run: a dataset folder in, a run folder out."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from data_connectors.dataset.store import Dataset
from medvlp.losses.objectives import Objectives
from medvlp.models.checkpoint import save_model
from medvlp.models.start import resolve_start
from medvlp.models.tokens import TextTokenizer
from medvlp.models.vlp import VLP
from pretrain.averaging import WeightAverage
from pretrain.callbacks import Checkpoints, History
from pretrain.config import PretrainConfig, TrainerConfig
from pretrain.datamodule import PretrainData
from pretrain.features import tower_features
from pretrain.folder import DOUBTED, SUMMARY, RunFolder
from pretrain.module import PretrainModule
from pretrain.samples import require_samples, train_samples
from pretrain.texts import build_tokenizer

log = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig, data: Path, out: Path, *, resume: bool = False, logger: Any = None
) -> dict[str, Any]:
    """Train a model on the train split of a dataset.

    Args:
        config: The run.
        data: Dataset folder.
        out: Run folder.
        resume: Go on from the last checkpoint in `out`; without one, start anew.
        logger: A Lightning logger for parameters and metrics; None: no tracking.

    Returns:
        The summary, as written to `run.json`.

    Raises:
        CheckpointError: `out` holds a finished run, or one of another config or dataset.
        ConfigError: There is nothing to train on, or a setting does not fit the data.
    """
    config = config.model_copy(update={"model": resolve_start(config.model)})
    dataset = Dataset.open(data)
    folder = RunFolder(out)
    go_on = folder.claim(config, dataset.digest, resume=resume)
    if resume and not go_on:
        log.info("no checkpoint to resume from: starting anew")
    checkpoint = _read_checkpoint(folder.checkpoint) if go_on else None
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)

    samples = train_samples(dataset, config)
    require_samples(samples)
    tokenizer = build_tokenizer(config.model.text, samples)
    start = int(checkpoint["global_step"]) if checkpoint else 0
    module = _build(config, tokenizer)
    if checkpoint is not None and config.data.features == "cached":
        # Cached features are named after the weights that train on them, not after a file that may
        # have changed since.
        module.load_state_dict(checkpoint["state_dict"])
    needs = module.objectives.needs
    features = tower_features(config, module.model, dataset, needs, folder.features)
    batches = PretrainData(
        config, dataset, samples, tokenizer,
        objectives=module.objectives, start=start, features=features,
    )  # fmt: skip
    if logger is not None:
        logger.log_hyperparams(_parameters(config, dataset.digest, module, len(samples)))
    average = WeightAverage(config.optim.ema) if config.optim.ema is not None else None
    with folder.history(start) as file, _quiet():
        history = History(file, config.trainer, 0.0)
        callbacks: list[L.Callback] = [history] if average is None else [average, history]
        callbacks.append(Checkpoints(folder.checkpoint, config.trainer.checkpoint_every))
        trainer = _trainer(config, out, logger, callbacks)
        with _interruptible(), _without_denormals():
            trainer.fit(
                module,
                datamodule=batches,
                ckpt_path=folder.checkpoint if checkpoint else None,
                weights_only=True,
            )
    if average is not None:
        average.apply(module.model)
    return _finish(config, folder, dataset, module, tokenizer, history, trainer, logger, batches)


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Denormal numbers are many times slower on CPU, and nothing is learnt from them.

    The setting is the whole process's, so it is given back.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _build(config: PretrainConfig, tokenizer: TextTokenizer) -> PretrainModule:
    torch.manual_seed(config.trainer.seed)
    model = VLP(config.model, len(tokenizer))
    objectives = Objectives(config.objectives, config.model, tokenizer, config.doubt)
    return PretrainModule(model, config, objectives)


def _trainer(
    config: PretrainConfig, out: Path, logger: Any, callbacks: list[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        accelerator="auto",
        devices=1,
        precision=precision(config.trainer),
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        logger=logger if logger is not None else False,
        callbacks=callbacks,
        default_root_dir=out,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def precision(config: TrainerConfig) -> Any:
    """Lightning's name of the configured precision on this machine."""
    if config.precision == "fp32":
        return "32-true"
    if config.precision == "bf16":
        return "bf16-mixed"
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    # Without the instructions bfloat16 is emulated, and slower than float32.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def _finish(
    config: PretrainConfig,
    folder: RunFolder,
    dataset: Dataset,
    module: PretrainModule,
    tokenizer: TextTokenizer,
    history: History,
    trainer: L.Trainer,
    logger: Any,
    batches: PretrainData,
) -> dict[str, Any]:
    """Write the model and the summary; the summary last, because it marks the run as finished."""
    description = save_model(
        folder.path,
        module.model.cpu(),
        tokenizer,
        {
            "dataset": dataset.digest,
            "seed": config.trainer.seed,
            "steps": trainer.global_step,
            "shuffle_pairs": config.data.shuffle_pairs,
            "train_pools": {pool.name: len(pool.members) for pool in batches.sampler.pools},
        },
    )
    summary = {
        "run": str(folder.path),
        "steps": trainer.global_step,
        "stopped_early": trainer.global_step < config.trainer.max_steps,
        "seconds": round(history.seconds, 1),
        "loss": history.loss,
        "epochs": round(batches.sampler.epoch(trainer.global_step), 2),
        "samples": sum(len(pool.members) for pool in batches.sampler.pools),
        "texts": len(batches.bank.texts),
        "texts_cut": batches.bank.cut,
        "dataset": dataset.digest,
        "seed": config.trainer.seed,
        "shuffle_pairs": config.data.shuffle_pairs,
        "precision": str(trainer.precision),
        "code_version": description["code_version"],
        "weights_sha256": description["sha256"]["model.safetensors"],
        "mlflow_run_id": getattr(logger, "run_id", None),
    }
    if logger is not None:
        logger.finalize("success")
    doubt = module.objectives.doubt
    if doubt is not None:
        # There is room for more samples than there are.
        n = len(batches.samples)
        noise, wrong = doubt.pairs.noise[:n].tolist(), doubt.doubted[:n].tolist()
        named = zip(batches.samples, noise, wrong, strict=True)
        doubted = {sample.key: round(p, 4) for sample, p, doubtful in named if doubtful}
        summary["doubted"] = len(doubted)
        folder.write(DOUBTED, doubted)
    folder.write(SUMMARY, summary)
    return summary


def _parameters(
    config: PretrainConfig, digest: str, module: PretrainModule, samples: int
) -> dict[str, Any]:
    """What the tracker shows: settings and sizes, nothing of the data itself."""
    flat: dict[str, Any] = {"dataset": digest, "samples": samples}
    flat["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    tree = config.model_dump(mode="json")
    for section in ("data", "optim", "trainer"):
        flat |= {f"{section}.{key}": value for key, value in tree[section].items()}
    for section, value in tree["model"].items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"model.{section}.{key}".rstrip("."): item for key, item in inner.items()}
    flat["objectives"] = tree["objectives"]
    return {key: str(value)[:500] for key, value in flat.items()}


def _read_checkpoint(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into a bare exit and ignores the next one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners and its advice about data loader workers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
