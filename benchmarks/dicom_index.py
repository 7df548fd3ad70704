"""Reading the headers of an archive, beside pydicom with stop_before_pixels.

    python -m benchmarks.dicom_index --repeats 5 --json index.json
    python -m benchmarks.dicom_index --folder /archive --files 5000

Without --folder the archive is made: CT slices as small as they can be, and with sequences of
undefined length and a private block as vendors write them. Both sides read the same files in one
process, turn by turn; ours gives a `Header` (all that grouping needs), pydicom a parsed dataset.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from benchmarks.dicom_series import write_series
from data_connectors.dicom.header import read_header
from medvlp.errors import InputError

LIMIT = 0.3
"""Largest ratio of CPU time."""


def vendor_like(path: Path) -> None:
    """Add what scanners write: descriptions, procedure codes, a private block, dose."""
    dataset = pydicom.dcmread(path)
    for keyword in (
        "Manufacturer", "InstitutionName", "StationName", "StudyDescription", "SeriesDescription",
        "ManufacturerModelName", "ProtocolName", "BodyPartExamined", "PatientPosition",
        "ConvolutionKernel", "FilterType", "AccessionNumber", "StudyID", "SoftwareVersions",
    ):  # fmt: skip
        setattr(dataset, keyword, "A VALUE")
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "20200102")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "101112.123456")
    for keyword in ("KVP", "ExposureTime", "XRayTubeCurrent", "GantryDetectorTilt", "TableHeight"):
        setattr(dataset, keyword, 120)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P5-0808E", "SRT", "CT chest"
    for keyword in (
        "ProcedureCodeSequence",
        "ReferencedStudySequence",
        "RequestAttributesSequence",
    ):
        setattr(dataset, keyword, Sequence([code]))
        dataset[keyword].is_undefined_length = True
    block = dataset.private_block(0x0009, "VENDOR 1.0", create=True)
    for element in range(24):
        block.add_new(element, "LO", f"private value {element}")
    block.add_new(0x30, "OB", bytes(4000))
    dataset.save_as(path)


def make_archive(folder: Path, files: int) -> None:
    """Plain and vendor-like slices of one size."""
    for name in ("plain", "vendor"):
        write_series(folder / name, "jpeg-ls", files // 2)
    for path in (folder / "vendor").iterdir():
        vendor_like(path)


def by_pydicom(path: Path) -> object:
    """What one writes by hand."""
    return pydicom.dcmread(path, stop_before_pixels=True)


def by_us(path: Path) -> object:
    """What `find` does with every file."""
    return read_header(path, path.name)


def seconds(read: Callable[[Path], object], paths: list[Path]) -> float:
    """CPU time of reading all."""
    start = time.process_time()
    for path in paths:
        try:
            read(path)
        except (InputError, pydicom.errors.InvalidDicomError):
            continue
    return time.process_time() - start


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.folder is None:
            make_archive(Path(scratch), given.files)
        found = sorted(
            path for path in (given.folder or Path(scratch)).rglob("*") if path.is_file()
        )
        groups: dict[str, list[Path]] = {}
        for path in found[: given.files]:
            groups.setdefault(path.parent.name if given.folder is None else "all", []).append(path)
        results = {name: compare(paths, given.repeats) for name, paths in groups.items()}
    for name, result in results.items():
        print(
            f"{name}: {result['files']:.0f} files, ms a file: ours {result['ours_ms']:.3f}, "
            f"pydicom {result['pydicom_ms']:.3f}, ratio {result['ratio']:.2f} (limit {LIMIT})"
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


def compare(paths: list[Path], repeats: int) -> dict[str, float]:
    """Both sides in turns; the smallest of each, and the median ratio."""
    runs = [(seconds(by_us, paths), seconds(by_pydicom, paths)) for _ in range(repeats + 1)][1:]
    ours, theirs = (1000 * np.array(side) / len(paths) for side in zip(*runs, strict=True))
    return {
        "files": len(paths),
        "ours_ms": float(ours.min()),
        "pydicom_ms": float(theirs.min()),
        "ratio": statistics.median(float(a / b) for a, b in runs),
    }


if __name__ == "__main__":
    main()
