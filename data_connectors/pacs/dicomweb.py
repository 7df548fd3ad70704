"""QIDO-RS and WADO-RS (PS3.18 10.6 and 10.4) as archives really speak them.

Every URL is made here, from the configured root and UIDs: RetrieveURL and BulkDataURI in answers
are never read, so no answer can send a request, or credentials, anywhere.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from data_connectors.pacs.archive import Series, Study, Take, Wanted, group_patients, is_uid
from data_connectors.pacs.http import Client, Response
from data_connectors.pacs.multipart import read_parts
from data_connectors.pacs.pacing import Interrupted, Pacer
from data_connectors.pacs.secret import read_secret
from data_connectors.pacs.source import DicomwebSource
from medvlp.errors import ArchiveError, InputError

_JSON: Final = "application/dicom+json"
_MAX_ANSWER: Final = 64_000_000
_MAX_ROWS: Final = 5_000_000
_PATIENCE: Final = 3
"""Instances that fail one after the other before a retrieval is given up."""
_ACCEPTS: Final = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',  # as stored, not converted
    'multipart/related; type="application/dicom"',
    "multipart/related; type=application/dicom",
    "*/*",
)
_TAGS: Final = {
    "SOPClassUID": "00080016", "SOPInstanceUID": "00080018", "StudyDate": "00080020",
    "AccessionNumber": "00080050", "Modality": "00080060", "StudyDescription": "00081030",
    "SeriesDescription": "0008103E", "PatientID": "00100020", "BodyPartExamined": "00180015",
    "StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E",
    "NumberOfSeriesRelatedInstances": "00201209",
}  # fmt: skip

Row = dict[str, Any]


class Dicomweb:
    """An archive that speaks DICOMweb; implements `Archive`."""

    def __init__(self, source: DicomwebSource, pacer: Pacer, incoming: Path) -> None:
        """Nothing is asked yet.

        Args:
            source: Paths in it are absolute.
            pacer: The pace of all workers.
            incoming: Private folder for files that are not complete yet.
        """
        self._source = source
        self._pacer = pacer
        self._incoming = incoming
        self._wanted = Wanted(source.find)
        self._secret = read_secret(source.credentials) if source.credentials else None
        self._mine = threading.local()
        self._clients: list[Client] = []
        self._accept = 0

    def check(self) -> None:
        """Ask for one study."""
        self._pacer.retry(lambda: self._page("/studies?limit=1"))

    def search(self) -> Iterator[Series]:
        """Studies first, then the series of each: every archive can do that."""
        studies: dict[tuple[str, str], Study] = {}
        for keys in self._wanted.study_keys():
            for row in self._rows("/studies", keys, ("StudyDescription",)):
                study = Study(
                    _text(row, "StudyInstanceUID"), _text(row, "PatientID"),
                    _text(row, "AccessionNumber"), _text(row, "StudyDate"),
                    _text(row, "StudyDescription"),
                )  # fmt: skip
                if self._wanted.study(study):
                    studies[study.uid, study.patient] = study
        for uid, patients in group_patients(list(studies.values())).items():
            yield from self._series(uid, patients)

    def instances(self, series: Series) -> Mapping[str, str] | None:
        """See `Archive`."""
        path = f"/studies/{series.study}/series/{series.uid}/instances"
        try:
            rows = list(self._rows(path, {}, ()))
        except InputError:
            return None
        return {
            _text(row, "SOPInstanceUID"): _text(row, "SOPClassUID")
            for row in rows
            if _text(row, "SeriesInstanceUID") in ("", series.uid)
        }

    def retrieve(self, series: Series, wanted: Mapping[str, str], whole: bool, take: Take) -> None:
        """See `Archive`."""
        root = f"/studies/{series.study}/series/{series.uid}"
        if whole or not wanted:
            self._fetch(root, take)
            return
        failed = 0
        trouble: Exception | None = None
        for uid in filter(is_uid, wanted):
            try:
                self._fetch(f"{root}/instances/{uid}", take)
                failed = 0
            except (Interrupted, InputError) as error:
                failed, trouble = failed + 1, error
                if failed >= _PATIENCE:
                    break
        if trouble:
            raise trouble

    def close(self) -> None:
        """See `Archive`."""
        for client in self._clients:
            client.close()

    @property
    def _client(self) -> Client:
        """This thread's connection."""
        client: Client | None = getattr(self._mine, "client", None)
        if client is None:
            source = self._source
            client = Client(source.url, self._secret, source.tls, self._pacer)
            self._mine.client = client
            self._clients.append(client)
        return client

    def _series(self, study: str, patients: tuple[str, ...]) -> Iterator[Series]:
        if not is_uid(study):
            yield Series(study, "", patients, None)
            return
        fields = ("BodyPartExamined", "NumberOfSeriesRelatedInstances", "PatientID")
        seen: set[str] = set()
        for row in self._rows(f"/studies/{study}/series", {}, fields):
            owner = _text(row, "PatientID")
            count = _text(row, "NumberOfSeriesRelatedInstances")
            series = Series(
                study, _text(row, "SeriesInstanceUID"), (owner,) if owner else patients,
                int(count) if count.isdigit() else None, _text(row, "Modality"),
                _text(row, "SeriesDescription"), _text(row, "BodyPartExamined"),
            )  # fmt: skip
            if owner and owner not in patients:
                continue  # the study has another patient too, whom nobody asked for
            if self._wanted.series(series) and series.uid not in seen:
                seen.add(series.uid)
                yield series

    def _rows(self, path: str, keys: Mapping[str, str], fields: tuple[str, ...]) -> Iterator[Row]:
        """All rows of a query, page by page until one is empty.

        Raises:
            ArchiveError: It cannot be had completely.
            InputError: The archive knows no such query.
        """
        query = "&".join(
            [f"{name}={quote(value, safe='*?-')}" for name, value in keys.items()]
            + [f"includefield={name}" for name in fields]
        )
        seen: set[str] = set()
        offset = 0
        while offset <= _MAX_ROWS:
            page = f"{path}?{query}{'&' * bool(query)}limit={self._source.page}&offset={offset}"
            rows = self._pacer.retry(lambda page=page: self._page(page))  # type: ignore[misc]
            fresh = [row for row in rows if (mark := _mark(row)) not in seen and not seen.add(mark)]  # type: ignore[func-returns-value]
            yield from fresh
            if not rows:
                return
            if not fresh:  # `offset` means nothing to this archive
                if len(rows) == self._source.page:
                    break
                return
            offset += len(rows)
        raise ArchiveError(
            "the archive does not give its list page by page, so it may not be complete",
            code="pacs-paging", next_step="narrow the filter, or raise `page`",
        )  # fmt: skip

    def _page(self, path: str) -> list[Row]:
        with self._client.get(path, accept=_JSON) as response:
            if response.status == 204 or (response.status == 404 and "&offset=0" not in path):
                response.read(_MAX_ANSWER)
                return []  # nothing, or nothing more
            if response.status not in (200, 206):
                raise _unusable(response)
            body = response.read(_MAX_ANSWER)
        try:
            rows = json.loads(body) if body.strip() else []
        except (ValueError, RecursionError):
            raise Interrupted("its list is not DICOM JSON") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Interrupted("its list is not DICOM JSON")
        return [{str(tag).upper(): value for tag, value in row.items()} for row in rows]

    def _fetch(self, path: str, take: Take) -> None:
        """One retrieval, by the first way to ask for it that this archive accepts."""
        while True:
            number = self._accept
            with self._client.get(path, accept=_ACCEPTS[number]) as response:
                if response.status in (200, 206):
                    self._receive(response, take)
                    return
                refused = response.status in (400, 406, 415, 501)
                if not refused or number + 1 >= len(_ACCEPTS):
                    raise _unusable(response)
            if self._accept == number:
                self._accept = number + 1

    def _receive(self, response: Response, take: Take) -> None:
        kind = response.header("content-type")
        if kind.lower().startswith("application/dicom") and "+" not in kind.partition(";")[0]:
            if not response.framed:
                raise InputError("a file without an end mark is not trusted", code="pacs-cut")
            self._save(response.chunks(), take)
            return
        try:
            for part in read_parts(response.chunks(), kind):
                self._save(part.body, take)
        except InputError as error:
            if error.code == "pacs-cut":
                raise Interrupted("an answer ends early") from None
            raise

    def _save(self, body: Iterator[bytes], take: Take) -> None:
        """Write one file; it is handed over only when it is complete."""
        handle, name = tempfile.mkstemp(dir=self._incoming)
        path, size = Path(name), 0
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in body:
                    size += len(piece)
                    if size > self._source.max_bytes:
                        raise InputError(
                            "the archive sends a larger file than allowed", code="pacs-too-large",
                            limit=f"{self._source.max_bytes} bytes",
                            next_step="raise max_bytes if it is genuine",
                        )  # fmt: skip
                    file.write(piece)
            take(path)
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _text(row: Row, keyword: str) -> str:
    """The first value of an attribute as text, whatever shape an archive gives it."""
    element = row.get(_TAGS[keyword])
    value = element.get("Value") if isinstance(element, dict) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    return str(value).strip(" \0")


def _mark(row: Row) -> str:
    names = ("StudyInstanceUID", "PatientID", "SeriesInstanceUID", "SOPInstanceUID")
    return "\0".join(_text(row, name) for name in names)


def _unusable(response: Response) -> InputError:
    return InputError(
        "the archive does not give what it was asked for", code="pacs-refused",
        got=f"HTTP {response.status}",
    )  # fmt: skip
