"""Bombs, nesting and lies through the real command below a memory limit; good files survive."""

from __future__ import annotations

import makers
import pytest

pytestmark = pytest.mark.slow

MEMORY_MB = 600
TOO_LARGE = {"dicom-too-large", "reader-out-of-memory"}
LYING = {"dicom-lying-geometry"}
CODED = ("jpeg", "ljpeg", "jls", "j2k", "htj2k")


def hostile() -> dict[str, tuple[bytes, set[str]]]:
    """Name -> (file, codes of which one is right)."""
    files: dict[str, tuple[bytes, set[str]]] = {
        "deflate.dcm": (makers.deflate_bomb(), TOO_LARGE | LYING),
        "deflate private.dcm": (makers.deflate_bomb(private=True), TOO_LARGE),
        "rle.dcm": (makers.rle_bomb(), TOO_LARGE),
        "frames.dcm": (makers.dicom(NumberOfFrames="1000000"), TOO_LARGE | LYING),
        "huge.dcm": (
            makers.dicom(Rows=65535, Columns=65535, NumberOfFrames="1000"),
            TOO_LARGE | LYING,
        ),
        "huge one.dcm": (makers.dicom(Rows=20000, Columns=20000), TOO_LARGE | LYING),
        "bits.dcm": (
            makers.dicom(BitsAllocated=64, BitsStored=64, HighBit=63),
            LYING | {"dicom-malformed"},
        ),
        "items.dcm": (makers.many_items(1_000_000), TOO_LARGE | LYING | {"dicom-malformed"}),
        "deep.dcm": (makers.nested(20_000), {"dicom-malformed"}),
        "deep un.dcm": (makers.nested(20_000, vr=b"UN"), {"dicom-malformed"}),
        "deep known.dcm": (makers.nested(20_000, tag=b"\x08\x00\x40\x11"), {"dicom-malformed"}),
        "deep length.dcm": (makers.nested_by_length(4_000), {"dicom-malformed"}),
        "elements.dcm": (makers.many_elements(3_000_000), TOO_LARGE | {"dicom-malformed"}),
        "ratio.zip": (makers.deflated_zip("a.dcm", 512), set()),
        "overlap.zip": (makers.overlapping_zip(), {"archive-overlap"}),
        "tar.tar.gz": (makers.tar_bomb(2048), set()),
        "lone.dcm.gz": (makers.gzipped(1024), TOO_LARGE | {"archive-bomb"}),
    }
    for name in CODED:
        files[f"{name} lying.dcm"] = (
            makers.coded_bomb(name, 60000, 60000, honest=False),
            LYING | {"dicom-not-decodable"},
        )
        files[f"{name} huge.dcm"] = (makers.coded_bomb(name, 60000, 60000, honest=True), TOO_LARGE)
        files[f"{name} large.dcm"] = (
            makers.coded_bomb(name, 25000, 25000, honest=True),
            TOO_LARGE | {"dicom-not-decodable", "dicom-truncated"},
        )
    return files


INSIDE = {
    "42.zip/lib 0.zip": {"archive-nested"},
    "ratio.zip/a.dcm": {"archive-bomb"},
    "tar.tar.gz": {"archive-broken", "archive-bomb"},
}
"""What is refused in archives that are entered."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, run_ingest):
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "in").mkdir()
    for name, (data, _) in hostile().items():
        (folder / "in" / name).write_bytes(data)
    (folder / "in" / "42.zip").write_bytes(makers.zips_in_zips())
    for number in range(3):
        slice_ = makers.dicom(ImagePositionPatient=[0, 0, number], SeriesInstanceUID="1.2.3",
                              StudyInstanceUID="1.2", InstanceNumber=number)  # fmt: skip
        (folder / "in" / f"good{number}.dcm").write_bytes(slice_)
    return run_ingest(
        folder, [{"kind": "dicom", "name": "scans", "path": "in"}], memory_mb=MEMORY_MB
    )  # fmt: skip


def test_the_parent_lives_and_the_good_series_is_used(outcome):
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.summary["used"] == 3
    assert outcome.summary["samples"] == 1
    assert outcome.summary["found"] == outcome.summary["used"] + outcome.summary["quarantined"]


@pytest.mark.parametrize(("name", "codes"), [(n, c) for n, (_, c) in hostile().items() if c])
def test_each_is_refused_with_its_reason(outcome, name, codes):
    assert outcome.codes[name] & codes, outcome.codes.get(name)


@pytest.mark.parametrize(("name", "codes"), INSIDE.items())
def test_archives_are_refused_by_what_is_in_them(outcome, name, codes):
    assert outcome.codes[name] & codes, outcome.codes


def test_no_process_took_more_than_the_limit(outcome, record_property):
    record_property("peak_mb", outcome.peak_mb)  # see it with --junitxml
    record_property("seconds", outcome.seconds)
    assert outcome.peak_mb < MEMORY_MB, outcome.peak_mb


def test_none_of_it_takes_long(outcome):
    assert outcome.seconds < 150


def test_every_refusal_has_a_next_step_and_nothing_else_is_written(outcome):
    assert all(row["code"] and row["reason"] and row["next_step"] for row in outcome.rows)
    assert not [row["code"] for row in outcome.rows if row["code"].startswith("reader-")
                and row["code"] != "reader-out-of-memory"]  # fmt: skip
    assert outcome.new == set()
