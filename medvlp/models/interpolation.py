"""Weights between a fine-tuned model and its base: WiSE-FT.

    theta = (1 - alpha) theta_base + alpha theta_tuned

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", equation 1: what fine-tuning gained
is mostly kept, and what it forgot mostly comes back. Every floating-point tensor of the state is
interpolated, in float64. That includes the running statistics of batch norm: those between are not
the statistics of the model between, only close to them when both ends are close.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from medvlp.errors import CheckpointError, ConfigError
from medvlp.files import file_digest, write_json, write_text
from medvlp.models.checkpoint import (
    DESCRIPTION,
    TOKENIZER,
    WEIGHTS,
    load_encoder,
    model_digest,
    save_model,
)
from medvlp.models.config import ModelConfig
from medvlp.models.encoder import Encoder
from medvlp.models.vlp import VLP
from medvlp.models.weights import load_strict, refuse_keys

CONFIG, SUMMARY = "config.json", "run.json"
_PLACES = ("start", "weights", "hf")
"""Keys of a model config that say where weights came from; two ends may differ in them."""


class End(NamedTuple):
    """One of the two models."""

    state: dict[str, Tensor]
    digest: str


class Ends(NamedTuple):
    """A fine-tuned run and its base, found to be of one kind."""

    tuned: End
    base: End
    base_is_start: bool
    encoder: Encoder
    """The fine-tuned model; its weights are replaced when one between is written."""
    description: dict[str, Any]
    """`model.json` of the run."""
    run: Path


def interpolate(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> tuple[dict[str, Tensor], list[str]]:
    """The state between two: alpha 0 is the base, bit by bit, and 1 the fine-tuned.

    Args:
        base: State of the base.
        tuned: State of the fine-tuned model.
        alpha: In [0, 1].

    Returns:
        The state, and the names of counters (integers) that differ: those of the fine-tuned
        model are taken.

    Raises:
        CheckpointError: The states differ in keys, shapes or types.
        ConfigError: alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ConfigError("alpha is out of range", code="alpha-range", got=alpha, limit="0 to 1")
    refuse_keys("only in the base", sorted(base.keys() - tuned.keys()))
    refuse_keys("only in the fine-tuned model", sorted(tuned.keys() - base.keys()))
    other = [
        key
        for key in sorted(tuned)
        if (base[key].shape, base[key].dtype) != (tuned[key].shape, tuned[key].dtype)
    ]
    refuse_keys("of another shape or type", other)
    state, counters = {}, []
    for key, end in tuned.items():
        start = base[key]
        if not end.is_floating_point():
            state[key] = end.clone()
            if not torch.equal(start, end):
                counters.append(key)
        elif alpha in (0, 1):
            state[key] = (end if alpha else start).clone()
        else:
            mixed = (1 - alpha) * start.double() + alpha * end.double()
            state[key] = mixed.to(end.dtype)
    return state, counters


def read_ends(run: Path, base: Path | None) -> Ends:
    """The two models of an interpolation.

    Args:
        run: Folder of the fine-tuned run.
        base: Folder of another run; None: the start of `run`, built again from its config, seed
            and pretrained weights.

    Raises:
        CheckpointError: One cannot be loaded, or they are not of one kind.
    """
    encoder = load_encoder(run)
    description = _description(run)
    tuned = End(_state(encoder.model), encoder.digest)
    if base is None:
        state = start_state(run, encoder.model.config, len(encoder.tokenizer))
        return Ends(tuned, End(state, _digest(description, state)), True, encoder, description, run)
    other = load_encoder(base)
    changed = _changed(_kind(encoder, description), _kind(other, _description(base)))
    if changed:
        raise _differs(", ".join(sorted(changed)[:3]), "one architecture")
    if file_digest(base / TOKENIZER) != file_digest(run / TOKENIZER):
        raise _differs("tokenizer", "the same tokenizer.json")
    return Ends(tuned, End(_state(other.model), other.digest), False, encoder, description, run)


