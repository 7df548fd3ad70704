"""pynetdicom with bounds: what a peer may send, how long, and in which presentation contexts.

pynetdicom believes the length that a PDU states (up to 4 GiB) and waits for it without an end;
here the socket of every association is read through a gate.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.presentation import PresentationContext, build_context

from data_connectors.pacs.pacing import Interrupted, Pacer
from medvlp.errors import ArchiveError, InputError

VERIFICATION: Final = UID("1.2.840.10008.1.1")
STUDY_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")
MAX_CONTEXTS: Final = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2: odd numbers up to 255)."""
_QUICK_ACK: Final[int] = getattr(socket, "TCP_QUICKACK", 0)
"""Linux alone has it."""
_TRANSIENT: Final = 2
"""Result of an association rejection (PS3.8 9.3.4)."""
_PLAIN: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_IMAGE: Final = "1.2.840.10008.5.1.4.1.1."
_COMMON: Final = tuple(_IMAGE + tail for tail in (
    "2", "4", "128", "1", "1.1", "7", "6.1", "3.1", "1.2", "12.1", "12.2", "20", "2.1", "4.1",
    "130", "13.1.3", "7.1", "7.2", "7.3", "7.4", "88.11", "88.22", "88.33", "66.4", "481.3",
    "77.1.4", "77.1.1", "77.1.6", "1.3", "11.1",
))  # fmt: skip
"""Storage classes by how often archives hold them, for archives that do not tell."""
_OVERHEAD: Final = 1_000_000
"""Bytes of command sets and headers around one file."""


def silence() -> None:
    """Let pynetdicom say nothing: its log lines quote identifiers."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False


class UnservedError(InputError):
    """The archive does not do what it is asked for."""

    def __init__(self) -> None:
        super().__init__(
            "the archive does not do what it is asked for", code="pacs-refused",
            next_step="ask its administrator which services our AE title may use; "
            "`retrieve` chooses between C-GET and C-MOVE",
        )  # fmt: skip


class Gate:
    """Reads the socket of one association, within limits.

    Args:
        pacer: Timeouts and the rate of bytes.
        max_pdu: Longest PDU.
        max_bytes: Most bytes of one file.
    """

    def __init__(self, pacer: Pacer, *, max_pdu: int, max_bytes: int) -> None:
        self._pacer = pacer
        self._max_pdu = max_pdu
        self._max_message = max_bytes + _OVERHEAD
        self._message = 0
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """A request begins, which may take so long."""
        self._message = 0
        self._deadline = time.monotonic() + seconds

    def message(self) -> None:
        """A file has come whole."""
        self._message = 0

    def attach(self, event: Any) -> None:
        """For `EVT_CONN_OPEN`: stand between pynetdicom and its socket."""
        wrapped = event.assoc.dul.socket
        wrapped.socket.settimeout(self._pacer.pace.silence_timeout_s)
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped.recv = lambda count: self._read(wrapped.socket, count)

    def _read(self, sock: Any, count: int) -> bytearray:
        if count > self._max_pdu or self._message + count > self._max_message:
            raise OSError("more than allowed")
        self._message += count
        data = bytearray()
        while len(data) < count:
            if time.monotonic() > self._deadline:
                raise TimeoutError
            piece = sock.recv(min(262_144, count - len(data)))
            if not piece:
                break
            data += piece
            if _QUICK_ACK:  # the kernel forgets it; without it, every message of a peer waits 40 ms
                sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        self._pacer.received(len(data))
        return data


@contextmanager
def deadline(association: Any, seconds: float) -> Iterator[threading.Event]:
    """Abort an association that is still busy after so long; the event says whether it was."""
    late = threading.Event()

    def abort() -> None:
        late.set()
        association.abort()

    timer = threading.Timer(seconds, abort)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def storage_rounds(
    known: Iterable[str], *, first: Sequence[PresentationContext]
) -> Iterator[list[PresentationContext]]:
    """Contexts to propose for receiving storage classes, an association at a time.

    One context a compressed syntax, because an acceptor picks one syntax of a context and would
    convert, or fail to send, what is stored in another.

    Args:
        known: SOP classes that will come; an empty one among them means: any.
        first: Contexts that every round needs.
    """
    told = sorted({sop_class for sop_class in known if sop_class})
    classes = list(told)
    if not told or "" in set(known):
        every = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
        classes += [c for c in dict.fromkeys((*_COMMON, *every)) if c not in told]
    groups = syntax_groups()
    many = (MAX_CONTEXTS - len(first)) // len(groups)
    for start in range(0, len(classes), many):
        yield [*first] + [
            build_context(sop_class, list(group))
            for sop_class in classes[start : start + many]
            for group in groups
        ]


def syntax_groups() -> list[tuple[str, ...]]:
    """Transfer syntaxes that one context may offer together: only those that differ in nothing."""
    others = [s for s in map(str, ALL_TRANSFER_SYNTAXES) if s not in (*_PLAIN, _DEFLATED)]
    images = [s for s in others if s in _IMAGE_SYNTAXES]
    rest = [s for s in others if s not in _IMAGE_SYNTAXES]  # video: a class has at most one
    return [_PLAIN, (_DEFLATED,), *((syntax,) for syntax in images), tuple(rest)]


_IMAGE_SYNTAXES: Final = frozenset(
    "1.2.840.10008.1.2." + tail for tail in (
        "5", "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.92", "4.93",
        "4.201", "4.202", "4.203",
    )
)  # fmt: skip
"""RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K."""


def accept_storage(entity: Any) -> None:
    """Let an application entity receive every storage class in every transfer syntax."""
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, list(ALL_TRANSFER_SYNTAXES))


def listener_context(ca: Any, certificate: Any, key: Any) -> ssl.SSLContext:
    """TLS for those who send to us; they must show a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


Handlers = list[Any]


def handlers(gate: Gate, store: Callable[[Any], int] | None = None) -> Handlers:
    """Event handlers of an association of ours."""
    made: Handlers = [(evt.EVT_CONN_OPEN, gate.attach)]
    if store:
        made.append((evt.EVT_C_STORE, store))
    return made


def status_of(answer: Dataset) -> int | None:
    """The status of a response; None where there is none, because the connection is gone."""
    value = answer.get("Status")
    return None if value is None else int(value)


def raise_of(service: str, status: int) -> None:
    """A failure status as an error: resources may come back, refusals stay."""
    if status & 0xFF00 == 0xA700 or status in (0xFE00, 0x0110):
        raise Interrupted(f"{service} failed with status {status:04X}")
    raise InputError(
        f"the archive refuses {service}", code="pacs-refused", got=f"status {status:04X}",
        next_step="ask its administrator what our AE title may do",
    )  # fmt: skip


def explain(peer: Any) -> None:
    """Why there is no association."""
    answer = peer.acceptor.primitive
    if peer.is_rejected and answer is not None and answer.result != _TRANSIENT:
        raise ArchiveError(
            "the archive rejects the association", code="pacs-unauthorised",
            got=f"reason {answer.result_source}.{answer.diagnostic}",
            next_step="the archive must know our AE title (`calling`) and have the title `called`",
        )  # fmt: skip
    if peer.rejected_contexts and not peer.accepted_contexts:
        raise UnservedError
    raise Interrupted("no association")


def broken(late: threading.Event, service: str) -> str:
    """Why no final response came."""
    return (
        "a request took longer than request_timeout_s"
        if late.is_set()
        else f"the association broke during {service}"
    )
