"""Truth regions as masks, and the mean-location prior of a concept."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from data_connectors.items import Region
from downstream.interfaces import SampleStore
from medvlp.errors import DatasetError
from medvlp.types import Sample

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def region_mask(regions: Iterable[Region], shape: tuple[int, ...]) -> Mask:
    """Where any of the regions is.

    Args:
        regions: Of one sample and one concept.
        shape: (h, w) of an image, (d, h, w) of a volume; a volume's mask holds its slices
            stacked downwards, and a box of a volume holds on every slice.

    Raises:
        DatasetError: A mask does not have the image's size.
    """
    whole = np.zeros(shape, dtype=bool)
    for region in regions:
        if region.mask_png is not None:
            whole |= _decode(region.mask_png, shape)
        elif region.box is not None:
            x0, y0, x1, y1 = (round(value) for value in region.box)
            whole[..., max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return whole


def _decode(png: bytes, shape: tuple[int, ...]) -> Mask:
    with Image.open(io.BytesIO(png)) as image:
        # Neither a truth mask nor a long volume's stacked slices is a decompression bomb.
        pixels = np.asarray(image.convert("L")) > 0
    if pixels.size != int(np.prod(shape)) or pixels.shape[-1] != shape[-1]:
        raise DatasetError(
            "a truth mask does not have the size of its image",
            code="region-shape", got=pixels.shape, limit=shape,
        )  # fmt: skip
    return pixels.reshape(shape)


def visual_shape(sample: Sample, frames: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w) of an image, (d, h, w) of anything longer.

    Args:
        sample: Says whether it is an image.
        frames: Shape of `Visual.frames`.
    """
    return frames[1:3] if sample.kind == "image" else frames[:3]


def by_concept(regions: Sequence[Region]) -> dict[str, list[Region]]:
    """The regions of one sample, by concept: sides are not told apart."""
    grouped: dict[str, list[Region]] = {}
    for region in regions:
        grouped.setdefault(region.concept, []).append(region)
    return grouped


def to_grid(mask: Mask, cells: int) -> Floats:
    """Share of each cell of a regular grid that the mask covers; `cells` along every axis."""
    values = torch.from_numpy(mask.astype(np.float64))[None, None]
    pool = functional.adaptive_avg_pool2d if mask.ndim == 2 else functional.adaptive_avg_pool3d
    grid: Floats = pool(values, cells)[0, 0].numpy()
    return grid


def mean_location(
    dataset: SampleStore, samples: Sequence[Sample], concepts: Sequence[str], cells: int
) -> dict[tuple[str, str], Floats]:
    """The mean training mask of every (kind, concept), on a grid in relative coordinates.

    Args:
        dataset: Holds the regions.
        samples: Of the training split.
        concepts: Which concepts are asked for.
        cells: Grid cells per axis.
    """
    sums: dict[tuple[str, str], Floats] = {}
    counts: dict[tuple[str, str], int] = {}
    for sample in samples:
        grouped = by_concept(dataset.regions(sample.key))
        wanted = [concept for concept in concepts if concept in grouped]
        if not wanted:
            continue
        shape = _stored_shape(dataset, sample)
        for concept in wanted:
            place = (sample.kind, concept)
            grid = to_grid(region_mask(grouped[concept], shape), cells)
            sums[place] = sums.get(place, 0) + grid
            counts[place] = counts.get(place, 0) + 1
    return {place: total / counts[place] for place, total in sums.items()}


def _stored_shape(dataset: SampleStore, sample: Sample) -> tuple[int, ...]:
    """From the row where it is known, so that training pixels need not be read."""
    known = sample.geometry.shape
    if known is not None and sample.kind == "volume" and len(known) == 3:
        return known
    if known is not None and sample.kind == "image" and len(known) == 2:
        return known
    return visual_shape(sample, dataset.visual(sample).frames.shape)
