"""CholecT50: one JSON an operation with phases and action triplets, beside frames at 1 fps.

Layouts: `VID75.json` beside `frames/000013.png`, or `labels/VID75.json` beside
`videos/VID75/000013.png`. An annotation row is `[triplet, instrument, score, 4 box values, verb,
target, score, 4 box values, phase]`; -1 where something is absent.

Frames may be sparse. Each stands for the time until the next frame of the full recording
(1 / fps); a phase lasts from its first annotated frame to the end of its last, whatever lies
unseen in between, as phases are contiguous and both sides are annotated alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_connectors.items import Identity, Item, Refused, Span, VisualItem
from data_connectors.source import Unit
from data_connectors.video.files import listed, refused, unit, unknown
from data_connectors.video.frames import read_picture, store
from data_connectors.video.hierarchy import keep_visible
from data_connectors.video.parsing import read_text
from data_connectors.video.source import LecturesSource
from data_connectors.video.tables import identifier
from medvlp.errors import InputError
from medvlp.types import Geometry, Text

_CODE = "annotation-not-parseable"
_SPELLING = {"carlot": "calot"}
"""The published file misspells Calot's triangle."""
_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is done in one frame."""

    frame: int
    phase: str
    triplets: tuple[tuple[str, str, str], ...]
    """(instrument, verb, target), without repeats."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One annotated operation."""

    fps: float
    annotations: tuple[Annotation, ...]
    licence: str


def find_annotated(source: LecturesSource) -> Iterator[Unit | Refused]:
    """One unit a JSON file, with the pictures that belong to it."""
    names = listed(source.path)
    left = set(names)
    jsons = [n for n in names if n.lower().endswith(".json")]
    for name in jsons:
        frames = _frames_of(name, names, alone=len(jsons) == 1)
        left -= {name, *frames}
        if frames:
            yield unit(source.path, [name, *frames], hint=name)
        else:
            yield Refused(
                "video-missing", "annotations without frames",
                "put the frames into videos/<name of the JSON>/ or frames/", (name,),
            )  # fmt: skip
    yield from unknown(left)


def _frames_of(json_name: str, names: list[str], *, alone: bool) -> list[str]:
    path = PurePosixPath(json_name)
    folders = {str(path.parent.parent / "videos" / path.stem), str(path.parent / path.stem)}
    if alone:
        folders.add(str(path.parent / "frames"))
    return [
        n
        for n in names
        if str(PurePosixPath(n).parent) in folders
        and n.lower().endswith(_PICTURES)
        and PurePosixPath(n).stem.isdigit()
    ]


def read_annotated(source: LecturesSource, item: Unit) -> Iterator[Item]:
    """The operation as one lecture: phases, and one-frame tasks described by their triplets."""
    try:
        operation = parse_operation(read_text(source.path / item.hint, code=_CODE))
    except InputError as error:
        yield refused(error, item.inputs)
        return
    numbers = sorted((int(PurePosixPath(n).stem), n) for n in item.inputs if n != item.hint)
    good: list[tuple[float, np.ndarray]] = []
    bad: list[str] = []
    kept = -1
    for number, name in numbers:
        try:
            picture = _rgb(source.path / name, source.long_side)
        except InputError as error:
            bad.append(name)
            yield refused(error, [name])
            continue
        slot = int(number / operation.fps * source.fps + 1e-9)
        if source.fps >= operation.fps or slot > kept:
            good.append((number / operation.fps, picture))
            kept = slot
    stored = store(iter(good), source.jpeg_quality)
    used = tuple(n for n in item.inputs if n not in bad)
    if stored is None:
        yield Refused("video-empty", "no frame of the operation can be read",
                      "copy the frames again", used)  # fmt: skip
        return
    stem = PurePosixPath(item.hint).stem
    last = max([numbers[-1][0], *(a.frame for a in operation.annotations)])
    yield VisualItem(
        identity=Identity(patient=source.patient_of(stem), study=stem),
        kind="clip",
        modality=source.modality_code,
        payload=stored.payload,
        geometry=Geometry(
            shape=stored.shape, start_s=0.0, end_s=(last + 1) / operation.fps,
            fps=min(operation.fps, source.fps), unit="rgb",
        ),
        inputs=used,
        digest=stored.digest,
        spans=keep_visible(spans_of(operation, source.narrations), stored.times_s),
        licence=source.licence or operation.licence,
        provenance=source.name,
    )  # fmt: skip


