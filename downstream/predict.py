"""`medvlp predict`: one case, zero-shot: scores, heat maps, and DICOM objects for its archive."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from downstream.card import digest
from downstream.case import NO_MASK, Case, read_case
from downstream.config import ZeroShotTask
from downstream.dicom_out.codes import Algorithm
from downstream.dicom_out.seg import Segment, write_seg
from downstream.dicom_out.source import SourceImages
from downstream.dicom_out.sr import Statement, write_sr
from downstream.embedder import Embedder
from downstream.grounding import contrast_heat, heat_map
from downstream.interfaces import VisionTextEncoder
from downstream.overlay import CONTOUR, save_overlay
from downstream.prompting import concept_name, contrast_pair, label_prompts
from downstream.scoring import probabilities, score_labels
from medvlp import __version__
from medvlp.errors import ConfigError
from medvlp.files import write_json

Masks = Literal["fractional", "binary"]
log = logging.getLogger(__name__)

SCORES: Final = "scores.json"
_FRACTIONAL: Final = (
    "Fractional: the label's probability by the model's softmax, times how far the heat map has "
    "come from its median to its peak in this case. Not calibrated."
)
_BINARY: Final = (
    f"Binary: where the heat map is more than {CONTOUR:g} of the way from its median to its peak "
    "in this case, whatever the probability of the label."
)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model says of one label."""

    label: str
    score: float
    probability: float
    heat: npt.NDArray[np.float32]
    """Relative heat [n, h, w] in [0, 1]: 0 at its median and below, 1 at its peak."""


def predict(
    path: Path, *, run: Path, labels: Sequence[str], out: Path, dicom: bool = True,
    masks: Masks = "fractional",
) -> dict[str, Any]:  # fmt: skip
    """Score one case against labels and show where they are seen.

    Writes `scores.json`, `heat/<label>.png`, and for a DICOM series or single image `seg.dcm` and
    `sr.dcm`. The DICOM objects name the patient of their source: `out` is for its owner alone.

    Args:
        path: See `downstream.case.read_case`.
        run: Run folder.
        labels: Concept ids of the knowledge book, or any words.
        out: Folder; an earlier prediction there is replaced.
        dicom: Whether DICOM objects are written.
        masks: What the segmentation holds.

    Returns:
        What `scores.json` says.

    Raises:
        InputError: The case cannot be read.
        ConfigError: `out` holds something else, or labels are missing or alike.
        CheckpointError: The run cannot be loaded.
        DependencyError: highdicom is needed and not installed.
    """
    from medvlp.models.checkpoint import load_encoder

    _refuse_foreign(out)
    if not labels or len({_slug(label) for label in labels}) < len(labels):
        raise ConfigError(
            "labels must be given, and differ", code="labels-invalid", got=",".join(labels),
            next_step='give them as --labels "pleural_effusion,nodule"',
        )  # fmt: skip
    case = read_case(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_encoder(run, device=device)
    answers, prompts = answer(case, encoder, labels)
    algorithm = Algorithm(encoder.digest, prompts)
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        facts = _write(partial, case, answers, algorithm, dicom=dicom, masks=masks)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"out": str(out), **facts}


def answer(
    case: Case, encoder: VisionTextEncoder, labels: Sequence[str]
) -> tuple[list[Answer], str]:
    """What the model says of each label, asked as an evaluation asks it.

    Returns:
        The answers, and the digest of the prompts.
    """
    task = ZeroShotTask(kind="zero_shot", name="predict", labels=tuple(labels))
    embedder = Embedder("predict", encoder, case)
    prompts = label_prompts(task.prompts, labels)
    scores = score_labels(task, embedder, [[case.sample]], prompts)[0]
    chances = probabilities(task.mode, scores, embedder.scale)
    claims, against = contrast_pair(prompts, embedder, task.contrast)
    maps, weights = contrast_heat(embedder, case.sample, claims, against)
    shape = case.shown.frames.shape
    answers = [
        Answer(
            label, float(scores[k]), float(chances[k]),
            # Plain: weights of slices say which slice the vector owes most to, and would light up
            # the whole of it; a mask is about the place.
            relative(heat_map(maps[k], weights, shape, "plain")),
        )
        for k, label in enumerate(labels)
    ]  # fmt: skip
    return answers, digest([prompts.digest, task.contrast])


def relative(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Heat of any scale -> 0 at its median and below, 1 at its peak; a flat map is 0."""
    low, high = float(np.median(heat)), float(heat.max())
    if high - low < 1e-9:
        return np.zeros_like(heat)
    scaled: npt.NDArray[np.float32] = np.clip((heat - low) / (high - low), 0, 1)
    return scaled


def _write(
    folder: Path, case: Case, answers: Sequence[Answer], algorithm: Algorithm, *, dicom: bool,
    masks: Masks,
) -> dict[str, Any]:  # fmt: skip
    (folder / "heat").mkdir()
    rows = []
    for one in answers:
        picture = f"heat/{_slug(one.label)}.png"
        title = f"{concept_name(one.label)}   {one.probability:.2f}"
        save_overlay(
            folder / picture, case.shown, case.sample.geometry, one.heat, title=title
        )  # fmt: skip
        rows.append({
            "label": one.label, "name": concept_name(one.label), "score": one.score,
            "probability": one.probability, "heat": picture,
        })  # fmt: skip
    notes = []
    if dicom and case.source is not None:
        notes += _write_dicom(folder, case.source, answers, algorithm, masks)
    elif dicom:
        notes.append(NO_MASK)
    facts = {
        "labels": rows, "kind": case.sample.kind, "modality": case.sample.modality,
        "pixels": case.digest, "left_out": case.left_out,
        "model_digest": algorithm.model_digest, "prompt_digest": algorithm.prompt_digest,
        "code_version": __version__, "notes": notes,
    }  # fmt: skip
    write_json(folder / SCORES, facts)
    facts["files"] = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return facts


def _write_dicom(
    folder: Path, source: SourceImages, answers: Sequence[Answer], algorithm: Algorithm, kind: Masks
) -> list[str]:
    """`seg.dcm` with a segment for every label whose mask has anything in it, and `sr.dcm`."""
    masks = [_mask(one, kind) for one in answers]
    seen = [k for k, mask in enumerate(masks) if mask.any()]
    notes = [] if len(seen) == len(masks) else ["labels without any heat have no segment"]
    seg = None
    if seen:
        text = _BINARY if kind == "binary" else _FRACTIONAL
        seg = write_seg(
            np.stack([masks[k] for k in seen]), source,
            [Segment(answers[k].label, text) for k in seen], folder / "seg.dcm",
            algorithm=algorithm,
        )  # fmt: skip
    statements = [
        Statement(
            one.label, one.score, one.probability, seen.index(k) + 1 if k in seen else None
        )
        for k, one in enumerate(answers)
    ]  # fmt: skip
    write_sr(statements, source, seg, folder / "sr.dcm", algorithm=algorithm)
    return notes


def _mask(one: Answer, kind: Masks) -> np.ndarray:
    """The mask of a label; what a step of 1/255 would round to nothing is nothing."""
    if kind == "binary":
        return one.heat > CONTOUR
    values = one.heat * np.float32(one.probability)
    return np.where(np.rint(values * 255) > 0, values, np.float32(0))


def _slug(label: str) -> str:
    return re.sub(r"\W+", "_", label.strip().lower()).strip("_") or "label"


def _refuse_foreign(out: Path) -> None:
    """Only a prediction is ever replaced."""
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SCORES).is_file())):
        raise ConfigError(
            "the output folder holds something else", code="out-exists", got=out,
            next_step="choose another --out",
        )  # fmt: skip
