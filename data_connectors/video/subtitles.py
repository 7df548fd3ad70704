"""SubRip and WebVTT, read strictly.

Formats: SubRip has no standard, this is what players accept; WebVTT is
https://www.w3.org/TR/webvtt1/. Beyond the standards, both a comma and a dot may precede the
milliseconds and hours may be left out. Minutes and seconds above 59 are refused: they mean that
the clock of the file is broken.
"""

from __future__ import annotations

import html
import re

from data_connectors.video.parsing import unreadable, utterance
from medvlp.types import Utterance

_TIME = r"(?:(\d+):)?([0-5]\d):([0-5]\d)[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s+(.*))?\s*")
_SRT_TAGS = re.compile(r"</?(?:i|b|u|s|font)(?:\s[^>]*)?>|\{\\[^}]*\}", re.IGNORECASE)
_VTT_TAGS = re.compile(r"<[^>\n]*>")


def parse_srt(text: str) -> tuple[Utterance, ...]:
    """SubRip cues, without their styling.

    Raises:
        InputError: `transcript-not-parseable`, `transcript-time-order`, with the line.
    """
    lines = _lines(text)
    cues: list[Utterance] = []
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        if lines[i].strip().isdigit() and i + 1 < len(lines) and "-->" in lines[i + 1]:
            i += 1
        start_s, end_s = _timing(lines[i], i + 1)
        body, after = _body(lines, i + 1)
        cues.append(utterance(_SRT_TAGS.sub("", body), start_s, end_s, f"line {i + 1}"))
        i = after
    return tuple(cues)


def parse_vtt(text: str) -> tuple[Utterance, ...]:
    """WebVTT cues, without voices, classes and inner timestamps; entities are decoded.

    Raises:
        InputError: `transcript-not-parseable`, `transcript-time-order`, with the line.
    """
    lines = _lines(text)
    if not re.fullmatch(r"WEBVTT(?:[ \t].*)?", lines[0]):
        raise unreadable("a WebVTT file starts with WEBVTT", line=1)
    header, i = _body(lines, 1)
    if "X-TIMESTAMP-MAP" in header:
        raise unreadable("the header shifts the clock", line=2)
    cues: list[Utterance] = []
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
        elif re.fullmatch(r"(?:NOTE|STYLE|REGION)(?:\s.*)?", line) and "-->" not in line:
            _, i = _body(lines, i + 1)
        else:
            if "-->" not in line:  # the cue's name
                i += 1
            if i >= len(lines):
                raise unreadable("a cue without times", line=i)
            start_s, end_s = _timing(lines[i], i + 1)
            body, after = _body(lines, i + 1)
            words = html.unescape(_VTT_TAGS.sub("", body))
            cues.append(utterance(words, start_s, end_s, f"line {i + 1}"))
            i = after
    return tuple(cues)


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\n|\r", text)


def _body(lines: list[str], i: int) -> tuple[str, int]:
    """The lines from i up to a blank one, and where that is."""
    j = i
    while j < len(lines) and lines[j].strip():
        if "-->" in lines[j]:
            raise unreadable("a cue runs into the next one; a blank line is missing", line=j + 1)
        j += 1
    return "\n".join(lines[i:j]), j


def _timing(line: str, number: int) -> tuple[float, float]:
    found = _TIMING.fullmatch(line)
    if found is None:
        raise unreadable("a cue needs a line `hh:mm:ss.mmm --> hh:mm:ss.mmm`", line=number)
    times = [int(part or 0) for part in found.groups()[:8]]
    start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (times[:4], times[4:]))
    return start / 1000, end / 1000
