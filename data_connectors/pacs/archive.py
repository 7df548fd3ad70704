"""What an archive says it has: series, and what the config wants of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import translate
from pathlib import Path
from typing import Protocol, runtime_checkable

from data_connectors.pacs.source import ArchiveFilter
from medvlp.errors import ConfigError

_UID = re.compile(r"[0-9A-Za-z_\-][0-9A-Za-z._\-]{0,127}")
_PLAIN = re.compile(r"[^0-9A-Za-z._~\-]")
_MAX_LIST = 50_000_000

Key = tuple[str, str]
"""(StudyInstanceUID, SeriesInstanceUID)."""
Take = Callable[[Path], None]
"""Hands a received file over; it is moved or removed."""


@dataclass(frozen=True, slots=True)
class Study:
    """One row of a study query."""

    uid: str
    patient: str
    accession: str
    date: str
    description: str


@dataclass(frozen=True, slots=True)
class Series:
    """One series as an archive lists it."""

    study: str
    uid: str
    patients: tuple[str, ...]
    """PatientIDs under which the archive has the study: two if it mixes them."""
    counted: int | None
    """NumberOfSeriesRelatedInstances."""
    modality: str = ""
    description: str = ""
    body_part: str = ""

    @property
    def key(self) -> Key:
        """What names it."""
        return self.study, self.uid

    @property
    def odd(self) -> bool:
        """Whether a UID is not one to ask for: empty, endless, or with path separators."""
        return not (is_uid(self.study) and is_uid(self.uid))


@runtime_checkable
class Archive(Protocol):
    """A protocol's way to search and retrieve; used by several threads."""

    def check(self) -> None:
        """Ask for a sign of life.

        Raises:
            ArchiveError: There is none.
        """

    def search(self) -> Iterator[Series]:
        """Every series that the filter wants, each once, in any order.

        Raises:
            ArchiveError: The list cannot be had completely.
        """

    def instances(self, series: Series) -> Mapping[str, str] | None:
        """SOPInstanceUID -> SOPClassUID (may be empty) of a series; None if it cannot be listed.

        Raises:
            ArchiveError: The archive does not answer.
        """

    def retrieve(self, series: Series, wanted: Mapping[str, str], whole: bool, take: Take) -> None:
        """Fetch instances; whatever arrives complete is handed to `take`, wanted or not.

        Args:
            series: Of which series.
            wanted: SOPInstanceUID -> SOPClassUID of those that are missing.
            whole: Ask for all of the series at once.
            take: Called from any thread.

        Raises:
            Interrupted: It broke; what was taken counts.
            InputError: The archive gives no such thing.
            ArchiveError: The archive refuses.
        """

    def close(self) -> None:
        """Drop all connections."""


class Wanted:
    """The filter of a config, with its lists read."""

    def __init__(self, config: ArchiveFilter) -> None:
        self.config = config
        self.patients = _lines(config.patients)
        self.accessions = _lines(config.accessions)
        self.series_uids = _lines(config.series)
        self._modalities = {modality.upper() for modality in config.modalities}
        self._parts = {part.strip().upper() for part in config.body_parts}
        self._study_text = _pattern(config.study_description)
        self._series_text = _pattern(config.series_description)

    def study_keys(self) -> Iterator[dict[str, str]]:
        """The study queries to make: one a listed patient or accession number, or one for all."""
        base: dict[str, str] = {}
        if dates := self._date_range():
            base["StudyDate"] = dates
        if len(self._modalities) == 1:
            base["ModalitiesInStudy"] = next(iter(self._modalities))
        if self.patients is not None:
            yield from ({**base, "PatientID": wild(one)} for one in sorted(self.patients))
        elif self.accessions is not None:
            yield from ({**base, "AccessionNumber": wild(one)} for one in sorted(self.accessions))
        else:
            yield base

    def study(self, row: Study) -> bool:
        """Whether a study is wanted. What the archive does not tell cannot match."""
        first, last = self.config.studied_from, self.config.studied_to
        if first or last:
            day = row.date.replace("-", "").replace(".", "")
            low = (first or date.min).strftime("%Y%m%d").rjust(8, "0")
            high = (last or date.max).strftime("%Y%m%d")
            if not (len(day) == 8 and day.isdigit() and low <= day <= high):
                return False
        if self.patients is not None and row.patient not in self.patients:
            return False
        if self.accessions is not None and row.accession not in self.accessions:
            return False
        return self._study_text is None or bool(self._study_text.match(row.description))

    def series(self, row: Series) -> bool:
        """Whether a series of a wanted study is wanted."""
        if self._modalities and row.modality.upper() not in self._modalities:
            return False
        if self.series_uids is not None and row.uid not in self.series_uids:
            return False
        if self._parts and row.body_part.strip().upper() not in self._parts:
            return False
        return self._series_text is None or bool(self._series_text.match(row.description))

    def _date_range(self) -> str:
        """PS3.4 C.2.2.2.5: `first-last`, either may be open."""
        first, last = self.config.studied_from, self.config.studied_to
        if not (first or last):
            return ""
        return "-".join(day.strftime("%Y%m%d") if day else "" for day in (first, last))


def group_patients(rows: Sequence[Study]) -> dict[str, tuple[str, ...]]:
    """StudyInstanceUID -> the PatientIDs under which the archive has it."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.uid, set()).add(row.patient)
    return {uid: tuple(sorted(patients)) for uid, patients in found.items()}


def is_uid(text: str) -> bool:
    """Whether a UID can stand in a path or query; laxer than PS3.5, as archives are."""
    return _UID.fullmatch(text) is not None


def wild(value: str) -> str:
    """A value to match, with `*` for letters that some archives match in one encoding only.

    Orthanc 1.10 finds nothing for percent-encoded letters, but knows wildcards (PS3.4
    C.2.2.2.4); what else these find is left out again by `Wanted`.
    """
    loose = _PLAIN.sub("*", value)
    return loose if len(loose.replace("*", "")) >= 2 else value


def _lines(path: Path | None) -> frozenset[str] | None:
    """The values of a list file, one a line.

    Raises:
        ConfigError: It cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LIST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a list of what to pull cannot be read ({type(error).__name__})",
            code="pacs-list", next_step="paths are relative to the config file",
        ) from None  # fmt: skip
    values = frozenset(line.strip() for line in text.splitlines() if line.strip())
    if not values:
        raise ConfigError(
            "a list of what to pull is empty", code="pacs-list",
            next_step="leave the key out to pull everything",
        )  # fmt: skip
    return values


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(translate(text), re.IGNORECASE) if text else None
