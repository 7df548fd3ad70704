"""A report as plain text: header lines with identifiers at the top, then the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from data_connectors.reports.source import HeaderField


@dataclass(frozen=True, slots=True)
class Raw:
    """A report before it is parsed: whose it is, and its text."""

    text: str
    patient: str = ""
    accession: str = ""
    study: str = ""
    phi: tuple[str, ...] = field(default=())
    """Every identifying string, the three above among them."""


def read_plain(text: str, header_patterns: Mapping[HeaderField, str]) -> Raw:
    """Split the header from the report.

    The header is the run of lines at the top that start with a known label and a colon; several
    may share a line, two spaces, a tab or a bar apart. The rest, unchanged, is the report.
    """
    pattern = _compile(tuple(sorted(header_patterns.items())))
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        fields = list(_fields(line, pattern))
        if line.strip() and not fields:
            break
        for name, value in fields:
            found.setdefault(name, []).append(value)
        at = end + 1
    values = {name: rows[0] for name, rows in found.items()}
    return Raw(
        text=text[at:],
        patient=values.get("patient", ""),
        accession=values.get("accession", ""),
        study=values.get("study", ""),
        phi=identifying(value for name, rows in found.items() if name != "other" for value in rows),
    )


def identifying(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct non-empty strings, in order."""
    return tuple(dict.fromkeys(text for value in values if (text := value.strip())))


@lru_cache(maxsize=32)
def _compile(patterns: tuple[tuple[HeaderField, str], ...]) -> re.Pattern[str]:
    arms = "|".join(f"(?P<{name}>{pattern})" for name, pattern in patterns)
    return re.compile(
        rf"(?:{arms})\s*[:#=]\s*(?P<value>.*?)\s*(?:\t|\||[ ]{{2,}}|$)", re.IGNORECASE
    )


def _fields(line: str, pattern: re.Pattern[str]) -> Iterable[tuple[str, str]]:
    """(field, value) pairs of one line, or nothing if any part of it is no header field."""
    found = []
    at = len(line) - len(line.lstrip())
    while at < len(line):
        match = pattern.match(line, at)
        if match is None:
            return []
        name = next(name for name in match.re.groupindex if name != "value" and match[name])
        found.append((name, match["value"]))
        at = match.end()
        while at < len(line) and line[at] in " \t|":
            at += 1
    return found
