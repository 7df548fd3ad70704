"""Pixels that a person must look at: pictures for their eyes, and their decisions.

    ingest --out set         -> set.review/review.tsv, set.review/<digest>.png   (mode 0700, 0600)
    a person fills in decision (accept, reject), reviewer and date
    ingest --out set2 --set deid.reviewed=set.review/review.tsv

Pixels are known by the SHA-256 of their values, so a decision holds for these pixels alone,
whatever they are called, and for no others. The pictures and file names are as private as the
inputs: they lie beside the dataset, never in it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from cryptography.fernet import Fernet, InvalidToken
from PIL import Image

from data_connectors.deid.payloads import frames_of
from data_connectors.items import Refused, VisualItem
from medvlp.errors import ConfigError

COLUMNS: Final = ("digest", "decision", "reviewer", "date", "source", "code", "why", "file")
_WIDEST: Final = 6000
"""Pixels of the longer side of a picture."""
Verdict = Literal["accept", "reject"]


class Decision(NamedTuple):
    """What a person said about some pixels."""

    verdict: Verdict
    reviewer: str
    date: str


def read_decisions(path: Path) -> Mapping[str, Decision]:
    """Decisions by digest; rows that are not filled in do not count.

    Raises:
        ConfigError: The file cannot be read, a row is not one of a review list, or two rows
            contradict each other. The message names the line alone.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the review file cannot be read ({type(error).__name__})", code="review-unreadable",
            next_step="correct deid.reviewed; it is relative to the config file",
        ) from None  # fmt: skip
    return _decisions(data)


@lru_cache(maxsize=2)
def _decisions(data: bytes) -> Mapping[str, Decision]:
    try:
        lines = data.decode("utf-8", "surrogateescape").splitlines()
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        found: dict[str, Decision] = {}
        for number, row in enumerate(rows, 2):
            said = (row.get("decision") or "").strip().lower()
            if not said:
                continue
            digest = (row.get("digest") or "").strip().lower()
            reviewer, date = ((row.get(name) or "").strip() for name in ("reviewer", "date"))
            if said not in ("accept", "reject") or not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise _invalid(number, "decision is accept or reject, digest as it was written")
            if not reviewer or not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
                raise _invalid(number, "a decision needs a reviewer and a date (YYYY-MM-DD)")
            decision = Decision("accept" if said == "accept" else "reject", reviewer, date)
            if digest in found and found[digest].verdict != decision.verdict:
                raise _invalid(number, "an earlier line says the opposite about these pixels")
            found[digest] = decision
    except csv.Error:
        raise _invalid(0, "it must be a table with tabs between the columns") from None
    return found


def _invalid(line: int, limit: str) -> ConfigError:
    return ConfigError(
        "the review file holds a decision that cannot be taken", code="review-invalid",
        got=f"line {line}", limit=limit, next_step="correct that line",
    )  # fmt: skip


def hold(item: VisualItem, folder: Path, key: bytes) -> None:
    """Keep a picture of pixels that wait for a person; encrypted while the ingest runs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / item.digest
    if path.exists():
        return
    fresh = folder / f".{item.digest}.{os.getpid()}"
    fresh.write_bytes(Fernet(key).encrypt(picture(item)))
    os.replace(fresh, path)


def picture(item: VisualItem) -> bytes:
    """PNG for a person.

    An image as it is. Of many frames the brightest and the darkest value that each pixel ever
    has, so that light or dark text on any frame is seen, then the first, middle and last frame.
    """
    frames = list(frames_of(item))
    if len(frames) > 1:
        shape = frames[0].shape
        frames = [frame if frame.shape == shape else _fitted(frame, shape) for frame in frames]
        bright, dark = frames[0], frames[0]
        for frame in frames[1:]:
            bright, dark = np.maximum(bright, frame), np.minimum(dark, frame)
        frames = [bright, dark, frames[0], frames[len(frames) // 2], frames[-1]]
    joined = np.concatenate(frames, axis=1)
    image = Image.fromarray(joined)
    image.thumbnail((_WIDEST, _WIDEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _fitted(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    image = Image.fromarray(frame).convert("RGB" if len(shape) == 3 else "L")
    return np.asarray(image.resize((shape[1], shape[0])))


def write_review(
    folder: Path, refused: Iterable[tuple[str, Refused]], *, held: Path, key: bytes
) -> int:
    """The private review folder of a finished ingest.

    Args:
        folder: `<out>.review`; made with mode 0700, or removed where nothing waits.
        refused: (source, refusal); those that name pixels are listed.
        held: Where the workers have put the pictures.
        key: The key that the pictures are encrypted with.

    Returns:
        How many rows wait for a decision.
    """
    rows = [(source, refusal) for source, refusal in refused if refusal.pixels]
    shutil.rmtree(folder, ignore_errors=True)
    if not rows:
        return 0
    folder.mkdir(mode=0o700)
    for digest in sorted({refusal.pixels for _, refusal in rows}):
        try:
            data = Fernet(key).decrypt((held / digest).read_bytes())
        except (OSError, InvalidToken):
            continue
        _private(folder / f"{digest}.png", data)
    lines = ["\t".join(COLUMNS)]
    for source, refusal in rows:
        for name in refusal.inputs:
            file = re.sub(r"[\t\r\n]", " ", name)
            row = (refusal.pixels, "", "", "", source, refusal.code, refusal.reason, file)
            lines.append("\t".join(row))
    _private(folder / "review.tsv", ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return len(rows)


def _private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
