"""Start from an open_clip model: both towers, projections, tokenizer and pixel scale of one folder.

`resolve_start` writes out in the config what the checkpoint says, so that a saved run needs the
folder no more; `load_start` fills a model of that config with its weights. Before training, images
and texts get the vectors that open_clip's own model gives to the same pixels and tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.config import FrameTowerConfig, ModelConfig, TextTowerConfig, WeightsRef
from medvlp.models.weights import OPEN_CLIP_FILES, load_strict, read_weights, resolve, split_clip

DESCRIPTION = "open_clip_config.json"
START = "start"
"""Name of the frame tower that a start describes."""
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""What open_clip takes where a config names none: those of CLIP's own training images."""
_POOLERS = {
    "mean_pooler": "mean",
    "cls_last_hidden_state_pooler": "cls",
    "cls_pooler": "pooler",
}
_POSITION_IDS = "embeddings.position_ids"
"""A counter that older versions of transformers saved among the weights."""


def resolve_start(config: ModelConfig) -> ModelConfig:
    """The config with everything written out that its `start` decides; else as it is.

    Args:
        config: What it sets itself must agree with the start; how frames are pooled is its own
            choice (the default is the plain mean over frames).

    Raises:
        CheckpointError: The folder is missing or incomplete, or holds a model of a kind that
            cannot be taken over exactly.
        ConfigError: The config sets something else than the checkpoint has.
    """
    if config.start is None or config.frames.name == START:
        return config
    folder = resolve(config.start)
    tree = _read(folder / DESCRIPTION)
    model = tree.get("model_cfg", tree)
    try:
        _refuse_other_kinds(model)
        given = _visual_side(model, tree.get("preprocess_cfg") or {})
        given["text"] = _text_side(model, folder, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{DESCRIPTION} cannot be understood", code="start-broken", got=type(error).__name__
        ) from error
    own = config.model_dump(mode="json", exclude_unset=True)
    own.get("text", {}).pop("hf", None)  # has served
    changed = sorted(_conflicts(own, given))
    if changed:
        raise ConfigError(
            "the config and the checkpoint that it starts from disagree",
            code="start-conflict",
            got=", ".join(f"model.{name}" for name in changed),
            next_step="leave these keys out: the checkpoint decides them",
        )
    pooling = {"statistics": ["attention"], "slices": "mean", **own.get("pooling", {})}
    return ModelConfig.model_validate(_merged(own, {**given, "pooling": pooling}))


def load_start(model: Any) -> None:
    """Fill both towers and their projections; no key may be missing or left over.

    Patch vectors begin with the tower's own projection, where it is one matrix.

    Args:
        model: A `VLP`, of a config that `resolve_start` has written out.

    Raises:
        CheckpointError: The weights are not those of the config.
        ConfigError: The config is not written out.
    """
    if model.config.frames.name != START:
        raise ConfigError(
            "the start of the model is not written out in its config",
            code="start-unresolved",
            next_step="call medvlp.models.start.resolve_start on it first, as medvlp pretrain does",
        )
    parts = split_clip(read_weights(model.config.start, OPEN_CLIP_FILES))
    encoder, projection = _text_parts(parts.text, model.config.text.library)
    if _POSITION_IDS not in model.text.encoder.state_dict():
        encoder.pop(_POSITION_IDS, None)
    load_strict(model.frames.network, parts.visual)
    load_strict(model.text.encoder, encoder)
    load_strict(model.text_projection, projection)
    by_patch = _matrix(parts.visual)
    if by_patch is not None and by_patch.shape == model.patch_projection.weight.shape:
        with torch.no_grad():
            model.patch_projection.weight.copy_(by_patch)


def text_projection(config: TextTowerConfig, width: int, dim: int) -> nn.Module:
    """What brings a text's vector into the joint space.

    Args:
        config: Which kind; `mlp` as in open_clip, without biases.
        width: Of the text tower.
        dim: Of the joint space.
    """
    kind = config.projection
    if kind == "mlp":
        hidden = (width + dim) // 2
        return nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, dim, bias=False)
        )
    if kind != "none":
        return nn.Linear(width, dim, bias=bool((config.architecture or {}).get("proj_bias")))
    if width != dim:
        raise ConfigError(
            "without a projection the text tower must be as wide as the joint space",
            code="tower-width", got=width, limit=dim,
        )  # fmt: skip
    return nn.Identity()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.name} is missing",
            code="start-missing",
            next_step="name a folder as open_clip's models have it on the hub",
        )
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be read", code="start-broken") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path.name} cannot be read", code="start-broken")
    return tree


