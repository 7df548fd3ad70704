"""C-FIND, C-GET and C-MOVE by study root (PS3.4 C), as archives really speak them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.presentation import build_context

from data_connectors.dicom.header import text
from data_connectors.pacs import association
from data_connectors.pacs.archive import Series, Study, Take, Wanted, group_patients, is_uid
from data_connectors.pacs.association import (
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    Gate,
    UnservedError,
    broken,
    explain,
    raise_of,
    status_of,
    storage_rounds,
)
from data_connectors.pacs.http import tls_context
from data_connectors.pacs.listener import Listener, save
from data_connectors.pacs.pacing import Interrupted, Pacer
from data_connectors.pacs.source import DimseSource
from medvlp.errors import ArchiveError, InputError

_PENDING: Final = (0xFF00, 0xFF01)
_UNSUPPORTED: Final = (0x0122, 0x0211)
"""SOP class not supported, unrecognised operation."""
_MAX_ROWS: Final = 5_000_000
_PATIENCE: Final = 3


class Dimse:
    """An archive that speaks DIMSE; implements `Archive`."""

    def __init__(self, source: DimseSource, pacer: Pacer, incoming: Path) -> None:
        """Nothing is asked yet.

        Args:
            source: Paths in it are absolute.
            pacer: The pace of all workers.
            incoming: Private folder for files that are not complete yet.
        """
        association.silence()
        self._source = source
        self._pacer = pacer
        self._incoming = incoming
        self._wanted = Wanted(source.find)
        self._moves = source.retrieve == "move"
        self._listener: Listener | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """C-ECHO."""
        self._pacer.retry(self._echo)

    def search(self) -> Iterator[Series]:
        """Studies first, then the series of each."""
        studies: dict[tuple[str, str], Study] = {}
        for keys in self._wanted.study_keys():
            for row in self._find("STUDY", keys, (
                "StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate",
                "StudyDescription", "ModalitiesInStudy",
            )):  # fmt: skip
                study = Study(
                    text(row, "StudyInstanceUID"), text(row, "PatientID"),
                    text(row, "AccessionNumber"), text(row, "StudyDate"),
                    text(row, "StudyDescription"),
                )  # fmt: skip
                if self._wanted.study(study):
                    studies[study.uid, study.patient] = study
        for uid, patients in group_patients(list(studies.values())).items():
            yield from self._series(uid, patients)

    def instances(self, series: Series) -> Mapping[str, str] | None:
        """See `Archive`."""
        keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
        try:
            rows = self._find("IMAGE", keys, ("SOPInstanceUID", "SOPClassUID"))
        except InputError:
            return None
        return {
            text(row, "SOPInstanceUID"): text(row, "SOPClassUID")
            for row in rows
            if text(row, "SeriesInstanceUID") in ("", series.uid)
        }

    def retrieve(self, series: Series, wanted: Mapping[str, str], whole: bool, take: Take) -> None:
        """See `Archive`."""
        keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
        if whole or not wanted:
            self._retrieve(series, {"QueryRetrieveLevel": "SERIES", **keys}, wanted, take)
            return
        failed = 0
        trouble: Exception | None = None
        for uid in filter(is_uid, wanted):
            one = {"QueryRetrieveLevel": "IMAGE", **keys, "SOPInstanceUID": uid}
            try:
                self._retrieve(series, one, {uid: wanted[uid]}, take)
                failed = 0
            except (Interrupted, InputError) as error:
                failed, trouble = failed + 1, error
                if failed >= _PATIENCE:
                    break
        if trouble:
            raise trouble

    def close(self) -> None:
        """See `Archive`."""
        if self._listener:
            self._listener.close()

    def _series(self, study: str, patients: tuple[str, ...]) -> Iterator[Series]:
        if not is_uid(study):
            yield Series(study, "", patients, None)
            return
        seen: set[str] = set()
        for row in self._find("SERIES", {"StudyInstanceUID": study}, (
            "SeriesInstanceUID", "Modality", "SeriesDescription", "BodyPartExamined",
            "NumberOfSeriesRelatedInstances",
        )):  # fmt: skip
            count = text(row, "NumberOfSeriesRelatedInstances")
            series = Series(
                study, text(row, "SeriesInstanceUID"), patients,
                int(count) if count.isdigit() else None, text(row, "Modality"),
                text(row, "SeriesDescription"), text(row, "BodyPartExamined"),
            )  # fmt: skip
            if self._wanted.series(series) and series.uid not in seen:
                seen.add(series.uid)
                yield series

    def _echo(self) -> None:
        with self._associate([build_context(VERIFICATION)]) as (peer, _):
            if status_of(peer.send_c_echo()) != 0:
                raise Interrupted("it does not answer C-ECHO")

    def _find(self, level: str, keys: Mapping[str, str], wanted: tuple[str, ...]) -> list[Dataset]:
        """All matches of a query.

        Raises:
            ArchiveError: The archive does not answer.
            InputError: It refuses the query.
        """
        query = Dataset()
        query.SpecificCharacterSet = "ISO_IR 192"
        query.QueryRetrieveLevel = level
        for name in wanted:
            setattr(query, name, "")
        for name, value in keys.items():
            setattr(query, name, value.replace("\\", "?"))
        return self._pacer.retry(lambda: self._find_once(query))

    def _find_once(self, query: Dataset) -> list[Dataset]:
        rows: list[Dataset] = []
        with self._associate([build_context(STUDY_FIND)]) as (peer, late):
            for answer, row in peer.send_c_find(query, STUDY_FIND):
                status = status_of(answer)
                if status in _PENDING:
                    if row is not None:
                        rows.append(row)
                    if len(rows) > _MAX_ROWS:
                        raise ArchiveError("the archive's list does not end", code="pacs-list-long")
                elif status == 0:
                    return rows
                elif status is not None:
                    raise_of("C-FIND", status)
            raise Interrupted(broken(late, "C-FIND"))

    def _retrieve(
        self, series: Series, keys: Mapping[str, str], wanted: Mapping[str, str], take: Take
    ) -> None:
        query = Dataset()
        for name, value in keys.items():
            setattr(query, name, value)
        if not self._moves:
            try:
                self._get(query, wanted, take)
                return
            except UnservedError:
                if self._source.retrieve == "get":
                    raise
                self._moves = True
        self._move(series, query, wanted, take)

    def _get(self, query: Dataset, wanted: Mapping[str, str], take: Take) -> None:
        """C-GET, in as many associations as the storage classes need."""
        missing = set(wanted)
        first = [build_context(STUDY_GET)]
        trouble: Exception | None = None
        for contexts in storage_rounds(wanted.values(), first=first):
            try:
                missing -= self._get_once(query, contexts, take)
                trouble = None
            except InputError as error:
                trouble = error  # other classes may still be had
            if wanted and not missing:
                return
        if trouble:
            raise trouble

    def _get_once(self, query: Dataset, contexts: list[Any], take: Take) -> set[str]:
        came: set[str] = set()

        def store(event: Any) -> int:
            gate.message()
            came.add(str(event.request.AffectedSOPInstanceUID))
            return save(event, self._incoming, take)

        gate = self._gate()
        with self._associate(contexts, gate=gate, store=store) as (peer, late):
            if not any(c.abstract_syntax == STUDY_GET for c in peer.accepted_contexts):
                raise UnservedError
            gate.begin(self._pacer.pace.request_timeout_s)
            for answer, _ in peer.send_c_get(query, STUDY_GET):
                status = status_of(answer)
                if status in _PENDING:
                    continue
                if status in (0x0000, 0xB000):  # with B000, the ledger knows what is missing
                    return came
                if status in _UNSUPPORTED and not came:
                    raise UnservedError
                if status is not None:
                    raise_of("C-GET", status)
            raise Interrupted(broken(late, "C-GET"))

    def _move(self, series: Series, query: Dataset, wanted: Mapping[str, str], take: Take) -> None:
        """C-MOVE to our own listener."""
        with self._lock:
            if self._listener is None:
                self._listener = Listener(self._source, self._pacer, self._incoming)
        with (
            self._listener.expecting(series, wanted, take),
            self._associate([build_context(STUDY_MOVE)]) as (peer, late),
        ):
            for answer, _ in peer.send_c_move(query, self._source.calling, STUDY_MOVE):
                status = status_of(answer)
                if status in _PENDING:
                    continue
                if status in (0x0000, 0xB000):
                    return
                if status is not None:
                    raise_of("C-MOVE", status)
            raise Interrupted(broken(late, "C-MOVE"))

    def _gate(self) -> Gate:
        source = self._source
        return Gate(self._pacer, max_pdu=source.max_pdu, max_bytes=source.max_bytes)

    @contextmanager
    def _associate(
        self, contexts: list[Any], *, gate: Gate | None = None, store: Any = None
    ) -> Iterator[tuple[Any, threading.Event]]:
        """One association.

        Raises:
            Interrupted: It does not come about, this time.
            ArchiveError: The archive rejects it.
        """
        source, pace = self._source, self._pacer.pace
        gate = gate or self._gate()
        gate.begin(pace.request_timeout_s)
        entity = AE(ae_title=source.calling)
        entity.connection_timeout = entity.acse_timeout = pace.connect_timeout_s
        entity.dimse_timeout = entity.network_timeout = pace.silence_timeout_s
        roles: list[Any] = [
            build_role(uid, scp_role=True)
            for uid in dict.fromkeys(c.abstract_syntax for c in contexts if store)
            if uid != STUDY_GET
        ]
        tls = (tls_context(source.tls), source.host) if source.tls else None
        self._pacer.request()
        peer = entity.associate(
            source.host, source.port, contexts=contexts, ae_title=source.called,
            max_pdu=source.max_pdu, ext_neg=roles or None, tls_args=tls,
            evt_handlers=association.handlers(gate, store),
        )  # fmt: skip
        try:
            if not peer.is_established:
                explain(peer)
            with association.deadline(peer, pace.request_timeout_s) as late:
                yield peer, late
        finally:
            with suppress(Exception):
                peer.release() if peer.is_established else peer.abort()
