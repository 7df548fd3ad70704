"""Throughput and memory of `medvlp ingest`, with the floor beside it.

    python -m benchmarks.ingest --series 20 --slices 60 --workers 1,2 --engines local,ray

Makes an archive of CT series (and one radiograph for every series) in a transfer syntax, ingests
it in processes of its own, and reports files, bytes, CPU, and peak memory of the parent and of the
largest worker. The floor is what no ingest can be faster than: reading every byte once, and
decoding every file once in one process with nothing around it. JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    "raw": ("", ""),
    "rle": (RLELossless, "pylibjpeg"),
    "jpegls": (JPEGLSLossless, "pyjpegls"),
    "j2k": (JPEG2000Lossless, "pylibjpeg"),
}


def make_archive(folder: Path, *, series: int, slices: int, side: int, syntax: str) -> None:
    """CT series with anatomy-like smoothness and noise, and a radiograph for each."""
    rng = np.random.default_rng(0)
    grid = np.linspace(-1, 1, side)
    body = (np.hypot(*np.meshgrid(grid, grid * 1.3)) < 0.9) * 1100.0
    for number in range(series):
        for k in range(slices):
            pixels = (body + rng.normal(0, 12, body.shape) + 3 * k).clip(0, 4095)
            _write(folder / f"{number:04d}" / f"{k:04d}.dcm", pixels, number, k, syntax)
        film = (body * 2 + rng.normal(0, 30, body.shape)).clip(0, 4095)
        _write(folder / f"{number:04d}" / "film.dcm", film, number, None, syntax)


def _write(path: Path, pixels: np.ndarray, number: int, k: int | None, syntax: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation if k is None else CTImageStorage
    dataset.SOPInstanceUID = f"2.25.{number + 1}.{0 if k is None else k + 1}"
    dataset.StudyInstanceUID = f"2.25.9{number}"
    dataset.SeriesInstanceUID = f"2.25.{7 if k is None else 8}{number}"
    dataset.PatientID, dataset.Modality = f"P{number // 2}", "DX" if k is None else "CT"
    if k is not None:
        dataset.FrameOfReferenceUID = f"2.25.6{number}"
        dataset.ImagePositionPatient = [0.0, 0.0, 1.5 * k]
        dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1.5
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    uid, plugin = SYNTAXES[syntax]
    if uid:
        dataset.compress(uid, encoding_plugin=plugin, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def floor(archive: Path) -> dict[str, float]:
    """Seconds to read every byte, and CPU seconds to decode every file, in this process."""
    from data_connectors.dicom.decode import stored_frame
    from data_connectors.dicom.header import read_dataset

    paths = sorted(archive.rglob("*.dcm"))
    began = time.perf_counter()
    for path in paths:
        path.read_bytes()
    read_s = time.perf_counter() - began
    stored_frame(read_dataset(paths[0]), 0)  # imports
    began = time.process_time()
    for path in paths:
        stored_frame(read_dataset(path), 0)
    return {"read_s": round(read_s, 3), "decode_cpu_s": round(time.process_time() - began, 3)}


class _Watch(threading.Thread):
    """Peak resident memory of a process and of its descendants, and the CPU time of all.

    CPU is asked of each process while it lives: a killed worker's never reaches its parent.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.parent = self.worker = self.together = 0
        self.over = threading.Event()
        self._cpu: dict[int, float] = {}

    @property
    def cpu_s(self) -> float:
        """User and system time of every process seen, up to when it was last seen."""
        return sum(self._cpu.values())

    def run(self) -> None:
        while not self.over.wait(0.05):
            try:
                own = self.process.memory_info().rss
                family = self.process.children(recursive=True)
                others = [child.memory_info().rss for child in family]
                for one in (self.process, *family):
                    times = one.cpu_times()
                    self._cpu[one.pid] = times.user + times.system
            except psutil.Error:
                continue
            self.parent = max(self.parent, own)
            self.worker = max(self.worker, *others, 0)
            self.together = max(self.together, own + sum(others))


def measure(archive: Path, out: Path, *, workers: int, engine: str) -> dict[str, Any]:
    """One ingest in a process of its own."""
    config = out.with_name("ingest.yaml")
    source = {"kind": "dicom", "name": "archive", "path": str(archive), "burned_in": "accept"}
    (out.parent / "key").write_text("ab" * 32)
    config.write_text(yaml.safe_dump({"sources": [source], "deid": {"key_file": "key"}}))
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "medvlp.cli", "ingest", "--config", config, "--out", out,
         "--workers", str(workers), "--engine", engine],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    watch = _Watch(process.pid)
    watch.start()
    said, log = process.communicate()
    seconds = time.perf_counter() - began
    watch.over.set()
    if process.returncode:
        raise SystemExit(log.decode())
    summary = json.loads(said)
    paths = [path for path in archive.rglob("*") if path.is_file()]
    size_in = sum(path.stat().st_size for path in paths)
    size_out = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "engine": engine, "workers": workers, "seconds": round(seconds, 2),
        "files": len(paths), "files_per_s": round(len(paths) / seconds, 1),
        "in_mb": round(size_in / 1e6, 1), "in_mb_per_s": round(size_in / 1e6 / seconds, 1),
        "out_mb": round(size_out / 1e6, 1), "out_mb_per_s": round(size_out / 1e6 / seconds, 1),
        "cpu_s": round(watch.cpu_s, 2), "parent_mb": watch.parent // 10**6,
        "largest_worker_mb": watch.worker // 10**6, "together_mb": watch.together // 10**6,
        "samples": summary["samples"], "digest": summary["digest"],
    }  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--syntax", choices=sorted(SYNTAXES), default="raw")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--engines", default="local")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medvlp-bench-") as folder:
        archive = Path(folder) / "archive"
        make_archive(
            archive, series=options.series, slices=options.slices, side=options.side,
            syntax=options.syntax,
        )  # fmt: skip
        result: dict[str, Any] = {
            "syntax": options.syntax, "series": options.series, "slices": options.slices,
            "side": options.side, "cores": len(os.sched_getaffinity(0)),
            "load_1min": round(os.getloadavg()[0], 1), "pydicom": pydicom.__version__,
            "floor": floor(archive), "runs": [],
        }  # fmt: skip
        for engine in options.engines.split(","):
            for workers in map(int, options.workers.split(",")):
                out = Path(folder) / f"{engine}{workers}" / "out"
                out.parent.mkdir()
                result["runs"].append(measure(archive, out, workers=workers, engine=engine))
                print(json.dumps(result["runs"][-1]), file=sys.stderr)
        assert len({run["digest"] for run in result["runs"]}) == 1
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
