"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz) -> volumes in LPS millimetres.

The header is parsed by nibabel and believed only as far as the bytes go: what it states is
compared with what is there before anything is allocated, and a gzip file is inflated no further
than the header says. Definitions: nifti1.h, nifti2.h (NIMH).
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from data_connectors.archives.expanded import Expanded, first_bytes
from data_connectors.archives.tars import Plain
from data_connectors.dicom.geometry import canonical
from data_connectors.dicom.values import narrow, rescale
from data_connectors.files import Handle
from medvlp.errors import GeometryError, InputError
from medvlp.types import Unit, Volume

SUFFIXES: Final = (".nii", ".nii.gz")
HEADER_BYTES: Final = 544
"""Of NIfTI-2 with the four bytes that announce extensions; NIfTI-1 has 352."""
_ONE: Final = 348
_TWO: Final = 540
_MILLIMETRES: Final = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the low three bits of `xyzt_units`; an unknown unit is taken for millimetres, as by all."""
_RAS_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE: Final = 0.25
"""How far the two orientations of a header may put a corner apart, in smallest voxel edges."""
_NEXT: Final = "convert the image again from where it came from"


class Header(NamedTuple):
    """What a header says that matters, checked."""

    shape: tuple[int, int, int]
    """(i, j, k), the first fastest in memory."""
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    """float64 [4, 4]; index (i, j, k, 1) -> RAS millimetres."""

    @property
    def size(self) -> int:
        """Bytes of the whole file, expanded."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def is_nifti(name: str) -> bool:
    """Whether a file is named like a NIfTI volume."""
    return name.lower().endswith(SUFFIXES)


def read_nifti(handle: Handle, name: str, *, max_bytes: int, unit: Unit = "raw") -> Volume:
    """One volume, canonical (see `Volume`), with the header's scaling applied once.

    Args:
        handle: The file, or its bytes, as stored (gzip included).
        name: Tells whether it is compressed.
        max_bytes: Most bytes of the expanded file.
        unit: What the values are; a NIfTI header cannot say.

    Raises:
        InputError: `nifti-malformed`, `nifti-unsupported`, `nifti-4d`, `nifti-too-large`,
            `nifti-truncated`, `nifti-lying-size`, `nifti-not-finite`, `archive-broken`.
        GeometryError: `nifti-no-orientation`, `nifti-bad-orientation`, `nifti-forms-disagree`.
    """
    content = _content(handle, name)
    header = parse_header(content.read_at(0, HEADER_BYTES))
    if header.size > max_bytes:
        raise InputError(
            "the volume is too large", code="nifti-too-large", got=f"{header.size} bytes",
            limit=max_bytes, next_step="raise max_bytes if it is genuine",
        )  # fmt: skip
    data = content.read_at(0, header.size + 1)
    if len(data) != header.size:
        more = len(data) > header.size
        raise InputError(
            "there are more voxels than the header says" if more else "the file ends early",
            code="nifti-lying-size" if more else "nifti-truncated",
            got=f"more than {header.size} bytes" if more else f"{len(data)} of {header.size} bytes",
            next_step="copy the file again",
        )  # fmt: skip
    stored = np.frombuffer(data, header.dtype, offset=header.offset)
    stack = _values(stored, header).reshape(header.shape[::-1])
    affine = _RAS_TO_LPS @ header.affine
    affine = affine[:, [2, 1, 0, 3]]  # index (k, j, i, 1), as a stack of slices has it
    frame = canonical(affine, stack.shape)
    return Volume(np.ascontiguousarray(frame.reorient(stack)), frame.affine, unit)


def parse_header(data: bytes) -> Header:
    """The header at the beginning of a file.

    Raises:
        InputError, GeometryError: As `read_nifti`.
    """
    try:
        raw = _raw(data)
        offset = float(raw["vox_offset"])
        count = int(raw["dim"][0])
        shape = tuple(int(size) for size in raw["dim"][1 : count + 1])
        dtype = np.dtype(raw.get_data_dtype())
    except InputError:
        raise
    except Exception as failure:  # nibabel raises its own types and most of the built-in ones
        raise _malformed(type(failure).__name__) from None
    if not 1 <= count <= 7 or min(shape) < 1 or offset % 1 or not _ONE <= offset < 1 << 31:
        raise _malformed("dimensions or offset")
    if dtype.names or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(
            "values of this type are not read", code="nifti-unsupported", got=str(dtype.kind),
            next_step="convert it to integers or floating point",
        )  # fmt: skip
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise InputError(
            "it holds several volumes", code="nifti-4d", got=" x ".join(map(str, shape)),
            limit="three dimensions", next_step="split it into one file a volume",
        )  # fmt: skip
    i, j, k = (*shape, 1, 1)[:3]
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        slope, intercept = 1.0, 0.0  # a slope of zero says that there is none
    affine = _affine(raw, (i, j, k))
    return Header((i, j, k), dtype, int(offset), slope, intercept, affine)


