"""Reading a CT series of 200 slices, in every syntax, beside MONAI, SimpleITK and plain pydicom.

    python -m benchmarks.dicom_series --repeats 5 --json series.json
    python -m benchmarks.dicom_series --only raw,jpeg-ls --sides ours,monai

Every side reads the same files in a fresh process, sides take turns, and all must give the same
voxels. CPU seconds are those of the process and its children, after imports; memory is the growth
of the largest resident size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SLICES, SIZE, INTERCEPT = 200, 512, -1024
SYNTAXES = {
    "raw": "1.2.840.10008.1.2.1",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
LIMITS = {"raw": 0.25, "jpeg-ls": 0.55, "jpeg-lossless": 0.5, "htj2k": 0.35, "jpeg-2000": 0.5}
"""Largest ratio to MONAI: of CPU time, for JPEG 2000 of wall time."""
SIDES = ("ours", "monai", "simpleitk", "pydicom")


def slice_of(index: int) -> np.ndarray:
    """A 12-bit slice of a smooth body with correlated noise, uint16 [512, 512]."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(index)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    body = ((columns - 256) / 230) ** 2 + ((rows - 256) / 190) ** 2 < 1
    noise = gaussian_filter(random.normal(size=(SIZE, SIZE)), 0.6) * 30
    tissue = 1060 + 200 * np.sin(columns / 40 + index / 7) * np.cos(rows / 31) + noise
    return np.clip(np.where(body, tissue, 24 + np.abs(noise) / 3), 0, 4095).astype(np.uint16)


def encoded(pixels: np.ndarray, syntax: str) -> bytes:
    """One frame in a syntax; bytes as they are for raw."""
    import imagecodecs
    from pydicom.pixels.encoders import RLELosslessEncoder

    size = {"rows": SIZE, "columns": SIZE, "samples_per_pixel": 1, "number_of_frames": 1}
    kind = {"bits_allocated": 16, "bits_stored": 12, "pixel_representation": 0}
    match syntax:
        case "raw":
            return pixels.tobytes()
        case "rle":
            options: dict[str, Any] = {**size, **kind, "photometric_interpretation": "MONOCHROME2"}
            return RLELosslessEncoder.encode(
                pixels.tobytes(), encoding_plugin="pylibjpeg", **options
            )
        case "jpeg-lossless":
            return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)
        case "jpeg-ls":
            return imagecodecs.jpegls_encode(pixels)
        case "jpeg-2000":
            return imagecodecs.jpeg2k_encode(
                pixels, codecformat="j2k", reversible=True, bitspersample=12
            )
    return imagecodecs.htj2k_encode(pixels, reversible=True)


