"""Reference cases: synthetic inputs and the scores the released model gave on them.

A case is kept as raw frames and positions, so that reproducing its scores runs the whole
inference path: preprocessing, towers, pooling and prompts.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset
from data_connectors.ingest.run import ingest
from data_connectors.phantom.hospital import write_hospital
from governance.config import ReferenceConfig
from medvlp.config import load_config
from medvlp.errors import IntegrityError
from medvlp.knowledge.prompts import PromptSet
from medvlp.models.encoder import Encoder
from medvlp.types import Visual

EXPECTED = "expected.json"
MAX_FRAMES = 32


def make_cases(config: ReferenceConfig) -> dict[str, Visual]:
    """Phantom cases: radiographs, volumes and clips, named by kind and number."""
    with tempfile.TemporaryDirectory(prefix="medvlp-") as folder:
        hospital = Path(folder) / "hospital"
        write_hospital(
            hospital,
            patients=config.patients,
            lectures=config.lectures,
            seed=config.seed,
            workers=1,
        )
        recipe = load_config(IngestConfig, hospital / "ingest.yaml")
        ingest(recipe, Path(folder) / "dataset", base=hospital, workers=1)
        dataset = Dataset.open(Path(folder) / "dataset")
        # Sorted by pixels, not by key: keys are pseudonyms under a fresh random secret.
        visuals = sorted(
            (
                dataset.visual(sample)
                for sample in dataset.samples
                if sample.kind != "text" and (sample.kind != "clip" or sample.parent is None)
            ),
            key=lambda visual: (visual.kind, visual.frames[:MAX_FRAMES].tobytes()),
        )
        dataset.close()
    chosen: dict[str, Visual] = {}
    by_kind = {kind: [v for v in visuals if v.kind == kind] for kind in ("image", "volume", "clip")}
    for number in range(config.max_cases):
        for kind, members in by_kind.items():
            if number < len(members) and len(chosen) < config.max_cases:
                chosen[f"{kind}-{number}"] = _shortened(members[number])
    return chosen


def write_cases(
    folder: Path, cases: dict[str, Visual], encoder: Encoder, prompts: PromptSet, tolerance: float
) -> None:
    """Write the cases and their scores."""
    folder.mkdir(parents=True)
    for name, visual in cases.items():
        np.save(folder / f"{name}.frames.npy", visual.frames, allow_pickle=False)
        facts = {
            "positions": visual.positions.tolist(),
            "kind": visual.kind,
            "unit": visual.unit,
            "window": visual.window,
        }
        (folder / f"{name}.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    expected = {"tolerance": tolerance, "scores": score_cases(cases, encoder, prompts)}
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def read_cases(folder: Path) -> tuple[dict[str, Visual], dict[str, Any]]:
    """The cases of a bundle and what is expected of them."""
    expected = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    cases = {}
    for name in expected["scores"]:
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        data = (folder / f"{name}.frames.npy").read_bytes()
        cases[name] = Visual(
            frames=np.load(io.BytesIO(data), allow_pickle=False),
            positions=np.asarray(facts["positions"], dtype=np.float64),
            kind=facts["kind"],
            unit=facts["unit"],
            window=None if facts["window"] is None else tuple(facts["window"]),
        )
    return cases, expected


def score_cases(
    cases: dict[str, Visual], encoder: Encoder, prompts: PromptSet
) -> dict[str, dict[str, float]]:
    """Per case and label: mean cosine with the positive minus with the negative prompts.

    Beside it, as `<label> evidence`, the same difference of the evidence in the patches.
    """
    labels = prompts.labels
    claims, denials = (
        torch.stack([encoder.texts(list(texts)).mean(0) for texts in side])
        for side in zip(*((row.positive, row.negative) for row in prompts.prompts), strict=True)
    )
    visuals = list(cases.values())
    vectors, seen = encoder.compare(visuals, torch.cat([claims, denials]))
    contrast = vectors @ (claims - denials).T
    evidence = seen[:, : len(labels)] - seen[:, len(labels) :]
    return {
        name: {label: float(contrast[row, column]) for column, label in enumerate(labels)}
        | {f"{label} evidence": float(evidence[row, column]) for column, label in enumerate(labels)}
        for row, name in enumerate(cases)
    }


def largest_difference(
    expected: dict[str, dict[str, float]], got: dict[str, dict[str, float]]
) -> float:
    """Largest absolute difference between two score tables of the same shape."""
    if {name: set(row) for name, row in expected.items()} != {
        n: set(row) for n, row in got.items()
    }:
        raise IntegrityError("reference cases and labels differ", code="reference-mismatch")
    return max(
        abs(value - got[name][label])
        for name, row in expected.items()
        for label, value in row.items()
    )


def _shortened(visual: Visual) -> Visual:
    """At most `MAX_FRAMES` frames of a clip; volumes are kept whole."""
    if visual.kind != "clip" or len(visual.frames) <= MAX_FRAMES:
        return visual
    return Visual(
        frames=visual.frames[:MAX_FRAMES],
        positions=visual.positions[:MAX_FRAMES],
        kind=visual.kind,
        unit=visual.unit,
        window=visual.window,
    )