def _rgb(path: Path, long_side: int) -> np.ndarray:
    picture = read_picture(path, long_side)
    return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture


def parse_operation(text: str) -> Operation:
    """Read the JSON strictly.

    Raises:
        InputError: `annotation-not-parseable`: a key is missing, a category id is unknown, a row
            has not 15 values.
    """
    try:
        tree: Any = json.loads(text)
        fps = float(tree["fps"])
        if not 0 < fps < 1000:
            raise ValueError("fps")
        categories = tree["categories"]
        annotations = tuple(
            sorted(
                (_annotation(int(k), rows, categories) for k, rows in tree["annotations"].items()),
                key=lambda a: a.frame,
            )
        )
        licence = tree.get("licenses") or {}
        return Operation(fps, annotations, str(licence.get("name", "")))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            "not a CholecT50 annotation", code=_CODE, got=type(error).__name__,
            limit="fps, categories (phase, triplet), annotations with 15 values a row",
            next_step="take the file from the published data set",
        ) from None  # fmt: skip


def _annotation(frame: int, rows: list[list[Any]], categories: dict[str, Any]) -> Annotation:
    if frame < 0 or not rows or any(len(row) != 15 for row in rows):
        raise ValueError("row")
    phases = {int(row[14]) for row in rows}
    if len(phases) != 1:
        raise ValueError("phase")
    phase = int(next(iter(phases)))
    name = "" if phase < 0 else _spelled(categories["phase"][str(phase)])
    triplets = []
    for row in rows:
        if int(row[0]) >= 0:
            instrument, verb, target = categories["triplet"][str(int(row[0]))].split(",")
            triplets.append((instrument, verb, target))
    return Annotation(frame, name, tuple(dict.fromkeys(triplets)))


def _spelled(name: str) -> str:
    words = identifier(name).split("_")
    return "_".join(_SPELLING.get(word, word) for word in words)


def sentence(triplet: tuple[str, str, str]) -> str:
    """A triplet as a sentence: `the grasper retracts the gallbladder`."""
    instrument, verb, target = (part.replace("_", " ") for part in triplet)
    plural = instrument.endswith("s")
    if verb == "null verb":
        return f"the {instrument} {'are' if plural else 'is'} in view and idle"
    action = f"the {instrument} {verb if plural else verb + 's'}"
    return action if target == "null target" else f"{action} the {target}"


def spans_of(operation: Operation, sentences: int) -> tuple[Span, ...]:
    """Phases, then one task a frame.

    Args:
        operation: The annotations.
        sentences: At most this many triplet sentences, evenly chosen, accompany a phase.
    """
    step = 1 / operation.fps
    phases: list[Span] = []
    tasks: list[Span] = []
    for phase, run in groupby(operation.annotations, key=lambda a: a.phase):
        frames = list(run)
        parent = len(phases) if phase else None
        own = [task for a in frames if (task := _task(a, step, parent)) is not None]
        tasks += own
        if phase:
            start_s, end_s = frames[0].frame * step, (frames[-1].frame + 1) * step
            name = Text("phase", "annotation", phase.replace("_", " "), start_s, end_s)
            seen = list({t.text: t for task in reversed(own) for t in task.texts}.values())[::-1]
            if len(seen) > sentences:
                seen = [seen[(2 * i + 1) * len(seen) // (2 * sentences)] for i in range(sentences)]
            phases.append(Span("phase", start_s, end_s, (name, *seen), (f"phase:{phase}",)))
    return (*phases, *tasks)


def _task(annotation: Annotation, step: float, parent: int | None) -> Span | None:
    if not annotation.triplets:
        return None
    start_s, end_s = annotation.frame * step, (annotation.frame + 1) * step
    texts = tuple(Text("task", "triplet", sentence(t), start_s, end_s) for t in annotation.triplets)
    labels = tuple(f"triplet:{','.join(t)}" for t in annotation.triplets)
    return Span("task", start_s, end_s, texts, labels, parent)
