"""Every transfer syntax: what comes out, and what is refused by name."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import UID, RLELossless

from data_connectors.dicom.decode import check_pixels, frames_of, stored_frame
from data_connectors.dicom.header import read_dataset
from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.streams import STREAMS, decode_runs
from medvlp.errors import InputError

LIMITS = {"max_bytes": 10**9, "max_frames": 1000}
SIZE = (48, 40)
ENCODERS: dict[str, Any] = {
    "1.2.840.10008.1.2.4.57": lambda p: imagecodecs.jpeg8_encode(
        p, lossless=True, predictor=6, bitspersample=12
    ),
    "1.2.840.10008.1.2.4.70": lambda p: imagecodecs.jpeg8_encode(
        p, lossless=True, predictor=1, bitspersample=12
    ),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda p: imagecodecs.jpeg2k_encode(
        p, codecformat="j2k", reversible=True, bitspersample=12
    ),
    "1.2.840.10008.1.2.4.201": lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    "1.2.840.10008.1.2.4.202": lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    "1.2.840.10008.1.2.4.110": lambda p: imagecodecs.jpegxl_encode(p, lossless=True),
}


def picture(seed: int = 0) -> np.ndarray:
    """Smooth, 12 bits, uint16 [48, 40]."""
    noise = np.random.default_rng(seed).normal(size=SIZE).cumsum(0).cumsum(1)
    return np.clip(2000 + noise * 9, 0, 4095).astype(np.uint16)


def coded(path: Path, write_dicom: Any, syntax: str, *frames: bytes, **changes: Any) -> Path:
    """An object around code streams, as another writer would have made it."""
    dataset = dcmread(write_dicom(path, np.zeros(SIZE, np.uint16)))
    dataset.BitsStored, dataset.HighBit = 12, 11
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)
    return path


JPEG_XL = "1.2.840.10008.1.2.4.11"
"""How the syntaxes of JPEG XL begin, which pydicom does not decode."""


@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_streams_give_back_what_was_encoded(
    tmp_path: Path, write_dicom: Any, syntax: str
) -> None:
    stream = bytes(ENCODERS[syntax](picture()))
    dataset = read_dataset(coded(tmp_path / "x", write_dicom, syntax, stream))
    check_pixels(dataset, **LIMITS)
    found = stored_frame(dataset, 0)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, picture())


@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_of_jpeg_lossless(tmp_path: Path, write_dicom: Any, predictor: int) -> None:
    stream = imagecodecs.jpeg8_encode(
        picture(), lossless=True, predictor=predictor, bitspersample=16
    )
    path = coded(tmp_path / "x", write_dicom, "1.2.840.10008.1.2.4.57", stream, BitsStored=16)
    np.testing.assert_array_equal(stored_frame(read_dataset(path), 0), picture())


@pytest.mark.parametrize("syntax", ENCODERS)
def test_signed_values_of_twelve_bits_keep_their_sign(
    tmp_path: Path, write_dicom: Any, syntax: str
) -> None:
    """The streams hold the stored bits without a sign; the header says that there is one."""
    signed = picture().astype(np.int16) - 2048
    stream = bytes(ENCODERS[syntax](signed.view(np.uint16) & 0xFFF))
    path = coded(tmp_path / "x", write_dicom, syntax, stream, PixelRepresentation=1)
    found = stored_frame(read_dataset(path), 0)
    assert found.dtype == np.int16
    if not syntax.startswith(JPEG_XL):  # pydicom decodes it, and how deep the stream says it is
        with quiet():
            signed = pixel_array(path)
    np.testing.assert_array_equal(found, signed)


def test_signed_jpeg_2000_streams(tmp_path: Path, write_dicom: Any) -> None:
    signed = picture().astype(np.int16) - 2048
    stream = imagecodecs.jpeg2k_encode(signed, codecformat="j2k", reversible=True)
    for says, expected in ((1, signed), (0, signed.view(np.uint16))):
        path = coded(
            tmp_path / "x", write_dicom, "1.2.840.10008.1.2.4.90", stream,
            PixelRepresentation=says, BitsStored=16,
        )  # fmt: skip
        with quiet():
            np.testing.assert_array_equal(pixel_array(path), expected)
        np.testing.assert_array_equal(stored_frame(read_dataset(path), 0), expected)


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_cut_streams_are_refused_not_filled_up(
    tmp_path: Path, write_dicom: Any, syntax: str, kept: float
) -> None:
    stream = bytes(ENCODERS[syntax](picture()))
    path = coded(tmp_path / "x", write_dicom, syntax, stream[: int(len(stream) * kept)])
    with pytest.raises(InputError, match="dicom-not-decodable"):
        stored_frame(read_dataset(path), 0)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.92", "Part 2 Multi-component"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.840.10008.1.2.4.107", "HEVC"),
        ("1.2.840.10008.1.2.7.1", "SMPTE"),
        ("1.2.3.4", "private"),
    ],
)
def test_what_is_not_decodable_is_refused_by_name(
    tmp_path: Path, write_dicom: Any, syntax: str, name: str
) -> None:
    dataset = read_dataset(coded(tmp_path / "x", write_dicom, syntax, b"\0\0"))
    with pytest.raises(InputError, match=f"dicom-not-decodable.*{name}"):
        check_pixels(dataset, **LIMITS)


def test_every_file_decodes_as_by_pydicom_or_is_refused(
    shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    counts = {"same": 0, "refused": 0, "more": 0}
    folders = (Path(pydicom.__file__).parent / "data", shared_data / "dicom")
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if "cap002" in str(path) or path.name.startswith("RG") or not path.is_file():
            continue
        with quiet():
            theirs, ours = _theirs(path), _ours(path)
        if theirs is None:
            counts["refused" if ours is None else "more"] += 1
            continue
        assert ours is not None, path.name
        assert ours.dtype == theirs.dtype.newbyteorder("="), path.name
        np.testing.assert_array_equal(ours, theirs, err_msg=path.name)
        counts["same"] += 1
    assert counts["same"] >= 200, counts
    assert counts["more"] >= 4, "12-bit JPEG, which pydicom does not decode"


def _theirs(path: Path) -> np.ndarray | None:
    """The last frame by pydicom's default decoders; None where it gives up."""
    try:
        dataset = dcmread(path)
        last = int(dataset.get("NumberOfFrames", 1) or 1) - 1
        array: np.ndarray = pixel_array(dataset, index=last)
        palette = dataset.PhotometricInterpretation == "PALETTE COLOR"
        return apply_color_lut(array, dataset) if palette else array
    except Exception:
        return None


