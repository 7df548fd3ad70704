"""What four readers make of thirteen DICOM series, as JSON lines and as a picture.

    python benchmarks/series_readers.py --picture docs/pictures/series.png

Every series is a CT phantom of ten slices; most have one thing wrong. A reader is right if every
voxel it gives has its value at its place in the patient, none is left out, and it refuses what
forms no volume. MONAI, SimpleITK and highdicom are asked as their documentation shows.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data_connectors.dicom import load_all
from data_connectors.dicom.series import LoadedSeries
from medvlp.errors import DependencyError

START = np.array([-10.0, -20.0, 30.0])
ROW, COLUMN = np.array([0.6, 0.0, 0.0]), np.array([0.0, 0.8, 0.0])
Placed = tuple[np.ndarray, np.ndarray]
"""Voxels [i, j, k] and affine [i, j, k, 1] -> LPS mm."""


@dataclass(frozen=True)
class Case:
    """One series."""

    name: str
    heights: tuple[float, ...]
    """Of the slices along the normal, in millimetres."""
    numbers: tuple[int, ...] = tuple(range(1, 11))
    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Attributes of single slices."""
    lean: float = 0.0
    """Millimetres sideways for each millimetre along."""
    bad: bool = False
    """Whether it must be refused."""
    shown: dict[int, str] = field(default_factory=dict)
    """Colour names of slices in the picture, where they are not ordinary."""


