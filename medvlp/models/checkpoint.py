"""A model as files: safetensors + JSON + tokenizer.json; loading is strict and checks digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medvlp import __version__
from medvlp.errors import CheckpointError
from medvlp.files import file_digest, whole, write_text
from medvlp.models.config import ModelConfig
from medvlp.models.encoder import Encoder
from medvlp.models.tokens import TextTokenizer, read_tokenizer
from medvlp.models.vlp import VLP
from medvlp.models.weights import load_strict

FORMAT = 1
WEIGHTS, DESCRIPTION, TOKENIZER = "model.safetensors", "model.json", "tokenizer.json"


def save_model(
    folder: Path, model: VLP, tokenizer: TextTokenizer, provenance: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write a model so that `load_encoder` rebuilds exactly it. Each file appears whole or not.

    Args:
        folder: Created if need be.
        model: Its current weights.
        tokenizer: The vocabulary it was trained with.
        provenance: What else to record (dataset digest, seed, ...); JSON-able.

    Returns:
        What was written to `model.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with whole(folder / WEIGHTS) as path:
        save_file(state, path, metadata={"format": "pt"})
    write_text(folder / TOKENIZER, tokenizer.to_json())
    description = {
        "format": FORMAT,
        "code_version": __version__,
        "model": model.config.model_dump(mode="json"),
        "vocabulary": len(tokenizer),
        "text_architecture": model.text.architecture if model.config.text.hf else None,
        "sha256": {name: file_digest(folder / name) for name in (WEIGHTS, TOKENIZER)},
        **(provenance or {}),
    }
    text = json.dumps(description, indent=2, sort_keys=True)
    write_text(folder / DESCRIPTION, text)
    return description


def load_encoder(
    folder: Path, *, untrained: int | None = None, device: torch.device | str = "cpu"
) -> Encoder:
    """The inference side of a saved model.

    Args:
        folder: A run or bundle folder.
        untrained: A seed: the same architecture with fresh weights, as a baseline.
        device: Where to put it.

    Raises:
        CheckpointError: A file is missing or broken, is not what `model.json` says, or holds a
            missing or unexpected key.
    """
    description = _read_description(folder)
    for name, expected in description["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing", code="checkpoint-missing")
        if file_digest(path) != expected:
            raise CheckpointError(
                f"{name} is not the file that model.json names",
                code="checkpoint-digest",
                next_step="copy the run folder again",
            )
    try:
        config = ModelConfig.model_validate(description["model"])
    except ValidationError as error:
        raise CheckpointError(
            "model.json does not fit this version", code="checkpoint-config",
            got=f"{error.error_count()} errors",
        ) from None  # fmt: skip
    tokenizer = read_tokenizer(folder / TOKENIZER, config.text.max_tokens)
    model = _build(config, description, seed=untrained or 0)
    if untrained is None:
        try:
            load_strict(model, load_file(folder / WEIGHTS))
        except SafetensorError as error:
            raise CheckpointError(f"{WEIGHTS} cannot be read", code="checkpoint-broken") from error
    digest = model_digest(description, untrained)
    return Encoder(model, tokenizer, digest=digest, device=device)


def model_digest(description: dict[str, Any], untrained: int | None = None) -> str:
    """SHA-256 that names a model: its config, weights and vocabulary."""
    named = {key: description[key] for key in ("model", "vocabulary", "sha256")}
    if untrained is not None:
        named["sha256"] = {**named["sha256"], WEIGHTS: f"untrained {untrained}"}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _build(config: ModelConfig, description: dict[str, Any], seed: int) -> VLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VLP(
            config,
            description["vocabulary"],
            pretrained=False,
            text_architecture=description["text_architecture"],
        )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{DESCRIPTION} is missing", code="checkpoint-missing",
            next_step="name a folder that `medvlp pretrain` finished",
        )  # fmt: skip
    try:
        tree = json.loads(path.read_text("utf-8"))
        known = {key: tree[key] for key in ("model", "vocabulary", "text_architecture", "sha256")}
        format_ = tree["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{DESCRIPTION} cannot be read", code="checkpoint-broken") from error
    if format_ != FORMAT:
        raise CheckpointError(
            "the checkpoint has another format", code="checkpoint-format", got=format_, limit=FORMAT
        )
    return known
