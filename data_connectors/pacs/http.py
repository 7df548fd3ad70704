"""GET from one origin and from nowhere else.

Built on the standard library's connection, which follows no redirect, asks no proxy and reads no
environment: host and port are those of the config, whatever an answer says.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from data_connectors.pacs.body import PIECE, Watch, inflated, seconds_of
from data_connectors.pacs.pacing import Interrupted, Pacer
from data_connectors.pacs.secret import Secret
from data_connectors.pacs.source import TlsConfig, is_forbidden
from medvlp.errors import ArchiveError, ConfigError, InputError

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 3
_LATER = (408, 425, 429, 500, 502, 503, 504)


class Origin(NamedTuple):
    """Scheme, host and port: what credentials belong to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute URL, with its default port written out."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme.lower(), (parts.hostname or "").lower(), port)


def tls_context(config: TlsConfig) -> ssl.SSLContext:
    """A client's context that checks certificates and names.

    Raises:
        ConfigError: A certificate file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate:
            context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"a TLS file cannot be used ({type(error).__name__})", code="pacs-tls"
        ) from None
    return context


class Client:
    """One thread's connection to the configured origin."""

    def __init__(self, url: str, secret: Secret | None, tls: TlsConfig, pacer: Pacer) -> None:
        self.origin = Origin.of(url)
        self.root = urlsplit(url).path.rstrip("/")
        self._secret = secret
        self._pacer = pacer
        self._context = tls_context(tls) if self.origin.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, *, accept: str) -> Response:
        """Ask for a path below the root; the answer is a context that must be left.

        Raises:
            Interrupted: Worth another attempt.
            ArchiveError: Refused access, or sent elsewhere.
        """
        target = self.root + path
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._get(target, accept)
            if response.status not in _REDIRECTS:
                self._judge(response)
                return response
            location = response.header("location")
            self.close()
            target = self._same_origin(target, location)
        raise _elsewhere("a chain of redirects")

    def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(OSError):
                connection.close()

    def _get(self, target: str, accept: str) -> Response:
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "medvlp"}
        if self._secret:
            headers["Authorization"] = self._secret.header
        self._pacer.request()
        reused = self._connection is not None
        try:
            return self._send(target, headers)
        except Interrupted:
            if not reused:  # an idle connection may have been closed meanwhile: that is no failure
                raise
            return self._send(target, headers)

    def _send(self, target: str, headers: dict[str, str]) -> Response:
        connection = self._connection or self._connect()
        assert connection.sock is not None
        watch = Watch(connection.sock, self._pacer.pace.request_timeout_s)
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            watch.stop()
            self.close()
            raise Interrupted(_named(error, watch)) from None
        return Response(answer, watch, self)

    def _connect(self) -> http.client.HTTPConnection:
        _, host, port = self.origin
        timeout = self._pacer.pace.connect_timeout_s
        connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)
            if self._context
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError:
            raise ArchiveError(
                "the archive's certificate is not one to trust", code="pacs-tls",
                next_step="give its authority as tls.ca, or correct the host name in url",
            ) from None  # fmt: skip
        except OSError as error:
            raise Interrupted(f"no connection ({type(error).__name__})") from None
        sock: socket.socket = connection.sock
        if is_forbidden(str(ipaddress.ip_address(sock.getpeername()[0].partition("%")[0]))):
            connection.close()
            raise ArchiveError("the archive's name leads to a forbidden address", code="pacs-host")
        sock.settimeout(self._pacer.pace.silence_timeout_s)
        connection.auto_open = 0  # a lost connection is noticed here, not opened again unseen
        self._connection = connection
        return connection

    def _judge(self, response: Response) -> None:
        status = response.status
        if status in (401, 403, 407):
            self.close()
            raise ArchiveError(
                "the archive refuses access", code="pacs-unauthorised", got=f"HTTP {status}",
                next_step="check credentials, and what this user may query and retrieve",
            )  # fmt: skip
        if status in _LATER:
            wait = seconds_of(response.header("retry-after"))
            self.close()
            raise Interrupted(f"HTTP {status}", wait)

    def _same_origin(self, target: str, location: str) -> str:
        """The path that a redirect names, if it stays where it is.

        Raises:
            ArchiveError: It leads elsewhere.
        """
        scheme, host, port = self.origin
        shown = f"[{host}]" if ":" in host else host
        try:
            url = urljoin(f"{scheme}://{shown}:{port}{target}", location)
            parts = urlsplit(url)
            same = Origin.of(url) == self.origin and parts.username is None
        except ValueError:
            same = False
        if not location or not same or any(ord(c) <= 32 or ord(c) > 126 for c in url):
            raise _elsewhere("a redirect to another origin")
        return parts.path + (f"?{parts.query}" if parts.query else "")


class Response:
    """An answer: status, headers and a body that is read under limits."""

    def __init__(self, answer: http.client.HTTPResponse, watch: Watch, client: Client) -> None:
        self._answer = answer
        self._watch = watch
        self._client = client
        self.status = answer.status
        self._whole = False

    @property
    def framed(self) -> bool:
        """Whether HTTP itself tells where the body ends."""
        return bool(self._answer.chunked) or self.header("content-length").isdigit()

    def header(self, name: str) -> str:
        """A header's value; empty when it is missing."""
        return self._answer.getheader(name) or ""

    def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            InputError: It is larger than the limit (`pacs-answer-large`).
            Interrupted: The connection broke.
        """
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise InputError(
                    "an answer of the archive is too large", code="pacs-answer-large",
                    limit=f"{limit} bytes",
                )  # fmt: skip
        return bytes(body)

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, decompressed piece by piece.

        Raises:
            Interrupted: The connection broke, or it took longer than allowed.
            InputError: It is encoded in an unknown way.
        """
        encoding = self.header("content-encoding").strip().lower()
        if encoding in ("", "identity"):
            yield from self._raw()
        elif encoding in ("gzip", "x-gzip", "deflate"):
            yield from inflated(self._raw())
        else:
            raise InputError("the archive's answer has an unknown encoding", code="pacs-encoding")

    def _raw(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._answer.read(PIECE)
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                raise Interrupted(_named(error, self._watch)) from None
            if not chunk or self._watch.expired:
                break
            self._client._pacer.received(len(chunk))
            yield chunk
        if self._watch.expired:
            raise Interrupted("a request took longer than request_timeout_s")
        if (self._answer.length or 0) > 0:
            raise Interrupted("the answer ends early")
        self._whole = True

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._watch.stop()
        if not self._whole or self._answer.will_close:
            self._client.close()
        self._answer.close()


def _named(error: Exception, watch: Watch) -> str:
    if watch.expired:
        return "a request took longer than request_timeout_s"
    return f"the connection broke ({type(error).__name__})"


def _elsewhere(what: str) -> ArchiveError:
    return ArchiveError(
        "the archive sends us elsewhere; it is not followed", code="pacs-redirect", got=what,
        next_step="if the archive has moved, configure its new address",
    )  # fmt: skip
