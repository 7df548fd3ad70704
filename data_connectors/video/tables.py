"""Tables of a lecture: `start,end,text` transcripts and key steps."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from data_connectors.video.parsing import read_text, seconds, unreadable, utterance
from medvlp.errors import InputError
from medvlp.types import Utterance

KEYSTEPS = "keysteps-not-parseable"


@dataclass(frozen=True, slots=True)
class KeyStep:
    """One row of the surgeon's own outline of an operation."""

    start_s: float
    end_s: float
    phase: str
    """Name of the phase it belongs to; where a table has no phases, a row is a phase."""
    step: str
    """Name of the step within the phase, or empty."""
    text: str


def identifier(name: str) -> str:
    """A name as a stable id: lower case, `_` between words. `Calot's triangle` -> `calot_s_...`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def parse_table(
    text: str, required: tuple[str, ...], *, code: str
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers; column names in lower case.

    Raises:
        InputError: With `code`: a column is missing, a row has too few or many cells, broken
            quotes.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                missing = [name for name in required if name not in header]
                if missing:
                    raise unreadable(f"columns missing: {', '.join(missing)}", line=1, code=code)
                continue
            if len(cells) != len(header):
                raise unreadable(
                    f"{len(cells)} cells for {len(header)} columns", line=reader.line_num, code=code
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error:
        raise unreadable("not a CSV table", line=reader.line_num, code=code) from None
    return rows


def parse_utterances_csv(text: str) -> tuple[Utterance, ...]:
    """The SurgVLP transcript: `start,end,text`, in seconds.

    Raises:
        InputError: `transcript-not-parseable`, `transcript-time-order`, with the line.
    """
    rows = parse_table(text, ("start", "end", "text"), code="transcript-not-parseable")
    return tuple(
        utterance(
            row["text"],
            seconds(row["start"], f"line {line}"),
            seconds(row["end"], f"line {line}"),
            f"line {line}",
        )
        for line, row in rows
    )


def read_keysteps(path: Path) -> tuple[KeyStep, ...]:
    """Key steps: `start,end` with any of `phase`, `step`, `text`, ordered by time.

    Without a `phase` column every row is a phase of its own, named by `step` or else `text`
    (HecVL trains its phase level on such rows).

    Raises:
        InputError: `keysteps-not-parseable`.
    """
    rows = parse_table(read_text(path, code=KEYSTEPS), ("start", "end"), code=KEYSTEPS)
    steps: list[KeyStep] = []
    for line, row in rows:
        start_s, end_s = (seconds(row[k], f"line {line}", code=KEYSTEPS) for k in ("start", "end"))
        if not 0 <= start_s < end_s:
            raise InputError(
                f"line {line}: a key step must end after it starts", code=KEYSTEPS,
                got=f"{start_s:.3f}..{end_s:.3f} s", next_step="correct the times",
            )  # fmt: skip
        cells = {k: " ".join(row.get(k, "").split()) for k in ("phase", "step", "text")}
        if "phase" not in row:
            cells["phase"], cells["step"] = cells["step"] or cells["text"], ""
        if not any(cells.values()):
            raise unreadable("a key step without a name or text", line=line, code=KEYSTEPS)
        steps.append(KeyStep(start_s, end_s, cells["phase"], cells["step"], cells["text"]))
    return tuple(sorted(steps, key=lambda s: (s.start_s, s.end_s)))


def read_abstract(path: Path) -> str:
    """A lecture's abstract: plain text, or the `text` column of a CSV.

    Raises:
        InputError: `abstract-not-parseable`.
    """
    code = "abstract-not-parseable"
    text = read_text(path, code=code)
    if path.suffix.lower() == ".csv":
        text = " ".join(row["text"] for _, row in parse_table(text, ("text",), code=code))
    text = " ".join(text.split())
    if not text:
        raise unreadable("the abstract has no text", code=code)
    return text
