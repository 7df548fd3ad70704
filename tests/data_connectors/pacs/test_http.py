"""Credentials and requests stay with the configured origin, and no answer can hold us up."""

from __future__ import annotations

import gzip
import time
from base64 import b64encode

import pytest

from data_connectors.pacs.http import Client, Origin
from data_connectors.pacs.pacing import Interrupted, Pacer
from data_connectors.pacs.secret import Secret
from data_connectors.pacs.source import DicomwebSource, Pace, TlsConfig, is_forbidden
from medvlp.errors import ArchiveError, InputError
from tests.data_connectors.pacs.conftest import reply

SECRET = "Basic " + b64encode(b"user:Canary-91").decode()


def client(url: str, **pace: float) -> Client:
    pacer = Pacer(Pace(requests_per_s=10_000, **pace))
    return Client(url, Secret(SECRET), TlsConfig(), pacer)


def get(url: str, path: str = "/x", limit: int = 10_000, **pace: float) -> bytes:
    with client(url, **pace).get(path, accept="*/*") as response:
        return response.read(limit)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", [
    "http://127.0.0.1:{port}/stolen", "//127.0.0.1:{port}/stolen", "http://localhost:{own}/stolen",
    "https://127.0.0.1:{own}/stolen", "http://user@127.0.0.1:{own}/", "ftp://127.0.0.1/x",
    "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://[::1]:{port}/",
    "", "http://127.0.0.1:{own}/a\\r\\nX: y",
])  # fmt: skip
def test_a_redirect_to_another_origin_is_refused_and_nobody_there_hears_of_us(fake, status, where):
    ours, other = fake(), fake()
    ports = {"port": other.server.server_port, "own": ours.server.server_port}
    location = where.format(**ports)
    ours.answer = lambda h: reply(h, status=status, Location=location.replace("\\r\\n", "\r "))
    with pytest.raises(ArchiveError) as caught:
        get(ours.url)
    assert caught.value.code == "pacs-redirect"
    assert other.seen == []
    assert len(ours.seen) == 1
    assert "Canary" not in str(caught.value)


def test_a_redirect_within_the_origin_is_followed_a_few_times(fake):
    server = fake()
    server.answer = lambda h: (
        reply(h, b"here") if h.path == "/moved?a=1" else reply(h, status=307, Location="/moved?a=1")
    )
    assert get(server.url) == b"here"
    server.answer = lambda h: reply(h, status=307, Location=h.path)
    with pytest.raises(ArchiveError, match="pacs-redirect"):
        get(server.url)


def test_credentials_are_sent_to_the_origin_alone_and_no_proxy_is_asked(fake, monkeypatch):
    server, proxy = fake(), fake()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer = lambda h: reply(h, b"ok")
    assert get(server.url) == b"ok"
    assert server.seen[0][1]["authorization"] == SECRET
    assert proxy.seen == []


def test_another_port_or_scheme_is_another_origin():
    origins = {Origin.of(url) for url in (
        "http://a/x", "https://a/x", "http://a:81/x", "http://b/x", "http://A:80/y",
    )}  # fmt: skip
    assert len(origins) == 4


@pytest.mark.parametrize("url", [
    "ftp://a/x", "file:///etc", "http://u:p@127.0.0.1/x", "http://169.254.169.254/latest",
    "https://metadata.google.internal/", "https://[fd00:ec2::254]/", "https://[fe80::1]/",
    "https://[::ffff:169.254.169.254]/", "https://a/x?y=1", "https://a/#b", "http://pacs.local/x",
    "https://a/\r\nX: y", "https:///x", "https://0.0.0.0/", "nonsense",
])  # fmt: skip
def test_addresses_that_no_archive_has_are_refused_by_the_config(url):
    with pytest.raises(ValueError, match=r"url|http"):
        DicomwebSource(name="x", url=url)


def test_plain_http_to_another_machine_needs_a_word():
    assert DicomwebSource(name="x", url="http://pacs.local/x", plain_http=True)
    assert DicomwebSource(name="x", url="http://127.0.0.1:8042/x")
    assert is_forbidden("169.254.169.254")
    assert not is_forbidden("10.0.0.7")


def test_a_name_that_resolves_to_a_metadata_service_is_refused(fake, monkeypatch):
    server = fake()
    monkeypatch.setattr("data_connectors.pacs.http.is_forbidden", lambda host: True)
    with pytest.raises(ArchiveError, match="pacs-host"):
        get(server.url)
    assert server.seen == []


def test_a_body_beyond_the_limit_is_refused_before_it_is_held(fake):
    server = fake()

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65_536)

    server.answer = endless
    with pytest.raises(InputError, match="pacs-answer-large"):
        get(server.url, limit=1_000_000)


