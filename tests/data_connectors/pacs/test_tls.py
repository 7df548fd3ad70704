"""Certificates are checked, by both protocols."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from data_connectors.pacs.pull import pulled
from data_connectors.pacs.source import DicomwebSource
from medvlp.errors import ArchiveError, ConfigError
from tests.data_connectors.pacs.conftest import FAST, FakeArchive, slice_of
from tests.data_connectors.pacs.test_dimse import Scp


class Pair(NamedTuple):
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def self_signed(folder: Path, address: str) -> Pair:
    """A certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "archive")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ))  # fmt: skip
    return Pair(folder / "cert.pem", folder / "key.pem")


def datasets():
    return [slice_of("1.2", "1.2.7", k, patient="P-1") for k in range(2)]


@pytest.mark.parametrize(("address", "trusted", "works"), [
    ("127.0.0.1", True, True), ("127.0.0.1", False, False), ("127.0.0.9", True, False),
])  # fmt: skip
def test_https_needs_a_certificate_to_trust_of_the_right_name(
    fake, tmp_path, address, trusted, works
):
    pair = self_signed(tmp_path / "tls", address)
    server = fake()
    server.answer = FakeArchive(datasets(), tmp_path / "files")
    server.server.socket = pair.context().wrap_socket(server.server.socket, server_side=True)
    source = DicomwebSource(
        name="pacs", url=server.url.replace("http:", "https:"), pace=FAST,
        tls={"ca": pair.certificate} if trusted else {},
    )  # fmt: skip
    if works:
        with pulled(source, tmp_path / "store") as made:
            assert made.instances == 2
        return
    with pytest.raises(ArchiveError, match="pacs-tls"), pulled(source, tmp_path / "store"):
        pass
    assert server.seen == []


def test_dimse_over_tls(tmp_path):
    pair = self_signed(tmp_path / "tls", "127.0.0.1")
    scp = Scp(datasets())
    with scp.running(ssl_context=pair.context()):
        with pulled(scp.source(tls={"ca": pair.certificate}), tmp_path / "store") as made:
            assert (made.instances, made.refused) == (2, [])
        with (
            pytest.raises(ArchiveError, match="pacs-unreachable"),
            pulled(scp.source(tls={}, pace={"retries": 0}), tmp_path / "other"),
        ):
            pass


def test_a_tls_file_that_cannot_be_used_is_a_wrong_config(tmp_path):
    source = DicomwebSource(name="x", url="https://127.0.0.1:9/", tls={"ca": tmp_path / "none"})
    with pytest.raises(ConfigError, match="pacs-tls"), pulled(source, tmp_path / "store"):
        pass