def _refuse_other_kinds(model: dict[str, Any]) -> None:
    """Models whose vectors we would not reproduce are named, not approximated."""
    text, vision = model["text_cfg"], model["vision_cfg"]
    native = not text.get("hf_model_name")
    reasons = {
        "a caption decoder": "multimodal_cfg" in model,
        "an attentional pool with queries of its own": vision.get("attentional_pool"),
        "cleaning of texts": bool(text.get("tokenizer_kwargs") or text.get("tokenizer_mode")),
        "a class token behind the text": native and text.get("embed_cls"),
        "texts whose padding is read": native and text.get("no_causal_mask"),
        "texts that are not read at their end": native
        and text.get("pool_type", "argmax") not in ("argmax", "eos"),
        "a text pooling that is not a mean or the first token": not native
        and text.get("hf_pooler_type", "mean_pooler") not in _POOLERS,
    }
    found = [name for name, there in reasons.items() if there]
    if found:
        raise CheckpointError(
            "a model of this kind cannot be taken over exactly",
            code="start-unsupported",
            got=", ".join(found),
            next_step="name its visual tower by model.frames.weights and a text encoder by "
            "model.text.hf",
        )


def _visual_side(model: dict[str, Any], pixels: dict[str, Any]) -> dict[str, Any]:
    vision = dict(model["vision_cfg"])
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise CheckpointError(
                "frames are square", code="start-unsupported", got=f"{size[0]} x {size[1]} pixels"
            )
        size = size[0]
    return {
        "embed_dim": model["embed_dim"],
        "preprocess": {
            "size": size,
            "standardise": "fixed",
            "mean": list(pixels.get("mean") or _MEAN),
            "deviation": list(pixels.get("std") or _DEVIATION),
        },
        "frames": FrameTowerConfig(
            library="open_clip",
            name=START,
            vector="tower",
            kwargs={
                "embed_dim": model["embed_dim"],
                "quick_gelu": bool(model.get("quick_gelu", False)),
                "vision_cfg": vision,
            },
        ).model_dump(mode="json", exclude_unset=True),
    }


def _text_side(model: dict[str, Any], folder: Path, config: ModelConfig) -> dict[str, Any]:
    text = dict(model["text_cfg"])
    longest = text.get("context_length", 77)
    chosen = "max_tokens" in config.text.model_fields_set
    beside = (folder / "tokenizer.json").is_file() or config.text.hf is None
    tokenizer = config.start if beside else config.text.hf
    assert tokenizer is not None
    common = {
        "hf": tokenizer.model_dump(mode="json", exclude_unset=True),
        "max_tokens": min(longest, config.text.max_tokens) if chosen else longest,
    }
    if not text.get("hf_model_name"):
        text["quick_gelu"] = bool(model.get("quick_gelu", False))
        projection = "none" if text.get("proj_type", "linear") == "none" else "linear"
        return {**common, "library": "open_clip", "architecture": text, "projection": projection}
    architecture = _encoder_config(config.text.hf, folder, str(text["hf_model_name"]))
    return {
        **common,
        "architecture": architecture,
        "pooling": _POOLERS[text.get("hf_pooler_type", "mean_pooler")],
        "projection": text.get("hf_proj_type", "mlp") or "none",
    }


def _encoder_config(named: WeightsRef | None, folder: Path, name: str) -> dict[str, Any]:
    """The Hugging Face config of the text encoder: of `text.hf`, or beside the checkpoint."""
    path = (resolve(named, ("*.json", "*.txt")) if named is not None else folder) / "config.json"
    tree = _read(path) if path.is_file() else {}
    if "hidden_size" not in tree or tree.get("is_encoder_decoder"):
        raise CheckpointError(
            "the config of the text encoder is missing",
            code="start-text-config",
            got="a config.json of another kind" if tree else "no config.json",
            limit=f"the config.json of {name}",
            next_step="put it and tokenizer.json into the folder, or name theirs by model.text.hf",
        )
    return {key: value for key, value in tree.items() if key not in ("_name_or_path", "auto_map")}


def _text_parts(
    state: dict[str, Tensor], library: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's weights and the projection's, by our names."""
    if library == "hf":
        encoder = {
            key.removeprefix("transformer."): value
            for key, value in state.items()
            if key.startswith("transformer.")
        }
        rest = {
            key.removeprefix("proj."): value
            for key, value in state.items()
            if not key.startswith("transformer.")
        }
        return encoder, rest
    encoder = {key: value for key, value in state.items() if not key.startswith("text_projection")}
    projection = {
        key.removeprefix("text_projection."): value
        for key, value in state.items()
        if key.startswith("text_projection.")
    }
    if "text_projection" in state:  # a bare matrix, applied from the right
        projection["weight"] = state["text_projection"].T.contiguous()
    return encoder, projection


def _matrix(visual: dict[str, Tensor]) -> Tensor | None:
    """The tower's projection [e, d], where it is one matrix."""
    if "proj" in visual:
        return visual["proj"].T
    return visual.get("head.proj.weight")


def _conflicts(own: dict[str, Any], given: dict[str, Any], where: str = "") -> list[str]:
    """Keys that both set, to different values."""
    found = []
    for key in own.keys() & given.keys():
        name = f"{where}{key}"
        if isinstance(own[key], dict) and isinstance(given[key], dict):
            found += _conflicts(own[key], given[key], f"{name}.")
        elif own[key] != given[key]:
            found.append(name)
    return found


def _merged(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Both, the given values first."""
    both = {**own, **given}
    for key in own.keys() & given.keys():
        if isinstance(own[key], dict) and isinstance(given[key], dict):
            both[key] = _merged(own[key], given[key])
    return both
