"""Pretrained weights of others: from a local folder or a pinned hub revision, safetensors only.

Nothing is loaded loosely. What a checkpoint has beside the keys of our module is named here, by
prefix; any other key that is left over, missing or of another shape is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medvlp.errors import CheckpointError
from medvlp.models.config import WeightsRef

OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
TIMM_FILES = ("model.safetensors",)
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar", ".npz"})
"""Files that run code when they are opened, or are not checked on the way in: never opened."""

IMAGE_HEADS = ("fc.", "head.", "classifier.", "head_dist.", "attn_pool.", "conv_head.", "bn2.",
               "norm_head.", "norm.")  # fmt: skip
"""What timm's models have between the features and the classes, where the tower has not."""
_CLIP_HEADS = ("logit_scale", "logit_bias", "text_decoder.")
"""Of open_clip: temperature and bias belong to its loss, the decoder to its captions."""
_CLIP_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.",
              "text_projection")  # fmt: skip
"""The text tower of open_clip's plain `CLIP`; its other models have it under `text.`."""


class ClipParts(NamedTuple):
    """The weights of an open_clip model, tower by tower, without their prefixes."""

    visual: dict[str, Tensor]
    text: dict[str, Tensor]


def resolve(ref: WeightsRef, files: Sequence[str] = ("*.safetensors", "*.json", "*.txt")) -> Path:
    """The local folder of a reference; fetches a hub repository at its pinned commit.

    Args:
        ref: Folder or repository.
        files: Which files of a repository are wanted; never a pickle.

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
        folder = snapshot_download(str(ref.hub), revision=ref.revision, allow_patterns=list(files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            "the weights repository cannot be fetched",
            code="weights-unreachable",
            got=f"{ref.hub}@{ref.revision}: {type(error).__name__}",
            next_step="download it elsewhere and name its folder",
        ) from error
    return Path(folder)


def weights_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that a folder has.

    Raises:
        CheckpointError: It has none; `weights-pickle` where it has only files of another kind.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            "the weights are in a file that can run code when it is opened",
            code="weights-pickle",
            got=pickles[0],
            limit=" or ".join(names),
            next_step="convert it to safetensors where you trust it (docs/weights.md)",
        )
    raise CheckpointError(
        "no safetensors file in the weights folder",
        code="weights-missing",
        limit=" or ".join(names),
        next_step="a repository that holds only pickles must be converted first (docs/weights.md)",
    )


def read_weights(ref: WeightsRef, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the first of these files.

    Raises:
        CheckpointError: There is no such file, or it cannot be read.
    """
    path = weights_file(resolve(ref), names)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the weights file cannot be read", code="weights-broken", got=type(error).__name__
        ) from error


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
        refuse_keys(name, keys)
    module.load_state_dict(state, strict=True)


def refuse_keys(what: str, keys: Sequence[str]) -> None:
    """Refuse a checkpoint because of some of its keys, if there are any.

    Raises:
        CheckpointError: There are.
    """
    if keys:
        raise CheckpointError(
            f"{len(keys)} keys are {what}",
            code="checkpoint-keys",
            got=", ".join(keys[:3]),
            limit="exactly the model's keys and shapes",
            next_step="load it with the config it was saved with",
        )


def split_clip(state: dict[str, Tensor]) -> ClipParts:
    """An open_clip model's weights, tower by tower.

    Raises:
        CheckpointError: A key belongs to no part that open_clip's models have.
    """
    visual: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key.startswith("visual."):
            visual[key.removeprefix("visual.")] = value
        elif key.startswith("text."):
            text[key.removeprefix("text.")] = value
        elif key.startswith(_CLIP_TEXT):
            text[key] = value
        elif not key.startswith(_CLIP_HEADS):
            unknown.append(key)
    refuse_keys("unexpected", sorted(unknown))
    return ClipParts(visual, text)


def load_tower_weights(tower: nn.Module, ref: WeightsRef, library: str) -> None:
    """Fill a visual tower from a checkpoint of timm or open_clip.

    Raises:
        CheckpointError: There is no such file, or the keys are not the tower's.
    """
    if library == "open_clip":
        state = split_clip(read_weights(ref, OPEN_CLIP_FILES)).visual
    else:
        state = _timm_state(tower, read_weights(ref, TIMM_FILES))
    load_strict(tower, state)


def _timm_state(tower: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the tower's own names: with merged levels these are `stages_0.` or `model.stages.0.`."""
    own = tower.state_dict().keys()
    named = {}
    for key, value in state.items():
        spellings = (key, key.replace(".", "_", 1), f"model.{key}")
        name = next((spelling for spelling in spellings if spelling in own), key)
        if name in own or not key.startswith(IMAGE_HEADS):
            named[name] = value
    return named
