"""Receives files over an association: ours for C-GET, the archive's for C-MOVE."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.dsutils import encode_file_meta

from data_connectors.pacs import association
from data_connectors.pacs.archive import Key, Series, Take
from data_connectors.pacs.identify import identify
from data_connectors.pacs.pacing import Pacer
from data_connectors.pacs.source import DimseSource
from medvlp.errors import ConfigError, InputError

OK: Final = 0x0000
NOT_AUTHORISED: Final = 0x0124
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_UNDERSTAND: Final = 0xC000


def save(event: Any, incoming: Path, take: Take) -> int:
    """Write the file of a C-STORE as it was sent, and hand it over.

    Returns:
        The status to answer with.
    """
    handle, name = tempfile.mkstemp(dir=incoming)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(b"\0" * 128 + b"DICM")
            file.write(encode_file_meta(event.file_meta))
            file.write(event.request.DataSet.getbuffer())
        take(path)
    except OSError:
        return OUT_OF_RESOURCES
    except InputError:
        return CANNOT_UNDERSTAND
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
    return OK


class Listener:
    """Our storage SCP, while there is something to be moved to it.

    It talks to the archive's AE titles alone, and keeps only what is being asked for right now.
    """

    def __init__(self, source: DimseSource, pacer: Pacer, incoming: Path) -> None:
        """Start to listen.

        Raises:
            ConfigError: The address or port cannot be used, or TLS lacks a certificate.
        """
        self._source = source
        self._pacer = pacer
        self._incoming = incoming
        self._lock = threading.Lock()
        self._expected: dict[Key, tuple[frozenset[str], Take]] = {}
        self._gates: dict[Any, association.Gate] = {}
        entity = AE(ae_title=source.calling)
        entity.require_called_aet = True
        entity.require_calling_aet = [source.called, *source.listen.senders]
        entity.maximum_pdu_size = source.max_pdu
        entity.maximum_associations = 4 * source.pace.parallel
        entity.acse_timeout = source.pace.connect_timeout_s
        entity.dimse_timeout = entity.network_timeout = source.pace.silence_timeout_s
        association.accept_storage(entity)
        self._server = self._start(entity)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()

    @contextmanager
    def expecting(self, series: Series, wanted: Mapping[str, str], take: Take) -> Iterator[None]:
        """Accept the instances of a series while its C-MOVE runs.

        Args:
            series: The series.
            wanted: UIDs that may come; empty: any of the series.
            take: Gets each file.
        """
        with self._lock:
            self._expected[series.key] = (frozenset(wanted), take)
        try:
            yield
        finally:
            with self._lock:
                del self._expected[series.key]

    def _start(self, entity: Any) -> Any:
        tls = self._source.tls
        if tls and not tls.certificate:
            raise ConfigError("C-MOVE over TLS needs tls.certificate", code="pacs-tls")
        try:
            return entity.start_server(
                (self._source.listen.bind, self._source.listen.port), block=False,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._open), (evt.EVT_CONN_CLOSE, self._closed),
                    (evt.EVT_C_STORE, self._store),
                ],
                ssl_context=tls and association.listener_context(tls.ca, tls.certificate, tls.key),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot listen for C-MOVE ({type(error).__name__})", code="pacs-listen",
                next_step="check listen.bind, listen.port and the TLS files",
            ) from None  # fmt: skip

    def _open(self, event: Any) -> None:
        gate = association.Gate(
            self._pacer, max_pdu=self._source.max_pdu, max_bytes=self._source.max_bytes
        )
        gate.begin(self._pacer.pace.request_timeout_s)
        gate.attach(event)
        with self._lock:
            self._gates[event.assoc] = gate

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._gates.pop(event.assoc, None)

    def _store(self, event: Any) -> int:
        with self._lock:
            gate = self._gates.get(event.assoc)
            uid = str(event.request.AffectedSOPInstanceUID)
            wanted = any(not uids or uid in uids for uids, _ in self._expected.values())
        if gate:
            gate.message()
        if not wanted:
            return NOT_AUTHORISED
        return save(event, self._incoming, self._hand_over)

    def _hand_over(self, path: Path) -> None:
        """To whom asked for the series that the file says it is of.

        Raises:
            InputError: Nobody did.
        """
        told = identify(path)
        with self._lock:
            found = self._expected.get((told.study, told.series))
        if found is None:
            raise InputError("nobody asked for this series", code="pacs-unsolicited")
        found[1](path)
