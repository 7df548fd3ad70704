"""What all transcript parsers share: reading text, refusing with a place, checked times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from medvlp.errors import InputError
from medvlp.types import Utterance, Word

MAX_BYTES = 64 * 2**20
"""No transcript of one operation is larger; a larger file is something else."""


def read_text(path: Path, *, code: str) -> str:
    """A text file as UTF-8 (with or without byte-order mark), never empty.

    Raises:
        InputError: With `code`: too large, empty, or not UTF-8.
    """
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    if data is None:
        raise InputError("the file is too large for a text", code=code,
                         got=f"{path.stat().st_size} bytes", limit=MAX_BYTES)  # fmt: skip
    if not data.strip():
        raise InputError("the file is empty", code=code, next_step="run the recogniser again")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "the file is not UTF-8 text", code=code, got=f"byte {error.start}",
            next_step="save it as UTF-8",
        ) from None  # fmt: skip


def unreadable(
    what: str, *, line: int | None = None, code: str = "transcript-not-parseable"
) -> InputError:
    """The refusal of a file, saying where."""
    return InputError(
        what,
        code=code,
        got=None if line is None else f"line {line}",
        next_step="correct the file or export it again",
    )


def seconds(value: Any, where: str, *, code: str = "transcript-not-parseable") -> float:
    """A number or numeric string as finite seconds.

    Raises:
        InputError: With `code`.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise unreadable(f"{where}: a time that is no number", code=code)
    return number


def in_order(start_s: float, end_s: float, where: str, *, instant: bool = False) -> None:
    """Check that a stretch of time starts at or after 0 and ends after it starts.

    Args:
        start_s: Seconds.
        end_s: Seconds.
        where: In the file, for the error.
        instant: It may also end when it starts: recognisers round short words to no length.

    Raises:
        InputError: `transcript-time-order`.
    """
    if not (0 <= start_s < end_s or (instant and 0 <= start_s == end_s)):
        raise InputError(
            f"{where}: it must end after it starts",
            code="transcript-time-order",
            got=f"{start_s:.3f}..{end_s:.3f} s",
            next_step="correct the times or run the recogniser again",
        )


def utterance(
    text: str, start_s: float, end_s: float, where: str, words: tuple[Word, ...] = ()
) -> Utterance:
    """An utterance with checked times.

    Raises:
        InputError: `transcript-time-order`, saying where.
    """
    in_order(start_s, end_s, where)
    return Utterance(" ".join(text.split()), start_s, end_s, words)
