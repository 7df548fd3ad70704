"""The keys of an archive on the network. Light: read by the config loader, imports no pydicom."""

from __future__ import annotations

import ipaddress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from data_connectors.dicom.source import DicomReading
from data_connectors.source import NamedSource
from medvlp.config import Config

AeTitle = Annotated[str, StringConstraints(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""1 to 16 printable characters without backslash, no space at the ends (PS3.5, VR AE)."""
Port = Annotated[int, Field(ge=1, le=65535)]


class Credentials(Config):
    """Where the secret is; never the secret itself."""

    file: Path | None = None
    """One line, `user:password` (basic) or a token (bearer); mode 0600 or stricter."""
    env: str | None = None
    """Name of the environment variable that holds the same."""
    scheme: Literal["basic", "bearer"] = "basic"

    @model_validator(mode="after")
    def _one_place(self) -> Credentials:
        if (self.file is None) == (self.env is None):
            raise ValueError("credentials need exactly one of file and env")
        return self


class TlsConfig(Config):
    """Whom to trust, and who we are. Certificates are always checked."""

    ca: Path | None = None
    """PEM of the authorities to trust; None: those of this machine."""
    certificate: Path | None = None
    """PEM of our own certificate, where the archive asks for one."""
    key: Path | None = None
    """PEM of its private key."""


class ArchiveFilter(Config):
    """Which series to pull. Everything is checked again here, whatever the archive did with it."""

    modalities: tuple[str, ...] = ()
    """`CT`, `MR`, ...; empty: all."""
    studied_from: date | None = None
    """First StudyDate."""
    studied_to: date | None = None
    """Last StudyDate."""
    patients: Path | None = None
    """File with one PatientID a line."""
    accessions: Path | None = None
    """File with one AccessionNumber a line."""
    series: Path | None = None
    """File with one SeriesInstanceUID a line."""
    study_description: str = ""
    """Shell pattern such as `*chest*`, whatever the case."""
    series_description: str = ""
    """Likewise."""
    body_parts: tuple[str, ...] = ()
    """Values of BodyPartExamined, whatever the case; series without one do not match."""
    max_series: PositiveInt | None = None
    """At most so many, always the same ones of one list."""

    @model_validator(mode="after")
    def _dates_in_order(self) -> ArchiveFilter:
        if self.studied_from and self.studied_to and self.studied_from > self.studied_to:
            raise ValueError("studied_from is after studied_to")
        return self


class Pace(Config):
    """How hard to ask: an archive also serves the clinic."""

    requests_per_s: PositiveFloat = 20.0
    """Queries and retrievals, all workers together."""
    megabytes_per_s: PositiveFloat | None = None
    """Of 10^6 bytes, all workers together; None: as fast as they come."""
    parallel: int = Field(default=4, ge=1, le=64)
    """Series fetched at a time."""
    retries: int = Field(default=4, ge=0, le=20)
    """Further attempts without progress, each after a longer random wait."""
    longest_wait_s: PositiveFloat = 60.0
    """Between two attempts, whatever a `Retry-After` says."""
    connect_timeout_s: PositiveFloat = 15.0
    silence_timeout_s: PositiveFloat = 60.0
    """The archive may be silent for so long."""
    request_timeout_s: PositiveFloat = 1800.0
    """One request may take so long altogether, however steadily it trickles."""


_PRIVATE = {
    "url", "credentials", "tls", "host", "port", "called", "calling", "listen", "store", "labels",
    "regions",
}  # fmt: skip
_PRIVATE_FIND = {"patients", "accessions", "series", "study_description", "series_description"}


class ArchiveSource(NamedSource, DicomReading):
    """What every archive on the network says; `labels` and `regions` are beside the config."""

    find: ArchiveFilter = ArchiveFilter()
    pace: Pace = Pace()
    store: Path | None = None
    """Private folder for what is pulled, relative to the config file; holds identified data.
    None: `<out>.pulled/<name>` beside the dataset."""
    keep: bool = True
    """Keep the folder after success, so that the next dataset pulls only what is new."""
    trust_counts: bool = True
    """Compare with NumberOfSeriesRelatedInstances too, not only with the list of instances."""
    leave_free_mb: PositiveInt = 2_000
    """Stop before the disk has less than this left (10^6 bytes)."""

    def public(self) -> dict[str, Any]:
        """The keys without the hospital's network, secrets' places, and lists of people."""
        tree: dict[str, Any] = self.model_dump(mode="json")
        find: dict[str, Any] = tree["find"]
        for branch, names in ((tree, _PRIVATE), (find, _PRIVATE_FIND)):
            for name in names & branch.keys():
                branch[name] = branch[name] and "given"
        return tree


class DicomwebSource(ArchiveSource):
    """QIDO-RS and WADO-RS (PS3.18). URLs in the archive's answers are never followed."""

    kind: Literal["dicomweb"] = "dicomweb"
    url: str
    """Root of the service, e.g. `https://pacs.example.org:8443/dicom-web`."""
    credentials: Credentials | None = None
    tls: TlsConfig = TlsConfig()
    plain_http: bool = False
    """Send credentials, or pull, over http:// to another machine all the same."""
    page: int = Field(default=200, ge=1, le=10_000)
    """Rows asked for at a time."""

    @model_validator(mode="after")
    def _url_is_an_origin(self) -> DicomwebSource:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http:// or https:// with a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must hold no credentials: use `credentials`")
        if parts.query or parts.fragment or any(ord(c) <= 32 or ord(c) > 126 for c in self.url):
            raise ValueError("url must be plain ASCII without query or fragment")
        if parts.port == 0:
            raise ValueError("url has no port 0")
        if parts.scheme == "http" and not (self.plain_http or is_loopback(parts.hostname)):
            raise ValueError("http:// to another machine needs plain_http: true; better https://")
        if is_forbidden(parts.hostname):
            raise ValueError("url names a link-local, multicast or metadata address")
        return self


class Listener(Config):
    """Our own storage SCP, for C-MOVE."""

    bind: str = "127.0.0.1"
    """Address to listen on: this machine's address in the archive's network."""
    port: Port = 11112
    """The archive must know it, with our AE title."""
    senders: tuple[AeTitle, ...] = ()
    """AE titles that may send besides the archive's own (some archives move by another one)."""


class DimseSource(ArchiveSource):
    """C-FIND, and C-GET or C-MOVE, by study root (PS3.4 C)."""

    kind: Literal["dimse"] = "dimse"
    host: str = Field(pattern=r"^[A-Za-z0-9_.:\-]+$")
    port: Port = 104
    called: AeTitle
    """AE title of the archive."""
    calling: AeTitle = "MEDVLP"
    """Our AE title; the archive must know it."""
    retrieve: Literal["auto", "get", "move"] = "auto"
    """auto: C-GET; C-MOVE where the archive does not do C-GET."""
    listen: Listener = Listener()
    tls: TlsConfig | None = None
    """None: plain DICOM, which hospitals keep inside their network."""
    max_pdu: int = Field(default=1_048_576, ge=16_384, le=16_777_216)
    """A longer PDU ends the association."""

    @model_validator(mode="after")
    def _host_is_allowed(self) -> DimseSource:
        if is_forbidden(self.host):
            raise ValueError("host names a link-local, multicast or metadata address")
        return self


_METADATA = {"metadata.google.internal", "metadata", "instance-data", "100.100.100.200"}
_METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")


def is_loopback(host: str) -> bool:
    """Whether a host, as written, is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_forbidden(host: str) -> bool:
    """Whether a host or address is one that no archive has: metadata services and the like."""
    if host.lower().rstrip(".") in _METADATA:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return (
        address.is_link_local or address.is_multicast or address.is_unspecified
        or address == _METADATA_V6 or str(address) in _METADATA
    )  # fmt: skip