def test_a_gzip_bomb_is_stopped_at_the_limit(fake):
    bomb = gzip.compress(b"\0" * 300_000_000, compresslevel=9)
    server = fake()
    server.answer = lambda h: reply(h, bomb, Content_Encoding="gzip")
    with pytest.raises(InputError, match="pacs-answer-large"):
        get(server.url, limit=1_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", ""])
def test_compressed_answers_are_read_though_not_asked_for(fake, encoding):
    import zlib

    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(b"text" * 999)
    server = fake()
    server.answer = lambda h: reply(h, packed, Content_Encoding=encoding)
    assert get(server.url) == b"text" * 999
    assert server.seen[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize(("encoding", "body", "error"), [
    ("br", b"x", InputError), ("gzip", b"no gzip", InputError),
    ("gzip", gzip.compress(b"x" * 999, mtime=0)[:-9], Interrupted),
])  # fmt: skip
def test_broken_compression_is_refused(fake, encoding, body, error):
    server = fake()
    server.answer = lambda h: reply(h, body, Content_Encoding=encoding)
    with pytest.raises(error):
        get(server.url)


def test_an_answer_that_ends_early_is_noticed(fake):
    server = fake()

    def short(handler):
        reply(handler, b"only this", length=1000)
        handler.close_connection = True

    server.answer = short
    with pytest.raises(Interrupted, match="ends early"):
        get(server.url)


@pytest.mark.parametrize("phase", ["status", "headers", "body", "chunk"])
def test_a_trickle_ends_at_the_deadline_in_every_phase(fake, phase):
    server = fake()
    texts = {
        "status": b"H", "headers": b"HTTP/1.1 200 OK\r\nX: ",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
    }  # fmt: skip

    def trickle(handler):
        handler.wfile.write(texts[phase])
        for _ in range(200):
            handler.wfile.write(b"a")
            time.sleep(0.05)

    server.answer = trickle
    began = time.monotonic()
    with pytest.raises(Interrupted, match=r"request_timeout_s|broke"):
        get(server.url, request_timeout_s=0.5, silence_timeout_s=5)
    assert time.monotonic() - began < 3


def test_a_silent_archive_is_given_up(fake):
    server = fake()
    server.answer = lambda h: time.sleep(3)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="broke"):
        get(server.url, silence_timeout_s=0.3)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("status", [401, 403, 407])
def test_refused_access_ends_the_pull_without_another_attempt(fake, status):
    server = fake()
    server.answer = lambda h: reply(h, status=status, WWW_Authenticate='Basic realm="x"')
    with pytest.raises(ArchiveError, match="pacs-unauthorised"):
        get(server.url)
    assert len(server.seen) == 1


def test_a_busy_archive_is_asked_again_after_what_it_says(fake):
    server = fake()
    server.answer = lambda h: reply(h, status=503, Retry_After="7")
    with pytest.raises(Interrupted) as caught:
        get(server.url)
    assert caught.value.wait_s == 7


def test_retries_wait_longer_each_time_but_not_longer_than_allowed(monkeypatch):
    slept = []
    monkeypatch.setattr("data_connectors.pacs.pacing.time.sleep", slept.append)
    monkeypatch.setattr("data_connectors.pacs.pacing.random.uniform", lambda low, high: high)
    pacer = Pacer(Pace(retries=5, longest_wait_s=4, requests_per_s=1e9))

    def fail() -> None:
        raise Interrupted("no", 3.0 if len(slept) == 0 else None)

    with pytest.raises(ArchiveError, match="6 attempts"):
        pacer.retry(fail)
    assert slept == [3.0, 1.0, 2.0, 4.0, 4.0]


def test_the_rate_of_requests_and_bytes_is_held(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("data_connectors.pacs.pacing.time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("data_connectors.pacs.pacing.time.sleep", sleep)
    pacer = Pacer(Pace(requests_per_s=5, megabytes_per_s=2))
    for _ in range(11):
        pacer.request()
    assert clock[0] == pytest.approx(102.0)
    for _ in range(9):
        pacer.received(1_000_000)
    assert clock[0] == pytest.approx(106.0)


def test_connections_are_used_again_and_a_closed_one_is_no_failure(fake):
    server = fake()
    server.answer = lambda h: reply(h, b"ok")
    one = client(server.url)
    for turn in range(3):
        with one.get("/x", accept="*/*") as response:
            assert response.read(10) == b"ok"
        if turn == 0:
            one._connection.sock.shutdown(2)  # what an idle timeout of the archive looks like
    assert len(server.seen) == 3


def test_a_secret_shows_nowhere():
    import pickle

    secret = Secret(SECRET)
    assert "Canary" not in f"{secret!r} {secret}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
