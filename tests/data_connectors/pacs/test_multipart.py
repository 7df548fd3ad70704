from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_connectors.pacs.multipart import MAX_HEADERS, boundary_of, read_parts
from medvlp.errors import InputError

KIND = 'multipart/related; type="application/dicom"; boundary='


def body_of(parts: list[bytes], boundary: bytes, *, end: bytes = b"--\r\n") -> bytes:
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(b"--" + boundary + head + part + b"\r\n" for part in parts) + (
        b"--" + boundary + end
    )


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


def parts_of(pieces: list[bytes], content_type: str) -> list[bytes]:
    return [b"".join(part.body) for part in read_parts(pieces, content_type)]


near = st.sampled_from([b"\r\n", b"\r\n--", b"--b", b"\r\n--a", b"\r", b"\n", b"-", b"\0"])
content = st.lists(st.one_of(st.binary(max_size=20), near), max_size=12).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(content, max_size=5),
    sizes=st.lists(st.integers(1, 30), max_size=40),
    preamble=st.sampled_from([b"", b"\r\n", b"hello\r\n", b"a\r\nb\r\n"]),
)
def test_parts_come_out_as_they_went_in_however_the_stream_is_cut(parts, sizes, preamble):
    data = preamble + body_of(parts, b"bnd-42")
    assert parts_of(cut(data, sizes), KIND + '"bnd-42"') == parts


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), sizes=st.lists(st.integers(1, 50), max_size=20))
def test_garbage_gives_a_refusal_and_nothing_else(data, sizes):
    with suppress(InputError):
        parts_of(cut(data, sizes), KIND + "b")


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(content, min_size=1, max_size=4), keep=st.floats(0, 0.999))
def test_a_cut_stream_never_gives_a_short_part(parts, keep):
    data = body_of(parts, b"bnd-42", end=b"--")
    whole = read_parts([data[: int(len(data) * keep)]], KIND + "bnd-42")
    got: list[bytes] = []
    with pytest.raises(InputError):
        got.extend(b"".join(part.body) for part in whole)
    assert got == parts[: len(got)]


@pytest.mark.parametrize("given_type", [
    "multipart/related", "multipart/related; boundary=", "multipart/related; boundary=other",
    'multipart/related; boundary="bnd', KIND + "bnd-42; charset=x", KIND.upper() + "bnd-42",
    "application/octet-stream",
])  # fmt: skip
def test_a_boundary_that_is_missing_or_wrongly_quoted_is_found_in_the_body(given_type):
    assert parts_of([body_of([b"one", b"two"], b"bnd-42")], given_type) == [b"one", b"two"]


def test_headers_are_read_and_may_be_missing():
    data = b"--b\r\nContent-Type: application/dicom\r\nX: 1\r\n\r\nA\r\n--b\r\n\r\nB\r\n--b--"
    found = [(part.headers, b"".join(part.body)) for part in read_parts([data], KIND + "b")]
    assert found == [({"content-type": "application/dicom", "x": "1"}, b"A"), ({}, b"B")]


def test_a_part_that_nobody_reads_is_skipped():
    parts = read_parts([body_of([b"one", b"two"], b"b")], KIND + "b")
    next(parts)
    assert b"".join(next(parts).body) == b"two"


def test_endless_headers_and_preambles_are_refused_early():
    def endless(start: bytes):
        yield start
        while True:
            yield b"x" * 4096

    for start in (b"", b"--b\r\nA: "):
        with pytest.raises(InputError, match="pacs-multipart"):
            parts_of(endless(start), KIND + "b")
    assert MAX_HEADERS < 100_000


def test_boundaries_are_read_from_the_header():
    assert boundary_of('multipart/related; boundary="a b"; x=y') == b"a b"
    assert boundary_of("multipart/related;BOUNDARY = abc ;x=y") == b"abc"
    assert boundary_of("multipart/related") is None
    assert boundary_of("multipart/related; boundary=" + "x" * 300) is None