def _ours(path: Path) -> np.ndarray | None:
    try:
        dataset = read_dataset(path)
        check_pixels(dataset, **LIMITS)
        frames = frames_of(dataset)
        return frames[frames.form.frames - 1]
    except InputError:
        return None


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_fragments_of_many_frames_are_found(tmp_path: Path, write_dicom: Any, table: str) -> None:
    # JPEG XL streams end with no marker, so that nothing but the table can tell where.
    syntax = "1.2.840.10008.1.2.4.80" if table == "none" else "1.2.840.10008.1.2.4.110"
    streams = [bytes(ENCODERS[syntax](picture(seed))) for seed in range(4)]
    path = coded(tmp_path / "x", write_dicom, syntax, *streams)
    dataset = dcmread(path)
    how = {"implicit_vr": False, "little_endian": True, "force_encoding": True}
    if table == "extended":
        data, offsets, lengths = encapsulate_extended(streams)
        dataset.PixelData, dataset.ExtendedOffsetTable = data, offsets
        dataset.ExtendedOffsetTableLengths = lengths
    else:
        dataset.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=table == "basic")
    dataset.save_as(path, **how)
    frames = frames_of(read_dataset(path))
    for seed in (3, 0, 2):
        np.testing.assert_array_equal(frames[seed], picture(seed))
    dataset.NumberOfFrames = 9
    dataset.save_as(path, **how)
    with pytest.raises(InputError, match="dicom-malformed"):
        frames_of(read_dataset(path))[8]