def _raw(data: bytes) -> Any:
    """Nibabel's header; the two versions tell themselves apart by their first number."""
    for size, kind, magic, at in ((_ONE, Nifti1Header, b"n+1\0", 344),
                                  (_TWO, Nifti2Header, b"n+2\0", 4)):  # fmt: skip
        if size.to_bytes(4, "little") != data[:4] and size.to_bytes(4, "big") != data[:4]:
            continue
        if data[at : at + 3] in (b"ni1", b"ni2"):
            raise InputError(
                "header and voxels are in two files", code="nifti-unsupported",
                next_step="convert it to a single .nii file",
            )  # fmt: skip
        if data[at : at + 4] == magic and len(data) >= size:
            return kind(data[:size], check=False)  # type: ignore[no-untyped-call]
    raise _malformed("no NIfTI header")


def _affine(raw: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Index -> RAS millimetres, from the form that is set; both must agree where both are."""
    scale = _MILLIMETRES.get(int(raw["xyzt_units"]) & 7, 1.0)
    try:
        forms = [
            form
            for form in (raw.get_sform(coded=True)[0], raw.get_qform(coded=True)[0])
            if form is not None
        ]
    except Exception:
        forms = [np.full((4, 4), np.nan)]
    if not forms:
        raise GeometryError(
            "the header does not say how the volume lies in the patient",
            code="nifti-no-orientation", next_step=_NEXT,
        )  # fmt: skip
    for form in forms:
        form[:3] *= scale
        edges = np.linalg.norm(form[:3, :3], axis=0)
        if not (
            np.isfinite(form).all()
            and np.abs(form).max() < 1e6
            and edges.min() > 1e-4
            and abs(float(np.linalg.det(form[:3, :3] / edges))) > 1e-3
        ):
            raise GeometryError(
                "the orientation in the header is no such thing", code="nifti-bad-orientation",
                next_step=_NEXT,
            )  # fmt: skip
    first: np.ndarray = forms[0]
    last: np.ndarray = forms[-1]
    corners = np.array(np.meshgrid(*[[0, size - 1] for size in shape], [1])).reshape(4, -1)
    apart = float(np.linalg.norm((first - last) @ corners, axis=0).max())
    limit = _TOLERANCE * float(np.linalg.norm(first[:3, :3], axis=0).min())
    if apart > limit:
        raise GeometryError(
            "sform and qform put the volume at two places", code="nifti-forms-disagree",
            got=f"{apart:.2f} mm", limit=f"{limit:.2f} mm",
            next_step="find out which is right, and copy it over the other",
        )  # fmt: skip
    return first


def _values(stored: np.ndarray, header: Header) -> np.ndarray:
    """Real values, int16 where that is exact, else float32."""
    plain = header.slope == 1 and header.intercept == 0
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise InputError(
                "voxels are not numbers", code="nifti-not-finite",
                got=f"{int((~np.isfinite(stored)).sum())} of {stored.size}",
                next_step="say what stands where nothing was measured",
            )  # fmt: skip
        scaled = stored.astype(np.float64)
        values = narrow(scaled if plain else scaled * header.slope + header.intercept)
    elif plain and stored.dtype.kind == "i" and stored.dtype.itemsize <= 2:
        values = stored.astype(np.int16)
    else:
        values = rescale(stored, header.slope, header.intercept)
    if values.dtype == np.float64 or not np.isfinite(values).all():
        raise InputError(
            "values are too deep to be kept exactly", code="nifti-unsupported",
            got=str(stored.dtype), next_step="convert it to 16 bits or floating point",
        )  # fmt: skip
    return values


@runtime_checkable
class _Content(Protocol):
    def read_at(self, start: int, count: int) -> bytes: ...


class _Guarded:
    """Bytes at places; whatever goes wrong is an `InputError`."""

    def __init__(self, content: _Content) -> None:
        self._content = content

    def read_at(self, start: int, count: int) -> bytes:
        try:
            return self._content.read_at(start, count)
        except (EOFError, OSError, ValueError, zlib.error) as failure:
            raise InputError(
                f"the file cannot be read to its end ({type(failure).__name__})",
                code="archive-broken", next_step="copy the file again",
            ) from None  # fmt: skip


class _Memory:
    """Bytes in memory, compressed or not."""

    def __init__(self, data: bytes, packed: bool) -> None:
        self._data = data
        self._packed = packed

    def read_at(self, start: int, count: int) -> bytes:
        if not self._packed:
            return self._data[start : start + count]
        return first_bytes(self._data, start + count)[start:]


def _content(handle: Handle, name: str) -> _Guarded:
    packed = name.lower().endswith(".gz")
    if isinstance(handle, BytesIO):
        return _Guarded(_Memory(handle.getvalue(), packed))
    try:
        path: Path = handle
        return _Guarded(Expanded(path) if packed else Plain(path))
    except OSError as failure:
        raise InputError(
            f"the file cannot be read ({type(failure).__name__})", code="file-unreadable"
        ) from None


def _malformed(why: str) -> InputError:
    return InputError(
        f"there is no NIfTI header that makes sense ({why})", code="nifti-malformed",
        next_step=_NEXT,
    )  # fmt: skip
