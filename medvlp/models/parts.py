"""Many frames through a tower in parts, so that memory does not grow with a series.

Without gradients each part's activations are gone before the next part comes. With gradients they
would all be kept; gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) keeps a part's input
instead, and computes its activations again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from medvlp.models.pooling import FrameStats

FRAMES_AT_ONCE = 64
"""Frames of a part in use, of 224 pixels or fewer."""


class Seen(NamedTuple):
    """What is kept of n frames."""

    mean: Float[Tensor, "n d"]
    top: Float[Tensor, "n d"]
    attention: Float[Tensor, "n d"]
    grid: tuple[int, int]
    """(gh, gw) of the patches."""
    patches: Float[Tensor, "n p e"] | None = None
    tokens: Float[Tensor, "n p d"] | None = None

    @property
    def stats(self) -> FrameStats:
        """For pooling."""
        return FrameStats(self.mean, self.top, self.attention)


class Packed(NamedTuple):
    """Frames of samples in a row."""

    frames: Float[Tensor, "n 3 s s"] | UInt8[Tensor, "n 3 s s"]
    offsets: Int[Tensor, " bounds"]
    """Sample i owns frames offsets[i]:offsets[i + 1]."""
    positions: Float[Tensor, " n"]


See = Callable[[Packed], Seen]


def frames_at_once(size: int) -> int:
    """Frames of a part in use: larger frames have larger activations, so fewer go together.

    Args:
        size: Height and width of a frame, pixels.
    """
    return max(1, int(FRAMES_AT_ONCE * min(1.0, (224 / size) ** 2)))


def in_parts(see: See, packed: Packed, at_once: int | None, *, by_sample: bool) -> Seen:
    """What `see` makes of the frames, some at a time.

    Args:
        see: Frames to what is kept of them.
        packed: All frames.
        at_once: Frames of a part; None: all.
        by_sample: A sample stays in one part, however long it is. Else each part takes its frames
            as samples of their own.
    """
    n = len(packed.frames)
    if at_once is None or n <= at_once:
        return see(packed)
    if by_sample:
        return _joined([see(part) for part in _sample_parts(packed, at_once)])
    bounds = range(0, n, at_once)
    return _joined([see(_alone(packed, slice(i, i + at_once))) for i in bounds])


def checkpointed(
    see: See, packed: Packed, at_once: int, network: nn.Module, *, by_sample: bool
) -> Seen:
    """The same for training: activations of each part are computed again for the gradient.

    A part takes every k-th frame, so that all samples are in every part: batch norm, which here
    normalises part by part, then sees about the same frames in each. Running statistics are those
    of one pass over the parts: computing a part again leaves them alone.

    Args:
        see: Frames to what is kept of them.
        packed: All frames.
        at_once: Most frames of a part.
        network: What `see` runs; its batch norms are looked after.
        by_sample: As of `in_parts`; parts are then samples in a row.
    """

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _SameRunningStatistics(network)

    def again(part: Packed) -> Seen:
        seen: Seen = checkpoint(see, part, use_reentrant=False, context_fn=contexts)
        return seen

    n = len(packed.frames)
    if by_sample:
        return _joined([again(part) for part in _sample_parts(packed, at_once)])
    count = -(-n // at_once)
    rows = torch.cat([torch.arange(i, n, count) for i in range(count)]).to(packed.frames.device)
    parts = [again(_alone(packed, slice(i, None, count))) for i in range(count)]
    return _joined(parts, rows.argsort())


def _alone(packed: Packed, rows: slice) -> Packed:
    frames = packed.frames[rows]
    offsets = torch.arange(len(frames) + 1, device=packed.offsets.device)
    return Packed(frames, offsets, packed.positions[rows])


def _sample_parts(packed: Packed, at_once: int) -> Iterator[Packed]:
    """Whole samples in a row with few enough frames; a long one goes alone."""
    bounds = packed.offsets.tolist()
    first = 0
    for last in range(1, len(bounds)):
        if last + 1 < len(bounds) and bounds[last + 1] - bounds[first] <= at_once:
            continue
        rows = slice(bounds[first], bounds[last])
        offsets = packed.offsets[first : last + 1] - bounds[first]
        yield Packed(packed.frames[rows], offsets, packed.positions[rows])
        first = last


def _joined(parts: list[Seen], order: Tensor | None = None) -> Seen:
    def join(values: tuple[Any, ...]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        whole = torch.cat(values)
        return whole if order is None else whole[order]

    return Seen(*(join(values) for values in zip(*parts, strict=True)))


class _SameRunningStatistics:
    """In its body batch norms count on copies, which are thrown away afterwards.

    The buffers themselves must not be written to: the way back needs them as they were.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [module for module in network.modules() if isinstance(module, _NormBase)]
        self._kept: list[tuple[_NormBase, str, Tensor]] = []

    def __enter__(self) -> None:
        for norm in self._norms:
            for name, buffer in list(norm.named_buffers(recurse=False)):
                self._kept.append((norm, name, buffer))
                setattr(norm, name, buffer.clone())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._kept:
            norm, name, buffer = self._kept.pop()
            setattr(norm, name, buffer)