EVEN = tuple(2.0 * k for k in range(10))
TWICE = tuple(2.0 * (k % 5) for k in range(10))
SCOUT = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImageType": ["ORIGINAL", "PRIMARY", "X"]}
JITTER = tuple(np.round(EVEN + np.random.default_rng(1).uniform(-0.05, 0.05, 10), 4).tolist())
CASES = (
    Case("normal", EVEN),
    Case("numbered backwards", EVEN, tuple(range(10, 0, -1))),
    Case("numbers scrambled", EVEN, (7, 2, 9, 1, 5, 10, 3, 8, 6, 4)),
    Case("all numbers equal", EVEN, (1,) * 10),
    Case("a middle slice missing", EVEN[:4] + EVEN[5:], bad=True),
    Case("a position twice", (*EVEN[:5], *EVEN[4:9]), bad=True, shown={4: "odd", 5: "odd"}),
    Case("one wider gap", (*EVEN[:5], *(z + 1.1 for z in EVEN[5:])), bad=True),
    Case("gantry tilt, 15 degrees", EVEN, lean=float(np.tan(np.radians(15))), bad=True),
    Case("last slice missing", EVEN[:9]),
    Case("slope of each slice (PET)", EVEN,
         changes={k: {"RescaleSlope": 0.5 + 0.25 * k} for k in range(10)}),
    Case("jitter of 0.05 mm", JITTER),
    Case("two echoes", TWICE, changes={k: {"EchoTime": 10 + 70 * (k // 5)} for k in range(10)},
         shown=dict.fromkeys(range(5, 10), "second")),
    Case("a scout in the series", EVEN, changes={0: SCOUT}, shown={0: "odd"}),
)  # fmt: skip


def pixels(case: Case) -> np.ndarray:
    """Stored values [slice, row, column]; no two slices alike."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 3000, (len(case.heights), 6, 5)).astype(np.int16)


def origin(case: Case, k: int) -> np.ndarray:
    """Where the first pixel of a slice is."""
    z = case.heights[k]
    return START + np.array([0.0, z * case.lean, z])


def write(case: Case, folder: Path) -> list[Path]:
    """The files of one series."""
    paths = []
    for k, values in enumerate(pixels(case)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"2.25.1{k:04d}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.2", "2.25.3"
        dataset.FrameOfReferenceUID, dataset.PatientID = "2.25.4", "P"
        dataset.Modality, dataset.InstanceNumber = "CT", case.numbers[k]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = values.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.6], 2
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in origin(case, k)]
        for keyword, value in case.changes.get(k, {}).items():
            setattr(dataset, keyword, value)
        dataset.PixelData = values.tobytes()
        path = folder / f"IM{k:02d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def medvlp(folder: Path) -> list[Placed]:
    """Ours."""
    found = []
    for part in load_all(folder):
        if not isinstance(part, LoadedSeries):
            raise ValueError(f"{part.code}: {part.reason}")
        if part.kind == "volume":
            found.append((part.volume.array, part.volume.affine))
    return found


def highdicom(folder: Path) -> list[Placed]:
    """Highdicom."""
    from highdicom.image import get_volume_from_series

    volume = get_volume_from_series([dcmread(path) for path in sorted(folder.iterdir())])
    return [(volume.array, volume.affine)]


def simpleitk(folder: Path) -> list[Placed]:
    """SimpleITK's series reader."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    turned = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, :3], affine[:3, 3] = turned[:, ::-1], image.GetOrigin()
    return [(sitk.GetArrayFromImage(image), affine)]


def monai(folder: Path) -> list[Placed]:
    """MONAI's LoadImage with PydicomReader."""
    from monai.transforms import LoadImage

    image = LoadImage(reader="PydicomReader", image_only=True)(folder)
    affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(image.affine)
    return [(np.asarray(image), affine)]


READERS: dict[str, Callable[[Path], list[Placed]]] = {
    "medvlp": medvlp, "highdicom": highdicom, "SimpleITK": simpleitk, "MONAI": monai,
}  # fmt: skip


def verdict(case: Case, folder: Path, read: Callable[[Path], list[Placed]]) -> tuple[str, str]:
    """`right`, `refused` (rightly), `refuses` (good data) or `wrong`; and what was said."""
    try:
        volumes = read(folder)
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed") from error
    except Exception as error:  # whatever a reader raises is its refusal
        return ("refused" if case.bad else "refuses"), str(error).split("\n")[0]
    return ("wrong" if case.bad or not _in_place(case, volumes) else "right"), ""


def _in_place(case: Case, volumes: list[Placed]) -> bool:
    """Whether the volumes hold every slice but scouts, each voxel at its place."""
    expected = [k for k in range(len(case.heights)) if case.changes.get(k) is not SCOUT]
    found: set[int] = set()
    for array, affine in volumes:
        if array.ndim != 3 or abs(np.linalg.det(affine)) < 1e-6:
            return False
        for k in expected:
            values = pixels(case)[k] * case.changes.get(k, {}).get("RescaleSlope", 1)
            index = np.indices(values.shape).reshape(2, -1)
            world = origin(case, k)[:, None] + np.outer(COLUMN, index[0]) + np.outer(ROW, index[1])
            there = np.linalg.solve(affine[:3, :3], world - affine[:3, 3:])
            nearest = np.rint(there).astype(int)
            off = np.abs(affine[:3, :3] @ (there - nearest)).max()
            inside = (nearest >= 0).all() and (nearest < np.array(array.shape)[:, None]).all()
            if inside and off < 0.11 and np.allclose(array[tuple(nearest)], values.ravel()):
                found.add(k)
    room = sum(array.size for array, _ in volumes)
    return found == set(expected) and room == len(expected) * 30


def main() -> None:
    """Ask every reader about every series."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, help="where to draw it as PNG")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write(case, Path(folder))
            table[case.name] = {
                name: verdict(case, Path(folder), read) for name, read in READERS.items()
            }
        print(json.dumps({"series": case.name, **table[case.name]}))
    if args.picture:
        draw(table, args.picture)


COLOURS = {"right": "#2a7f62", "refused": "#2a7f62", "refuses": "#d8a01d", "wrong": "#c0392b"}
WORDS = {"right": "right", "refused": "refused", "refuses": "refused", "wrong": "wrong"}
SLICE = {"": "#3b4a5a", "odd": "#c0392b", "second": "#d07c1f"}


def _said(case: Case, kind: str, said: str) -> str:
    """A word or two of ours."""
    if kind == "refused":
        code, _, reason = said.partition(": ")
        slices = re.search(r"slices \d+ and \d+|[\d.]+ degrees", reason)
        return f"{code}: {slices.group()}" if slices else code
    more = {"two echoes": "right: two volumes", "a scout in the series": "right: volume and scout"}
    return more.get(case.name, WORDS[kind])


def draw(table: dict[str, dict[str, tuple[str, str]]], path: Path) -> None:
    """Slices along the normal on the left, what each reader makes of them on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12.5, 6.6), width_ratios=[1, 1.55], layout="constrained"
    )
    for y, case in enumerate(CASES):
        for k, z in enumerate(case.heights):
            top, bottom = (0.32, -0.32)
            if case.name == "two echoes":
                top, bottom = (-0.05, -0.32) if case.shown.get(k) else (0.32, 0.05)
            shift = 0.3 if case.name == "a position twice" and k == 5 else 0.0
            lean = case.lean * 0.9
            across = [z + shift - lean, z + shift + lean], [y - top, y - bottom]
            if case.changes.get(k) is SCOUT:
                across = [z - 1.2, z + 6.2], [y, y]
            colour = SLICE[case.shown.get(k, "")]
            left.plot(*across, lw=2.6, color=colour, solid_capstyle="butt")
            if case.numbers != tuple(range(1, 11)):
                left.text(z + 0.18, y + 0.36, str(case.numbers[k]), fontsize=7, color="#77808a")
    left.set_yticks(range(len(CASES)), [case.name for case in CASES], fontsize=10)
    left.set_ylim(len(CASES) - 0.4, -0.6)
    left.set_xlabel("position along the normal (mm)")
    left.set_title("slices as sent, odd numbers beside them", fontsize=11, loc="left")
    left.tick_params(left=False)
    left.spines[["top", "right", "left"]].set_visible(False)
    places = (0.0, 3.55, 4.6, 5.65)
    for y, case in enumerate(CASES):
        for x, name in zip(places, READERS, strict=True):
            kind, said = table[case.name][name]
            ours = name == "medvlp"
            right.text(
                x, y, _said(case, kind, said) if ours else WORDS[kind], fontsize=9.5, va="center",
                color=COLOURS[kind], weight="bold" if ours else "normal",
            )  # fmt: skip
    for x, name in zip(places, READERS, strict=True):
        right.text(x, -0.85, name, fontsize=11, weight="bold")
    right.text(
        0.0, len(CASES) + 0.1, "wrong: a volume came out, with voxels where they do not belong\n"
        "amber: refused, although it can be read", fontsize=9, color="#77808a", va="center",
    )  # fmt: skip
    right.set_xlim(-0.15, 6.3)
    right.set_ylim(len(CASES) - 0.4, -0.6)
    right.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
