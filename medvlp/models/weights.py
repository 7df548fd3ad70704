"""Pretrained weights of others: from a local folder or a pinned hub revision, safetensors only."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medvlp.errors import CheckpointError
from medvlp.models.config import WeightsRef

_HEADS = ("fc.", "head.", "classifier.", "head_dist.")
"""Classifiers of image models; the tower has none, so these alone may be left unused."""


def resolve(ref: WeightsRef) -> Path:
    """The local folder of a reference; fetches a hub repository at its pinned commit.

    Raises:
        CheckpointError: The folder does not exist, or the repository cannot be fetched.
    """
    if ref.folder is not None:
        if not ref.folder.is_dir():
            raise CheckpointError("the weights folder does not exist", code="weights-missing")
        return ref.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            str(ref.hub),
            revision=ref.revision,
            allow_patterns=["*.safetensors", "*.json", "*.txt"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            "the weights repository cannot be fetched",
            code="weights-unreachable",
            got=f"{ref.hub}@{ref.revision}: {type(error).__name__}",
            next_step="download it elsewhere and name its folder",
        ) from error
    return Path(folder)


def load_strict(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load every key, and only them, at their exact shapes.

    Raises:
        CheckpointError: A key is missing, is not the module's, or has another shape.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    for name, keys in (("missing", missing), ("unexpected", extra), ("of another shape", wrong)):
        if keys:
            raise CheckpointError(
                f"{len(keys)} keys are {name}",
                code="checkpoint-keys",
                got=", ".join(keys[:3]),
                limit="exactly the model's keys and shapes",
                next_step="load it with the config it was saved with",
            )
    module.load_state_dict(state, strict=True)


def load_tower_weights(tower: nn.Module, ref: WeightsRef, library: str) -> None:
    """Fill a visual tower from a checkpoint of timm or open_clip.

    Raises:
        CheckpointError: There is no such file, or the keys are not the tower's.
    """
    folder = resolve(ref)
    names = ["open_clip_model.safetensors", "model.safetensors"]
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise CheckpointError(
            "no safetensors file in the weights folder", code="weights-missing", limit=names
        )
    try:
        state = load_file(files[0])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the weights file cannot be read", code="weights-broken", got=type(error).__name__
        ) from error
    if library == "open_clip":
        state = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    else:
        state = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    with torch.no_grad():
        load_strict(tower, state)