def write_series(folder: Path, syntax: str, slices: int) -> float:
    """Write the series under shuffled names; returns how far it is compressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import CTImageStorage

    folder.mkdir(parents=True)
    names = np.random.default_rng(1).permutation(slices)
    size = 0
    for index in range(slices):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
            f"2.25.9.{index + 1}"
        )
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.7", "2.25.8"
        dataset.FrameOfReferenceUID, dataset.PatientID, dataset.Modality = "2.25.6", "bench", "CT"
        dataset.ImageType, dataset.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], index + 1
        dataset.ImagePositionPatient = [-180.0, -180.0, -200.0 + 1.25 * index]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
        dataset.SliceThickness, dataset.RescaleType = 1.25, "HU"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, INTERCEPT
        dataset.Rows = dataset.Columns = SIZE
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        frame = encoded(slice_of(index), syntax)
        size += len(frame)
        dataset.PixelData = frame if syntax == "raw" else encapsulate([frame])
        dataset["PixelData"].VR = "OW" if syntax == "raw" else "OB"
        dataset.save_as(folder / f"IM{names[index]:04d}", enforce_file_format=True)
    return SIZE * SIZE * 2 * slices / size


def build_ours() -> Callable[[Path], np.ndarray]:
    """`load_volume` of this project."""
    from data_connectors.dicom import load_volume

    return lambda folder: load_volume(folder).array


def build_monai() -> Callable[[Path], np.ndarray]:
    """`LoadImage` with `PydicomReader`."""
    from monai.data import PydicomReader
    from monai.transforms import LoadImage

    load = LoadImage(reader=PydicomReader(), image_only=True)
    return lambda folder: np.asarray(load(folder)).T


def build_simpleitk() -> Callable[[Path], np.ndarray]:
    """`ImageSeriesReader` over the names that GDCM sorts."""
    import SimpleITK as itk

    def load(folder: Path) -> np.ndarray:
        reader = itk.ImageSeriesReader()
        reader.SetFileNames(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        return itk.GetArrayFromImage(reader.Execute())  # type: ignore[no-any-return]

    return load


def build_pydicom() -> Callable[[Path], np.ndarray]:
    """What one writes by hand."""
    import pydicom

    def load(folder: Path) -> np.ndarray:
        slices = [pydicom.dcmread(path) for path in folder.iterdir()]
        slices.sort(key=lambda part: float(part.ImagePositionPatient[2]))
        volume = np.empty((len(slices), SIZE, SIZE), np.int16)
        for place, part in zip(volume, slices, strict=True):
            stored = part.pixel_array
            place[:] = stored.astype(np.int32) * int(part.RescaleSlope) + int(part.RescaleIntercept)
        return volume

    return load


BUILD = {
    "ours": build_ours, "monai": build_monai, "simpleitk": build_simpleitk,
    "pydicom": build_pydicom,
}  # fmt: skip


def cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def peak_bytes() -> int:
    """Largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(side: str, folder: Path) -> dict[str, Any]:
    """One side, once, in this process."""
    load = BUILD[side]()
    peak, cpu, wall = peak_bytes(), cpu_seconds(), time.perf_counter()
    volume = load(folder)
    result = {
        "cpu": cpu_seconds() - cpu,
        "wall": time.perf_counter() - wall,
        "memory": peak_bytes() - peak,
    }
    values = np.ascontiguousarray(np.asarray(volume), dtype=np.int16)
    return {**result, "digest": hashlib.sha256(values.data).hexdigest(), "shape": values.shape}


def run_side(side: str, folder: Path) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.dicom_series", "--measure", side]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, env={**os.environ}, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def compare(syntax: str, sides: list[str], repeats: int, slices: int) -> dict[str, Any]:
    """All sides on one series, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / syntax
        ratio = write_series(folder, syntax, slices)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(repeats):
            for side in sides:
                runs[side].append(run_side(side, folder))
    digests = {run.get("digest") for side in sides for run in runs[side] if "digest" in run}
    assert len(digests) == 1, f"{syntax}: the sides give different voxels"
    return {"syntax": syntax, "compression": ratio, "sides": {s: summary(runs[s]) for s in sides}}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Smallest and median of several runs."""
    good = [run for run in runs if "digest" in run]
    if not good:
        return {"error": runs[0]["error"]}
    found: dict[str, Any] = {"runs": len(good)}
    for key in ("cpu", "wall", "memory"):
        values = [run[key] for run in good]
        found[key] = min(values)
        found[f"{key}_median"] = statistics.median(values)
    return found


def show(result: dict[str, Any]) -> None:
    """One block of the table."""
    syntax, sides = result["syntax"], result["sides"]
    print(f"\n{syntax} ({result['compression']:.2f}:1)   CPU s min / median   wall s   memory MB")
    for side, found in sides.items():
        if "error" in found:
            print(f"  {side:10} {found['error']}")
            continue
        print(
            f"  {side:10} {found['cpu']:7.2f} / {found['cpu_median']:.2f}"
            f"   {found['wall']:7.2f}   {found['memory'] / 1e6:7.0f}"
        )
    ours = sides.get("ours", {})
    for side, found in sides.items():
        if side != "ours" and "cpu" in found and "cpu" in ours:
            parts = [f"{key} {ours[key] / found[key]:.2f}" for key in ("cpu", "wall", "memory")]
            limit = f"  (limit {LIMITS[syntax]})" if side == "monai" and syntax in LIMITS else ""
            print(f"  ours / {side}: {', '.join(parts)}{limit}", flush=True)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--only", default=",".join(SYNTAXES))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    results = []
    for syntax in given.only.split(","):
        results.append(compare(syntax, given.sides.split(","), given.repeats, given.slices))
        show(results[-1])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
