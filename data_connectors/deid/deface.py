"""Takes the face off a head volume: what lies in front of and below the brain, and the skin.

    head    above the threshold of air, largest piece, holes filled
    core    deeper than 16 mm, in the upper 120 mm of the head: holds the brain
    shear   everything on the face's side of the plane that touches the core's front and underside
            at 45 degrees (after Schimke and Hale, Quickshear defacing, 2011)
    shell   the outer 8 mm of the front half of the head, as far up as the forehead

The plane and the shell become air. This is a simple mask for training data: ears and the shape
of the skull stay, a scan of an unusual posture may keep part of the face or be refused, and
nobody has tried to recognise persons in what it leaves. Where the head cannot be found it says so.
"""

from __future__ import annotations

import io
from typing import Final, NamedTuple

import numpy as np
from scipy import ndimage

from data_connectors.deid.payloads import changed
from data_connectors.dicom.values import AIR_HU
from data_connectors.items import VisualItem

_DEEP_MM: Final = 16.0
_UPPER_MM: Final = 120.0
_SHELL_MM: Final = 8.0
_BUFFER_MM: Final = 4.0
_FOREHEAD_MM: Final = 45.0
"""How far below the crown the shell begins."""
_LEVEL_MM: Final = 70.0
"""Below the crown, where a head is about as wide as heads are."""
_WIDE_MM: Final = (110.0, 260.0)
_STEP_MM: Final = 2.0
_AIR_HU: Final = -300.0


class _Head(NamedTuple):
    """A head in coarse voxels, on axes (down from the crown, backwards, left)."""

    inside: np.ndarray
    spacing: tuple[float, float, float]


def defaced(item: VisualItem) -> VisualItem | None:
    """The volume without its face, or None where no head is found in it."""
    if item.kind != "volume" or item.geometry.affine is None:
        return None
    volume = np.load(io.BytesIO(item.payload.members[0][1]), allow_pickle=False)
    hounsfield = item.geometry.unit == "HU"
    mask = face_mask(volume, np.array(item.geometry.affine).reshape(4, 4), hounsfield=hounsfield)
    if mask is None:
        return None
    air = AIR_HU if hounsfield else volume.min()
    return changed(item, lambda k, frame: np.where(mask[k], air, frame).astype(frame.dtype))


def face_mask(volume: np.ndarray, affine: np.ndarray, *, hounsfield: bool) -> np.ndarray | None:
    """Which voxels go.

    Args:
        volume: [d, h, w].
        affine: [4, 4], index -> LPS millimetres.
        hounsfield: Whether values are in HU.

    Returns:
        bool [d, h, w], or None where no head is found.
    """
    axes = _anatomical(affine)
    if axes is None:
        return None
    order, flips, spacing = axes
    turned = _flipped(volume.transpose(order), flips)
    steps = tuple(max(1, round(_STEP_MM / mm)) for mm in spacing)
    coarse = turned[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    scaled = tuple(mm * step for mm, step in zip(spacing, steps, strict=True))
    head = _find_head(coarse, (scaled[0], scaled[1], scaled[2]), hounsfield)
    if head is None:
        return None
    gone = _face(head)
    if gone is None:
        return None
    for axis, step in enumerate(steps):
        gone = gone.repeat(step, axis)
    gone = gone[: turned.shape[0], : turned.shape[1], : turned.shape[2]]
    return np.ascontiguousarray(_flipped(gone, flips).transpose(np.argsort(order)))


def _anatomical(
    affine: np.ndarray,
) -> tuple[list[int], list[bool], tuple[float, float, float]] | None:
    """Order and flips that turn array axes into (inferior, posterior, left), and their spacing."""
    linear = affine[:3, :3]
    main = np.abs(linear).argmax(axis=0)  # array axis -> LPS axis
    if sorted(main.tolist()) != [0, 1, 2]:
        return None
    order = [int(np.flatnonzero(main == lps)[0]) for lps in (2, 1, 0)]
    # +z is up, so that an axis that grows with z is flipped to go down.
    signs = [float(np.sign(linear[lps, axis])) for lps, axis in zip((2, 1, 0), order, strict=True)]
    flips = [signs[0] > 0, signs[1] < 0, signs[2] < 0]
    mm = np.linalg.norm(linear, axis=0)[order]
    return order, flips, (float(mm[0]), float(mm[1]), float(mm[2]))


def _flipped(array: np.ndarray, flips: list[bool]) -> np.ndarray:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _find_head(
    volume: np.ndarray, spacing: tuple[float, float, float], hounsfield: bool
) -> _Head | None:
    """The head from its crown down; None where what is there is not as wide as a head."""
    limit = _AIR_HU if hounsfield else 0.12 * float(np.percentile(volume, 99))
    labels, count = ndimage.label(ndimage.binary_opening(volume > limit, iterations=1))
    if not count:
        return None
    inside = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    for axis in range(3):  # slice by slice, so that air passages open to one side are filled too
        for index in range(inside.shape[axis]):
            at = (slice(None),) * axis + (index,)
            inside[at] = ndimage.binary_fill_holes(inside[at])
    area = inside.sum(axis=(1, 2)) * spacing[1] * spacing[2]
    rows = np.flatnonzero(area > 500)
    if not len(rows):
        return None
    crown = int(rows[0])
    level = crown + round(_LEVEL_MM / spacing[0])
    if level >= len(inside):
        return None
    for axis in (0, 1):
        across = np.flatnonzero(inside[level].any(axis=axis))
        width = (across[-1] - across[0] + 1) * spacing[2 - axis] if len(across) else 0.0
        if not _WIDE_MM[0] <= width <= _WIDE_MM[1]:
            return None
    inside[:crown] = False
    return _Head(inside, spacing)


def _face(head: _Head) -> np.ndarray | None:
    """What goes, in coarse voxels; None where the head has no inside."""
    down, back, _ = np.ogrid[tuple(slice(0, size) for size in head.inside.shape)]
    down_mm, back_mm = down * head.spacing[0], back * head.spacing[1]
    crown_mm = float(np.flatnonzero(head.inside.any(axis=(1, 2)))[0] * head.spacing[0])
    padded = np.pad(head.inside, ((1, 0), (1, 1), (1, 1)))
    depth = ndimage.distance_transform_edt(padded, sampling=head.spacing)[1:, 1:-1, 1:-1]
    core = (depth > _DEEP_MM) & (down_mm < crown_mm + _UPPER_MM)
    if not core.any():
        return None
    towards_face = (down_mm - back_mm) / np.sqrt(2.0)
    plane = float(np.broadcast_to(towards_face, core.shape)[core].max()) + _BUFFER_MM
    middle = float(np.broadcast_to(back_mm, core.shape)[core].mean())
    shell = head.inside & (depth < _SHELL_MM) & (back_mm < middle)
    shell &= down_mm > crown_mm + _FOREHEAD_MM
    gone: np.ndarray = (towards_face > plane) | shell
    return gone
