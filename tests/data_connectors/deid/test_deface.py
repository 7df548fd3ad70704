"""A head of ellipsoids with a nose, whose brain is known; and a real head."""

from __future__ import annotations

import io

import numpy as np
import pytest

from data_connectors.deid.deface import defaced, face_mask
from data_connectors.items import Identity, Payload, VisualItem
from medvlp.types import Geometry

AXES = {
    "as stored": ((0, 1, 2), (False, False, False)),
    "crown first": ((0, 1, 2), (True, False, False)),
    "sagittal": ((2, 0, 1), (False, False, False)),
    "mirrored": ((1, 0, 2), (False, True, True)),
}


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """HU [z, y, x] at 3 mm with z up and y backwards, brain, face (nose to chin), affine."""
    z, y, x = np.meshgrid(np.arange(-135, 105, 3.0), np.arange(-123, 123, 3.0),
                          np.arange(-96, 96, 3.0), indexing="ij")  # fmt: skip

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        parts = ((a - c) / r for a, c, r in zip((z, y, x), centre, radii, strict=True))
        return sum(part**2 for part in parts) <= 1  # type: ignore[return-value]

    brain = ball((20, 5, 0), (62, 80, 64))
    skull = ball((20, 5, 0), (70, 88, 72))
    skin = ball((20, 5, 0), (76, 95, 79)) | ball((-60, -30, 0), (70, 55, 55))
    nose = ball((-35, -88, 0), (18, 14, 12))
    neck = ball((-120, 10, 0), (60, 45, 45))
    volume = np.full(z.shape, -1000, np.int16)
    for part, value in ((skin | nose | neck, 40), (skull, 900), (brain, 30)):
        volume[part] = value
    face = (nose | ball((-60, -70, 0), (40, 22, 40))) & (volume > -300)
    affine = np.array([[0, 0, 3, -96], [0, 3, 0, -123], [3, 0, 0, -135], [0, 0, 0, 1]], float)
    return volume, brain, face, affine


@pytest.mark.parametrize("name", AXES)
def test_the_brain_stays_and_the_face_goes_however_it_lies(name):
    volume, brain, face, affine = head()
    order, flips = AXES[name]
    sizes = np.array(volume.shape)
    affine = affine.copy()
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (sizes[axis] - 1)
            affine[:3, axis] *= -1
    cut = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    affine[:, :3] = affine[:, list(order)]
    volume, brain, face = (part[cut].transpose(order) for part in (volume, brain, face))
    mask = face_mask(volume, affine, hounsfield=True)
    assert mask is not None
    assert not (mask & brain).any()
    assert (mask & face).sum() > 0.9 * face.sum()


def test_the_front_surface_is_gone_and_the_back_of_the_head_is_not():
    volume, _, _, affine = head()
    mask = face_mask(volume, affine, hounsfield=True)
    tissue = volume > -300
    level = 45 - 5  # below the middle of the brain: eyes and nose
    front = tissue[level].argmax(axis=0)
    moved = (tissue & ~mask)[level].argmax(axis=0)
    seen = tissue[level].any(axis=0)
    middle = slice(24, 40)
    assert (moved - front)[middle][seen[middle]].min() * 3 >= 6
    assert not mask[:, 60:].any() or not (mask & tissue)[45:, 60:].any()


def test_stored_volumes_are_changed_and_what_is_no_head_is_not():
    volume, brain, _, affine = head()

    def item(array: np.ndarray) -> VisualItem:
        buffer = io.BytesIO()
        np.save(buffer, array)
        geometry = Geometry(shape=array.shape, affine=tuple(affine.ravel().tolist()), unit="HU")
        payload = Payload((("npy", buffer.getvalue()),))
        return VisualItem(Identity("p"), "volume", "CT", payload, geometry, (), "d")

    after = defaced(item(volume))
    assert after is not None
    stored = np.load(io.BytesIO(after.payload.members[0][1]))
    assert stored.dtype == volume.dtype
    assert np.array_equal(stored[brain], volume[brain])
    assert after.digest != "d"
    assert (stored != volume).sum() > 1000
    assert defaced(item(volume[30:50])) is None  # a slab
    assert defaced(item(np.full_like(volume, -1000))) is None
