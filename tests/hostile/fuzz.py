"""Damages real files by the thousand and runs the real `medvlp ingest` over them.

    python tests/hostile/fuzz.py --files 10000 --seed 1

What must hold: exit 0, nothing written but the output, used + quarantined = found, a code and a
next step for every refusal, no traceback, no worker lost, no file slower than the limit. The
summary is one JSON line; the exit code is 1 if anything of this failed, and the folder is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from mutations import mutate  # noqa: E402
from seeds import choose, collect, pools  # noqa: E402

ROOT = HERE.parents[1]
SHARED = ROOT.parent / "shared" / "data" / "dicom"
ENDINGS = {"dicom": ".dcm", "dicomdir": "", "zip": ".zip", "tar": ".tar", "tgz": ".tar.gz",
           "gz": ".dcm.gz", "png": ".png", "jpg": ".jpg", "nii": ".nii",
           "nii.gz": ".nii.gz"}  # fmt: skip
IMAGES = {"png", "jpg", "nii", "nii.gz"}
LIMIT_S = 120
MEMORY_MB = 1500
FAULTS = ("reader-failed", "reader-crashed", "reader-timeout")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; kept")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of real DICOM data")
    parser.add_argument("--allow-faults", type=int, default=0, help="lost workers that are let by")
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="medvlp-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    written = write_inputs(folder / "in", wanted.files, wanted.seed, wanted.shared)
    summary = run(folder, written, wanted.workers)
    summary |= {"files": wanted.files, "seed": wanted.seed}
    print(json.dumps(summary))
    faults = sum(summary["faults"].values())
    ok = not summary["wrong"] and faults <= wanted.allow_faults
    if ok and wanted.folder is None:
        shutil.rmtree(folder)
    elif not ok:
        print(f"kept: {folder}", file=sys.stderr)
    return 0 if ok else 1


def write_inputs(folder: Path, files: int, seed: int, shared: Path) -> Counter[str]:
    """The damaged files: `dicom/` and `images/`, named by their numbers."""
    seeds = pools(collect(shared))
    written: Counter[str] = Counter()
    for number in range(files):
        rng = random.Random(f"{seed}-{number}")
        chosen = choose(seeds, rng)
        place = folder / ("images" if chosen.kind in IMAGES else "dicom") / f"{number // 500:03d}"
        if chosen.kind == "dicomdir":
            place = place / f"cd{number}"
        place.mkdir(parents=True, exist_ok=True)
        name = "DICOMDIR" if chosen.kind == "dicomdir" else f"{number:06d}{ENDINGS[chosen.kind]}"
        (place / name).write_bytes(mutate(chosen.data, chosen.kind, number, rng))
        written[chosen.kind] += 1
    for kind in ("dicom", "images"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    return written


def run(folder: Path, written: Counter[str], workers: int) -> dict[str, Any]:
    """Ingest, then look at everything that is there."""
    config = {
        "reader_timeout_s": LIMIT_S,
        "reader_memory_mb": MEMORY_MB,
        "deid": {"burned_in": "accept"},  # what a person would have to look at is stored, too
        "sources": [
            {"kind": "dicom", "name": "scans", "path": "in/dicom", "allow_missing_patient": True},
            {"kind": "images", "name": "pictures", "path": "in/images", "patient_per_image": True},
        ],
    }
    (folder / "fuzz.json").write_text(json.dumps(config))
    canary = folder / "canary"
    canary.write_text("nobody writes here")
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    before = snapshot(folder)
    begin = time.monotonic()
    command = [sys.executable, "-m", "medvlp.cli", "ingest", "--config", str(folder / "fuzz.json"),
               "--out", str(folder / "out" / "set"), "--workers", str(workers)]  # fmt: skip
    (folder / "out").mkdir(exist_ok=True)
    done = subprocess.run(
        command, capture_output=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)},
        timeout=120 + 2 * sum(written.values()), check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    (folder / "stderr.txt").write_bytes(done.stderr)
    wrong = []
    if done.returncode:
        wrong.append(f"exit {done.returncode}")
    if b"Traceback" in done.stderr:
        wrong.append("traceback")
    after = snapshot(folder)
    after.pop("stderr.txt", None)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if strange := sorted(name for name in changed if not name.startswith("out/")):
        wrong.append(f"written elsewhere: {strange[:5]}")
    facts: dict[str, Any] = {"by_reason": {}, "found": 0}
    rows: list[dict[str, Any]] = []
    if not done.returncode:
        facts = json.loads(done.stdout.splitlines()[-1])
        rows = pq.read_table(folder / "out/set/quarantine.parquet").to_pylist()
        wrong += check(facts, rows, written)
    faults = {code: facts["by_reason"][code] for code in FAULTS if code in facts["by_reason"]}
    return {
        "wrong": wrong, "faults": faults, "seconds": round(seconds, 1),
        "found": facts["found"], "used": facts.get("used"),
        "quarantined": facts.get("quarantined"), "kinds": dict(written),
        "by_reason": dict(sorted(facts["by_reason"].items(), key=lambda pair: -pair[1])),
    }  # fmt: skip


def check(facts: dict[str, Any], rows: list[dict[str, Any]], written: Counter[str]) -> list[str]:
    """Whether everything is accounted for."""
    wrong = []
    if facts["found"] != facts["used"] + facts["quarantined"]:
        wrong.append("used + quarantined is not found")
    plain = sum(count for kind, count in written.items() if kind not in ("zip", "tar", "tgz"))
    if facts["found"] < plain:
        wrong.append(f"found {facts['found']} of at least {plain}")
    bare = [row["code"] for row in rows if not (row["code"] and row["reason"] and row["next_step"])]
    if bare:
        wrong.append(f"without reason or next step: {sorted(set(bare))}")
    return wrong


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder but the output, by digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("out/"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(main())
