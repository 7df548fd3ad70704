"""The tables of what is true: `truth.parquet`, `labels.csv`, `regions.csv`, canaries, phases."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data_connectors.phantom.lecture import LectureRecord
from data_connectors.phantom.patient import PatientRecord
from data_connectors.phantom.procedure import PHASES

_F64, _STR = pa.float64(), pa.string()
_FINDING = pa.struct(
    [("concept", _STR), ("side", _STR), ("lobe", _STR), ("severity", _STR), ("grade", _F64),
     ("centre_mm", pa.list_(_F64)), ("size_mm", _F64), ("shape_seed", pa.int64()),
     ("more_mm", pa.list_(pa.list_(_F64))), ("volume_ml", _F64)]
)  # fmt: skip
_STATEMENT = pa.struct(
    [("text", _STR), ("concepts", pa.list_(_STR)), ("polarity", _STR), ("side", _STR),
     ("lobe", _STR)]
)  # fmt: skip
_STEP = pa.struct(
    [("phase", _STR), ("step", _STR), ("text", _STR), ("start_s", _F64), ("end_s", _F64)]
)
_PHASE = pa.struct([("phase", _STR), ("start_s", _F64), ("end_s", _F64)])
_SENTENCE = pa.struct(
    [("text", _STR), ("start_s", _F64), ("end_s", _F64), ("kind", _STR), ("phase", _STR),
     ("step", _STR), ("lag_s", _F64)]
)  # fmt: skip
TRUTH = pa.schema(
    [
        ("kind", _STR), ("index", pa.int64()), ("patient_id", _STR), ("name", _STR),
        ("birth_date", _STR), ("sex", _STR), ("accession", _STR), ("study_uid", _STR),
        ("ct_uid", _STR), ("dx_uid", _STR),
        ("findings", pa.list_(_FINDING)), ("report", _STR), ("statements", pa.list_(_STATEMENT)),
        ("ct_codec", _STR), ("ct_shape", pa.list_(pa.int64())), ("ct_spacing_mm", pa.list_(_F64)),
        ("ct_origin_mm", pa.list_(_F64)), ("ct_noise_hu", _F64),
        ("dx_codec", _STR), ("dx_inverse", pa.bool_()), ("dx_size", pa.int64()),
        ("folder", _STR), ("fps", _F64), ("duration_s", _F64),
        ("phases", pa.list_(_PHASE)), ("steps", pa.list_(_STEP)),
        ("sentences", pa.list_(_SENTENCE)),
        ("whisper_offset_s", _F64), ("aws_offset_s", _F64),
    ]
)  # fmt: skip
"""One row a patient or lecture (`kind`); columns of the other kind are null. Lengths in mm,
points z y x in LPS, times in seconds of the media clock."""


def write_truth(
    out: Path, patients: Sequence[PatientRecord], lectures: Sequence[LectureRecord]
) -> None:
    """Write every table under `out`."""
    rows: list[dict[str, Any]] = [record.row for record in patients]
    rows += [record.row for record in lectures]
    table = pa.Table.from_pylist(rows, schema=TRUTH)
    pq.write_table(table, out / "truth.parquet", compression="zstd")
    _write_csv(
        out / "truth/labels.csv", ("uid", "labels"), (row for p in patients for row in p.labels)
    )
    _write_csv(
        out / "truth/regions.csv",
        ("uid", "concept", "side", "mask"),
        (row for p in patients for row in p.regions),
    )
    canaries = [text for record in patients for text in record.canaries]
    canaries += [text for record in lectures for text in record.canaries]
    lines = "\n".join(dict.fromkeys(canaries))
    (out / "canaries.txt").write_bytes((lines + "\n" if lines else "").encode("utf-8"))
    (out / "phases.yaml").write_bytes(_phases().encode("utf-8"))


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _phases() -> str:
    listed = [
        {
            "id": phase.id,
            "name": phase.name,
            "description": phase.description,
            "prompts": list(phase.prompts),
            "steps": [{"id": step.id, "text": step.text} for step in phase.steps],
        }
        for phase in PHASES.values()
    ]
    return str(yaml.safe_dump({"phases": listed}, sort_keys=False, width=100))
