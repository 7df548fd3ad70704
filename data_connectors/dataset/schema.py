"""The arrow schemas of the dataset folder, and rows <-> nouns. Stable names: others read them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from medvlp.types import Finding, Geometry, Sample, Text

SCHEMA_VERSION = 1

_TEXT = pa.struct(
    [
        ("level", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
_FINDING = pa.struct(
    [
        ("concept", pa.string()),
        ("name", pa.string()),
        ("polarity", pa.string()),
        ("certainty", pa.float64()),
        ("anatomy", pa.string()),
        ("side", pa.string()),
        ("severity", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)
_GEOMETRY = pa.struct(
    [
        ("shape", pa.list_(pa.int32())),
        ("spacing_mm", pa.list_(pa.float64())),
        ("affine", pa.list_(pa.float64())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("fps", pa.float64()),
        ("unit", pa.string()),
        ("window", pa.list_(pa.float64())),
        ("positions_mm", pa.list_(pa.float64())),
        ("part", pa.string()),
    ]
)
SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("modality", pa.string()),
        ("texts", pa.list_(_TEXT)),
        ("findings", pa.list_(_FINDING)),
        ("labels", pa.list_(pa.string())),
        ("geometry", _GEOMETRY),
        ("parent", pa.string()),
        ("licence", pa.string()),
        ("provenance", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("flags", pa.list_(pa.string())),
    ]
)
QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("next_step", pa.string()),
    ]
)
REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("concept", pa.string()),
        ("side", pa.string()),
        ("mask", pa.binary()),
        ("box", pa.list_(pa.float64())),
    ]
)
"""Where a finding is, for grounding. `mask`: PNG, non-zero inside, in the pixels of the stored
image (a volume's slices stacked downwards); `box`: x0 y0 x1 y1 in the same pixels, when there is
no mask."""


def sample_to_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of `SAMPLES`."""
    return asdict(sample)


def row_to_sample(row: dict[str, Any]) -> Sample:
    """A row of `SAMPLES` as a sample."""
    geometry: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (row["geometry"] or {}).items()
    }
    return Sample(
        **{
            **row,
            "texts": tuple(Text(**text) for text in row["texts"] or ()),
            "findings": tuple(Finding(**finding) for finding in row["findings"] or ()),
            "labels": tuple(row["labels"] or ()),
            "flags": tuple(row.get("flags") or ()),
            "geometry": Geometry(**geometry),
        }
    )
