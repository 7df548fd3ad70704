"""What a frozen tower saw in every frame, kept on disk: an adapter trains without the tower.

RadCLIP (arXiv 2403.09948) trains its slice-pooling adapter on slices that a finished 2D encoder
has seen. Frames go through the tower once; what pooling needs of them is a few vectors each
(`FrameStats`). The name of the cache says what made it: the weights, the preprocessing, the data.
Other weights find nothing in it, instead of something stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medvlp import __version__
from medvlp.errors import CheckpointError, DatasetError, IntegrityError
from medvlp.files import whole
from medvlp.models.parts import Packed, frames_at_once, in_parts
from medvlp.models.pooling import PATCH_SHARE, FrameStats
from medvlp.models.preprocess import preprocess
from medvlp.models.vlp import VLP
from medvlp.types import Visual

FORMAT = 1
SHARD_BYTES = 64_000_000


class SliceFeatures(NamedTuple):
    """What was kept of the frames of one sample."""

    stats: FrameStats
    positions: Float[Tensor, " n"]
    """Millimetres or seconds."""
    grid: tuple[int, int]
    """(gh, gw) of the patches."""
    tokens: Float[Tensor, "n p d"] | None = None
    """What the tower gave; None unless the cache was asked to keep it."""

    def at(self, rows: Tensor) -> SliceFeatures:
        """Of some of the frames."""
        stats = FrameStats(*(part[rows] for part in self.stats))
        tokens = None if self.tokens is None else self.tokens[rows]
        return SliceFeatures(stats, self.positions[rows], self.grid, tokens)


def frozen_parts(model: VLP) -> tuple[nn.Module, ...]:
    """What shapes the features of a frame: it must stay as it is while they are used."""
    return model.frames, model.pooling.norm, model.pooling.patch_score


def freeze(model: VLP) -> None:
    """Leave slice pooling, projections and the text tower to be trained on cached features."""
    for part in frozen_parts(model):
        part.requires_grad_(False)


def features_digest(model: VLP, source: str) -> str:
    """SHA-256 of all that shapes the features of a sample.

    Args:
        model: Weights of what sees a frame, and how frames are preprocessed.
        source: Names the data, such as the digest of a dataset.
    """
    config = model.config
    made_by = {
        "format": FORMAT,
        "code": __version__,
        "source": source,
        "preprocess": config.preprocess.model_dump(mode="json"),
        "frames": config.frames.model_dump(mode="json", exclude={"weights"}),
        "heads": config.pooling.heads,
        "patch_share": PATCH_SHARE,
    }
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for part in frozen_parts(model):
        for name, value in sorted(part.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class SliceFeatureCache:
    """Features of the samples of one dataset under one tower, in safetensors shards.

    A shard appears whole or not at all, and is never changed: a run that was killed goes on with
    what is missing, and several runs may fill the same folder.

    Args:
        folder: Of all caches; each has a folder of its own in it.
        digest: As `features_digest` gives it.

    Raises:
        IntegrityError: A shard cannot be read.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.digest = digest
        self.folder = folder / digest
        self._shard_of: dict[str, Path] = {}
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            self._add(path)

    def __contains__(self, key: str) -> bool:
        return self._entry(key) in self._shard_of

    def __len__(self) -> int:
        return len(self._shard_of)

    def get(self, key: str) -> SliceFeatures:
        """The features of one sample, on the CPU.

        Raises:
            DatasetError: They were never computed by this tower.
            IntegrityError: The shard cannot be read.
        """
        entry = self._entry(key)
        path = self._shard_of.get(entry)
        if path is None:
            raise DatasetError(
                "a sample has no cached features", code="features-missing",
                next_step="fill the cache with this model and dataset",
            )  # fmt: skip
        with _opened(path) as file:
            names = set(file.keys())
            stats = FrameStats(*(file.get_tensor(f"{entry}.{name}") for name in FrameStats._fields))
            tokens = f"{entry}.tokens"
            rows, columns = json.loads(file.metadata()["grid"])
            return SliceFeatures(
                stats,
                file.get_tensor(f"{entry}.positions"),
                (rows, columns),
                file.get_tensor(tokens) if tokens in names else None,
            )

    def fill(
        self,
        model: VLP,
        keys: Sequence[str],
        read: Callable[[str], Visual],
        source: str,
        *,
        tokens: bool = False,
    ) -> int:
        """Encode what is missing, in float32, as in use; the model comes back as it was.

        Args:
            model: Whose tower it is.
            keys: Of samples.
            read: The pixels of a sample.
            source: As of `features_digest`.
            tokens: Also keep every patch: much more room, but patch objectives can be trained.

        Returns:
            How many samples were encoded.

        Raises:
            CheckpointError: The model or the data is not what the cache is named after.
        """
        if features_digest(model, source) != self.digest:
            raise CheckpointError(
                "the cache belongs to another tower, preprocessing or dataset",
                code="features-digest", next_step="open a cache with this model's digest",
            )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [key for key in dict.fromkeys(keys) if key not in self]
        waiting: dict[str, Tensor] = {}
        grid = (0, 0)
        with _as_in_use(model):
            for key in missing:
                features = _features(model, read(key), tokens=tokens)
                grid = features.grid
                waiting |= _named(self._entry(key), features)
                if sum(value.nbytes for value in waiting.values()) >= SHARD_BYTES:
                    self._write(waiting, grid)
                    waiting = {}
        if waiting:
            self._write(waiting, grid)
        return len(missing)

    def _entry(self, key: str) -> str:
        """A sample's name in the shards; says nothing about the sample."""
        return hashlib.sha256(f"{self.digest}|{key}".encode()).hexdigest()[:32]

    def _write(self, waiting: dict[str, Tensor], grid: tuple[int, int]) -> None:
        name = hashlib.sha256("|".join(sorted(waiting)).encode()).hexdigest()[:16]
        path = self.folder / f"shard-{name}.safetensors"
        with whole(path) as partial:
            save_file(waiting, partial, metadata={"digest": self.digest, "grid": json.dumps(grid)})
        self._add(path)

    def _add(self, path: Path) -> None:
        with _opened(path) as file:
            if file.metadata()["digest"] != self.digest:
                raise IntegrityError(
                    "a shard lies in the folder of another cache", code="features-broken",
                    got=path.name, next_step="delete the file and fill the cache again",
                )  # fmt: skip
            for name in file.keys():  # noqa: SIM118
                self._shard_of[name.partition(".")[0]] = path