def start_state(run: Path, config: ModelConfig, vocabulary: int) -> dict[str, Tensor]:
    """The weights with which a run began.

    Args:
        run: Its folder.
        config: Of its model; that of `config.json` must be the same.
        vocabulary: Entries of its tokenizer.

    Raises:
        CheckpointError: The folder has no config that the model could be built from again.
    """
    try:
        tree = json.loads((run / CONFIG).read_text("utf-8"))["config"]
        begun = ModelConfig.model_validate(tree["model"])
        seed = int(tree["trainer"]["seed"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise CheckpointError(
            "the start of the run cannot be built again",
            code="start-lost",
            got=f"{CONFIG}: {type(error).__name__}",
            next_step="name the folder of the base run",
        ) from error
    if begun != config:
        raise _differs("model config", f"that of {DESCRIPTION}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _state(VLP(begun, vocabulary))


def write_between(ends: Ends, alpha: float, out: Path) -> dict[str, Any]:
    """Write the run folder of one alpha: model, tokenizer, config and `run.json`, that one last.

    Args:
        ends: What `read_ends` gave; its encoder gets the new weights.
        alpha: In [0, 1].
        out: Created if need be.

    Returns:
        What was written to `run.json`.
    """
    state, counters = interpolate(ends.base.state, ends.tuned.state, alpha)
    load_strict(ends.encoder.model, state)
    how = {**provenance(ends, alpha), "counters_of_tuned": counters}
    known = {"format", "code_version", "model", "vocabulary", "text_architecture", "sha256"}
    kept = {key: value for key, value in ends.description.items() if key not in known}
    written = save_model(
        out, ends.encoder.model, ends.encoder.tokenizer, {**kept, "interpolation": how}
    )
    if (ends.run / CONFIG).is_file():
        write_text(out / CONFIG, (ends.run / CONFIG).read_text("utf-8"))
    before = ends.run / SUMMARY
    summary: dict[str, Any] = json.loads(before.read_text("utf-8")) if before.is_file() else {}
    summary |= {
        "run": str(out),
        "weights_sha256": written["sha256"][WEIGHTS],
        "mlflow_run_id": None,
        "interpolation": how,
    }
    write_json(out / SUMMARY, summary, sort_keys=True)
    return summary


def provenance(ends: Ends, alpha: float) -> dict[str, Any]:
    """What a model between came from."""
    return {
        "alpha": alpha,
        "base": ends.base.digest,
        "base_is_start": ends.base_is_start,
        "tuned": ends.tuned.digest,
    }


def _description(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text("utf-8"))
    return tree


def _kind(encoder: Encoder, description: dict[str, Any]) -> dict[str, Any]:
    """What must be the same at both ends."""
    text = {**(description["text_architecture"] or {}), "transformers_version": None}
    return {"model": encoder.model.config.model_dump(mode="json"), "text_architecture": text}


def _state(model: VLP) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _digest(description: dict[str, Any], state: dict[str, Tensor]) -> str:
    """The digest that a model of this description has with other weights."""
    data = save({key: value.contiguous() for key, value in state.items()}, {"format": "pt"})
    digests = {**description["sha256"], WEIGHTS: hashlib.sha256(data).hexdigest()}
    return model_digest({**description, "sha256": digests})


def _changed(a: Any, b: Any, where: str = "") -> list[str]:
    """Keys in which two trees differ, places of weights left out."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [where]
    found = []
    for key in a.keys() | b.keys():
        name = f"{where}.{key}" if where else key
        if name.rpartition(".")[2] not in _PLACES:
            found += _changed(a.get(key), b.get(key), name)
    return found


def _differs(what: str, limit: str) -> CheckpointError:
    return CheckpointError(
        "the run and its base are not of one kind",
        code="ends-differ",
        got=f"another {what}",
        limit=limit,
        next_step="name the run that this one was fine-tuned from, or `start`",
    )
