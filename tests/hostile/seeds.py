"""Real files that the fuzz run damages, and small archives and images made of them."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pydicom.data
from PIL import Image

LARGEST = 700_000
"""Larger files add time and no new code paths."""
REAL = ("syntaxes_ct", "pydicom_data", "pydicom", "vendors", "ct_chest_cap002")
PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")


class Seed(NamedTuple):
    """A file before it is damaged."""

    kind: str
    """`dicom`, `zip`, `tar`, `tgz`, `gz`, `dicomdir`, `png`, `jpg`, `nii`, `nii.gz`."""
    data: bytes


def collect(shared: Path | None) -> list[Seed]:
    """Every seed: pydicom's bundled files, the shared real data if it is there, and what is made.

    Args:
        shared: The folder `shared/data/dicom`.
    """
    folders = [Path(pydicom.data.__file__).parent / "test_files"]
    if shared is not None and shared.is_dir():
        folders += [shared / name for name in REAL]
    dicom: dict[bytes, Seed] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and 140 < path.stat().st_size <= LARGEST:
                data = path.read_bytes()
                if data[128:132] == b"DICM" or path.suffix in (".dcm", ""):
                    kind = "dicomdir" if path.name.startswith("DICOMDIR") else "dicom"
                    dicom.setdefault(data, Seed(kind, data))
    seeds = list(dicom.values())
    small = [seed.data for seed in seeds if seed.kind == "dicom" and len(seed.data) < 60_000][:6]
    return [*seeds, *_archives(small), *_images(), *_nifti()]


def _archives(members: list[bytes]) -> list[Seed]:
    seeds = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for number, data in enumerate(members):
                archive.writestr(f"STUDY/SERIES/IM{number:04d}", data)
        seeds.append(Seed("zip", buffer.getvalue()))
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for number, data in enumerate(members):
                name = f"STÜDY/{'deep/' * 30 if form else ''}IM{number:04d}"
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        seeds.append(Seed("tar", buffer.getvalue()))
        seeds.append(Seed("tgz", gzip.compress(buffer.getvalue(), mtime=0)))
    return [*seeds, Seed("gz", gzip.compress(members[0], mtime=0))]


def _images() -> list[Seed]:
    rng = np.random.default_rng(0)
    seeds = []
    for array in (
        rng.integers(0, 256, (40, 30), np.uint8),
        rng.integers(0, 65536, (40, 30), np.uint16),
        rng.integers(0, 256, (40, 30, 3), np.uint8),
        rng.integers(0, 256, (40, 30, 4), np.uint8),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        seeds.append(Seed("png", buffer.getvalue()))
        if array.dtype == np.uint8 and array.shape[-1] != 4:
            for progressive in (False, True):
                buffer = io.BytesIO()
                Image.fromarray(array).save(buffer, "JPEG", progressive=progressive)
                seeds.append(Seed("jpg", buffer.getvalue()))
    return seeds


def _nifti() -> list[Seed]:
    rng = np.random.default_rng(0)
    seeds = []
    for kind in (np.int16, np.uint8, np.float32):
        array = rng.integers(0, 200, (9, 8, 7)).astype(kind)
        for image in (nibabel.Nifti1Image(array, np.diag([-1, -2, 3, 1])),
                      nibabel.Nifti2Image(array, np.diag([-1, -2, 3, 1]))):  # fmt: skip
            data = image.to_bytes()
            seeds += [Seed("nii", data), Seed("nii.gz", gzip.compress(data, mtime=0))]
    return seeds


def pools(seeds: list[Seed]) -> dict[str, list[Seed]]:
    """Seeds by kind, and DICOM objects with pixels apart."""
    found: dict[str, list[Seed]] = {"pixels": []}
    for seed in seeds:
        found.setdefault(seed.kind, []).append(seed)
        if seed.kind == "dicom" and any(tag in seed.data for tag in PIXELS):
            found["pixels"].append(seed)
    return found


def choose(seeds: dict[str, list[Seed]], rng: random.Random) -> Seed:
    """One of the pools' seeds: DICOM objects mostly, most of them with pixels."""
    kind = rng.choice(sorted(seeds)) if rng.random() < 0.25 else "dicom"
    return rng.choice(seeds["pixels" if kind == "dicom" and rng.random() < 0.9 else kind])
