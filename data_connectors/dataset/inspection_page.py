"""The page of `medvlp inspect`: self-contained HTML, no scripts, pictures inside."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from data_connectors.dataset.store import Dataset
from medvlp.files import write_text
from medvlp.types import Sample, Visual

A_SOURCE = 6
"""Pictures shown of every source."""
SIDE = 176
"""Pixels of the longer side of a picture."""
_WINDOWS = {"CT": (-600.0, 1500.0)}


@dataclass(frozen=True, slots=True)
class Card:
    """One sample on the page."""

    pictures: tuple[str, ...]
    title: str
    detail: str
    text: str
    """HTML: found phrases are marked."""
    labels: tuple[str, ...]


def write_page(data: Dataset, facts: dict[str, Any], path: Path) -> None:
    """Write the page.

    Args:
        data: The dataset.
        facts: What `inspection.describe` says of it.
        path: The HTML file.
    """
    environment = Environment(
        loader=PackageLoader("data_connectors", "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("inspection.html.j2")
    groups: dict[str, list[Card]] = {}
    for source, samples in _chosen(data.samples).items():
        groups[source] = [_card(data, sample) for sample in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    page = template.render(
        facts=facts, info=data.info, groups=groups, splits=("train", "val", "test")
    )
    write_text(path, page)


def _chosen(samples: tuple[Sample, ...]) -> dict[str, list[Sample]]:
    """A few of every source: different labels first, evenly spread, clips after lectures."""
    by_source: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_source[sample.provenance].append(sample)
    chosen = {}
    for source, some in by_source.items():
        seen: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
        for sample in some:
            seen[(sample.kind, *sample.labels[:1])].append(sample)
        firsts = [group[len(group) // 2] for group in seen.values()]
        step = max(1, len(firsts) // A_SOURCE)
        picked = firsts[::step][:A_SOURCE]
        spare = [s for s in some[:: max(1, len(some) // A_SOURCE)] if s not in picked]
        chosen[source] = (picked + spare)[:A_SOURCE]
    return chosen


def _card(data: Dataset, sample: Sample) -> Card:
    pictures: tuple[str, ...] = ()
    detail = ""
    if sample.shard is not None:
        visual = data.visual(sample, max_frames=3 if sample.kind == "clip" else None)
        pictures = tuple(_png(frame) for frame in _frames(visual, sample.modality))
        detail = _detail(sample)
    text = sample.texts[0] if sample.texts else None
    return Card(
        pictures=pictures,
        title=f"{sample.modality or sample.kind} · {sample.split}",
        detail=detail,
        text="" if text is None else _marked(text.text, sample),
        labels=sample.labels,
    )


def _detail(sample: Sample) -> str:
    shape = sample.geometry.shape or ()
    parts = ["×".join(map(str, shape))]
    if sample.kind == "volume" and sample.geometry.spacing_mm:
        parts.append("×".join(f"{side:.2g}" for side in sample.geometry.spacing_mm) + " mm")
    if sample.kind == "clip" and sample.geometry.start_s is not None:
        parts.append(f"{sample.geometry.start_s:.1f}–{sample.geometry.end_s or 0:.1f} s")
    return ", ".join(part for part in parts if part)


def _marked(text: str, sample: Sample, limit: int = 420) -> str:
    """The text as HTML, with the phrases that state findings marked by polarity."""
    pieces: list[str] = []
    cursor = 0
    for finding in sorted(sample.findings, key=lambda f: f.start):
        if not cursor <= finding.start < finding.end <= min(len(text), limit):
            continue
        title = " ".join(filter(None, (finding.polarity, finding.side, finding.severity)))
        pieces.append(escape(text[cursor : finding.start]))
        pieces.append(
            f'<mark class="{finding.polarity}" title="{escape(title)} {escape(finding.name)}">'
            f"{escape(text[finding.start : finding.end])}</mark>"
        )
        cursor = finding.end
    pieces.append(escape(text[cursor:limit]) + ("…" if len(text) > limit else ""))
    return "".join(pieces)


def _frames(visual: Visual, modality: str) -> Iterator[np.ndarray]:
    """uint8 pictures: the image, the middle slices of a volume, the frames of a clip."""
    frames = visual.frames
    if visual.kind == "volume":
        centre = [len(frames) // 4, len(frames) // 2, (3 * len(frames)) // 4]
        frames = frames[sorted(set(centre))]
    for frame in frames[:3]:
        if frame.dtype == np.uint8:
            yield frame
            continue
        window = visual.window or _WINDOWS.get(modality if visual.unit == "HU" else "")
        if window:
            low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
        else:
            low, high = (float(edge) for edge in np.percentile(frame, (0.5, 99.5)))
        scaled = (frame.astype(np.float32) - low) / max(high - low, 1e-6)
        yield (scaled.clip(0, 1) * 255).astype(np.uint8)


def _png(frame: np.ndarray) -> str:
    """A small PNG as a data address."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