def _features(model: VLP, visual: Visual, *, tokens: bool) -> SliceFeatures:
    frames = preprocess(visual, model.config.preprocess)
    positions = torch.from_numpy(visual.positions.astype("float32"))
    device = next(model.parameters()).device
    offsets = torch.tensor([0, len(frames)], device=device)
    packed = Packed(frames.to(device), offsets, positions.to(device))
    seen = in_parts(
        lambda part: model.see(part, raw=tokens),
        packed,
        frames_at_once(model.config.preprocess.size),
        by_sample=model.frames.by_sample,
    )
    stats = FrameStats(*(part.cpu() for part in seen.stats))
    raw = None if seen.tokens is None else seen.tokens.cpu()
    return SliceFeatures(stats, positions, seen.grid, raw)


def _named(entry: str, features: SliceFeatures) -> dict[str, Tensor]:
    tensors = {**features.stats._asdict(), "positions": features.positions}
    if features.tokens is not None:
        tensors["tokens"] = features.tokens
    return {f"{entry}.{name}": value.contiguous() for name, value in tensors.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise IntegrityError(
            "a shard of cached features cannot be read", code="features-broken", got=path.name,
            next_step="delete the file and fill the cache again",
        ) from error  # fmt: skip


@contextmanager
def _as_in_use(model: VLP) -> Iterator[None]:
    """Evaluation mode, no gradients, no mixed precision; afterwards every part is as before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        kind = next(model.parameters()).device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