def test_only_the_frame_asked_for_is_read(
    tmp_path: Path, write_dicom: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_connectors.dicom import sources

    streams = [bytes(imagecodecs.jpegls_encode(picture(seed))) for seed in range(40)]
    path = coded(tmp_path / "x", write_dicom, "1.2.840.10008.1.2.4.80", *streams)
    frames = frames_of(read_dataset(path))
    asked = []
    real = sources.os.pread

    def pread(file: int, count: int, at: int) -> bytes:
        found = real(file, count, at)
        asked.append(len(found))
        return found

    monkeypatch.setattr(sources.os, "pread", pread)
    np.testing.assert_array_equal(frames[20], picture(20))
    assert sum(asked) < sources.BLOCK + 41 * 8 + 200 + 2 * len(streams[20])


def test_broken_run_lengths_are_refused_even_where_the_decoder_panics() -> None:
    from pydicom.pixels.encoders import RLELosslessEncoder

    good = RLELosslessEncoder.encode(
        picture().tobytes(), rows=48, columns=40, samples_per_pixel=1, bits_allocated=16,
        bits_stored=16, pixel_representation=0, number_of_frames=1,
        photometric_interpretation="MONOCHROME2", encoding_plugin="pylibjpeg",
    )  # fmt: skip
    whole = {"size": SIZE, "samples": 1, "bits": 16}
    np.testing.assert_array_equal(decode_runs(good, **whole)[0], picture())
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        bad = bytearray(good)
        for at in random.integers(0, len(bad) if random.random() < 0.5 else 70, 3):
            bad[at] = random.integers(0, 256)
        try:
            decode_runs(bytes(bad), **whole)
            outcomes.add("read")
        except InputError as error:
            outcomes.add(error.code)
    assert outcomes == {"read", "dicom-not-decodable"}


_MUTATE = """
import resource, sys
import numpy as np
from data_connectors.dicom.streams import decode_stream
from medvlp.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
random, stream, done = np.random.default_rng(int(sys.argv[2])), sys.stdin.buffer.read(), 0
for _ in range(int(sys.argv[3])):
    bad = bytearray(stream)
    for at in random.integers(0, len(bad) if random.random() < 0.5 else 120, random.integers(1, 5)):
        bad[at] = random.choice([0, 255, random.integers(0, 256)])
    try:
        decode_stream(bytes(bad), sys.argv[1], size=(48, 40), samples=1)
    except InputError:
        done += 1
print(done)
"""


@pytest.mark.parametrize("syntax", sorted(set(ENCODERS) - {"1.2.840.10008.1.2.4.202"}))
def test_damaged_streams_neither_kill_nor_hang_the_process(syntax: str) -> None:
    """A sample of what docs/LOG.md reports; in a process of its own, because this could end it."""
    stream = bytes(ENCODERS[syntax](picture()))
    done = subprocess.run(
        [sys.executable, "-c", _MUTATE, syntax, "1", "150"],
        input=stream, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 30


def test_every_stream_syntax_is_known_by_name_or_listed_here() -> None:
    unnamed = {syntax for syntax in STREAMS if UID(syntax).name == syntax}
    assert unnamed <= {f"1.2.840.10008.1.2.4.{end}" for end in (110, 111, 112)}
    assert RLELossless not in STREAMS


def test_a_plain_dataset_in_memory_is_decoded_too(tmp_path: Path, write_dicom: Any) -> None:
    path = write_dicom(tmp_path / "x", picture())
    dataset: Dataset = dcmread(path)
    np.testing.assert_array_equal(stored_frame(dataset, 0), picture())
