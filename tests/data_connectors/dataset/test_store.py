from __future__ import annotations

import copy
import io
import json
import multiprocessing
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_connectors.dataset.store import Dataset
from data_connectors.dataset.writer import DatasetWriter, ShardWriter, tar_payload
from data_connectors.items import Payload, Refused, Region
from medvlp.errors import DatasetError, IntegrityError
from medvlp.types import Finding, Geometry, Sample, Text

RNG = np.random.default_rng(5)
GREY8 = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
VOLUME = RNG.integers(-1024, 3000, (6, 8, 9), dtype=np.int16)
FRAMES = [np.full((12, 16, 3), 40 * i, np.uint8) for i in range(5)]
TIMES_MS = (500, 1500, 2500, 3500, 7250)


def encoded(array: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, array)
    else:
        Image.fromarray(array).save(buffer, form, **({"quality": 95} if form == "jpeg" else {}))
    return buffer.getvalue()


PAYLOADS = {
    "a" * 32: ("image", Payload((("png", encoded(GREY8, "png")),))),
    "b" * 32: ("image", Payload((("png", encoded(GREY16, "png")),))),
    "c" * 32: ("image", Payload((("png", encoded(COLOUR, "png")),))),
    "d" * 32: ("volume", Payload((("npy", encoded(VOLUME, "npy")),))),
    "e" * 32: ("clip", Payload(tuple(
        (f"{ms:010d}.jpg", encoded(frame, "jpeg"))
        for ms, frame in zip(TIMES_MS, FRAMES, strict=True)
    ))),
}  # fmt: skip


def write(folder: Path) -> Path:
    with DatasetWriter(folder) as writer:
        samples = []
        for number, (key, (kind, payload)) in enumerate(PAYLOADS.items()):
            placed = writer.add(key, payload)
            samples.append(Sample(
                key=key, patient=f"p{number}", study="s", split="test" if number else "train",
                kind=kind, modality="CT", provenance="x" if number < 2 else "y",
                texts=(Text("caption", "t", "A mass."),),
                findings=(Finding("mass", "mass", "present", start=2, end=6),),
                geometry=Geometry(spacing_mm=(2.5, 1.0, 1.0), unit="HU", window=(40.0, 400.0))
                if kind == "volume" else Geometry(),
                shard=placed.shard, offset=placed.offset, size=placed.size,
            ))  # fmt: skip
        samples.append(Sample("f" * 32, "p9", "", "val", "text", ""))
        writer.finish(
            samples,
            regions=[("a" * 32, Region("mass", "left", b"png", None)),
                     ("a" * 32, Region("nodule", None, None, (1.0, 2.0, 3.0, 4.0)))],
            quarantine=[("x/1", Refused("code", "reason", "next"))],
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def data(folder) -> Dataset:
    return Dataset.open(folder)


@pytest.mark.parametrize(("letter", "array"), [("a", GREY8), ("b", GREY16), ("c", COLOUR)])
def test_an_image_comes_back_in_its_own_bit_depth(data, letter, array):
    visual = data.visual(data.by_key[letter * 32])
    assert visual.frames.dtype == array.dtype
    assert np.array_equal(visual.frames, array[None])
    assert visual.kind == "image"
    assert visual.unit == ("rgb" if array.ndim == 3 else "raw")


def test_a_volume_comes_back_with_positions_in_millimetres(data):
    visual = data.visual(data.by_key["d" * 32])
    assert np.array_equal(visual.frames, VOLUME)
    assert visual.frames.dtype == np.int16
    assert visual.positions.tolist() == [0, 2.5, 5, 7.5, 10, 12.5]
    assert (visual.unit, visual.window) == ("HU", (40.0, 400.0))


def test_a_clip_comes_back_with_the_times_of_its_frames(data):
    visual = data.visual(data.by_key["e" * 32])
    assert visual.positions.tolist() == [0.5, 1.5, 2.5, 3.5, 7.25]
    assert visual.frames.shape == (5, 12, 16, 3)
    assert [int(frame.mean()) for frame in visual.frames] == pytest.approx(
        [0, 40, 80, 120, 160], abs=2
    )


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_fewer_frames_are_spread_evenly(data, most):
    for letter in "de":
        sample = data.by_key[letter * 32]
        full, few = data.visual(sample), data.visual(sample, max_frames=most)
        assert len(few.frames) == min(most, len(full.frames))
        places = [full.positions.tolist().index(p) for p in few.positions.tolist()]
        assert places == sorted(set(places))
        assert np.array_equal(few.frames, full.frames[places])


def test_a_text_sample_has_no_pixels(data):
    with pytest.raises(DatasetError) as caught:
        data.visual(data.by_key["f" * 32])
    assert caught.value.code == "sample-without-visual"


def test_selecting(data):
    assert [s.key[0] for s in data.select(split="train")] == ["a"]
    assert [s.key[0] for s in data.select(kinds=("volume", "clip"))] == ["d", "e"]
    assert [s.key[0] for s in data.select(split=("train", "val"))] == ["a", "f"]
    assert [s.key[0] for s in data.select(provenance="x")] == ["a", "b"]
    assert data.select() == data.samples
    assert len(data) == 6


def test_regions_and_quarantine_come_back(data):
    mask, box = data.regions("a" * 32)
    assert (mask.concept, mask.side, mask.mask_png, mask.box) == ("mass", "left", b"png", None)
    assert (box.concept, box.mask_png, box.box) == ("nodule", None, (1.0, 2.0, 3.0, 4.0))
    assert data.regions("b" * 32) == []
    assert data.quarantine() == [
        {"source": "x/1", "code": "code", "reason": "reason", "next_step": "next"}
    ]


def _mean(data_and_key):
    data, key = data_and_key
    return float(data.visual(data.by_key[key]).frames.mean())


def test_threads_forks_and_copies_read_the_same(data):
    expected = VOLUME.mean()
    assert _mean((data, "d" * 32)) == expected
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(_mean, [(data, "d" * 32)] * 64)) == {expected}
    twin = copy.deepcopy(data)  # as a worker process gets it: without open files
    assert _mean((twin, "d" * 32)) == expected
    context = multiprocessing.get_context("fork")
    with context.Pool(2, initializer=_hold, initargs=(data,)) as pool:
        assert set(pool.map(_held_mean, ["d" * 32] * 20)) == {expected}
    assert _mean((data, "d" * 32)) == expected


def _hold(data):
    global HELD
    HELD = data


def _held_mean(key):
    return _mean((HELD, key))


def test_webdataset_reads_the_shards(folder):
    shards = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    found = {
        sample["__key__"]: {name for name in sample if not name.startswith("__")}
        for sample in webdataset.WebDataset(shards, shardshuffle=False)
    }
    assert found.keys() == PAYLOADS.keys()
    assert found["d" * 32] == {"npy"}
    assert found["e" * 32] == {f"{ms:010d}.jpg" for ms in TIMES_MS}


def test_equal_contents_give_equal_bytes(folder, tmp_path):
    again = write(tmp_path / "again")
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_the_headers_hold_no_time_and_no_owner(folder):
    with tarfile.open(folder / "shards" / "000000.tar") as archive:
        for member in archive:
            facts = (member.mtime, member.uid, member.gid, member.uname, member.gname)
            assert facts == (0, 0, 0, "", "")


def test_verify_finds_a_changed_byte_by_name(tmp_path):
    data = Dataset.open(write(tmp_path / "set"))
    assert data.verify() == 4
    path = tmp_path / "set" / "shards" / "000000.tar"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"shards/000000\.tar"):
        data.verify()


def test_verify_finds_added_and_missing_parts(tmp_path):
    data = Dataset.open(write(tmp_path / "set"))
    extra = tmp_path / "set" / "shards" / "000009.tar"
    extra.write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"000009"):
        data.verify()
    extra.unlink()
    (tmp_path / "set" / "regions.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"regions\.parquet"):
        data.verify()


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "dataset-missing"), ("{", "dataset-invalid"),
     (json.dumps({"schema_version": 99}), "dataset-schema")],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(tmp_path, content, code):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError) as caught:
        Dataset.open(tmp_path)
    assert caught.value.code == code


def test_a_pickled_array_is_not_loaded(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with DatasetWriter(tmp_path) as writer:
        placed = writer.add("k", Payload((("npy", buffer.getvalue()),)))
        writer.finish([Sample("k", "p", "", "train", "volume", "CT", shard=placed.shard,
                              offset=placed.offset, size=placed.size)])  # fmt: skip
    data = Dataset.open(tmp_path)
    with pytest.raises(ValueError, match="allow_pickle"):
        data.visual(data.samples[0])


def test_two_samples_of_one_key_are_refused(tmp_path):
    with DatasetWriter(tmp_path) as writer, pytest.raises(DatasetError):
        writer.finish([Sample("k", "p", "", "train", "text", "")] * 2)


def test_shards_change_at_the_limit_and_never_inside_a_payload(tmp_path):
    writer = ShardWriter(tmp_path, limit=5000)
    payload = tar_payload("k", Payload((("bin", bytes(1500)),)))[0]
    places = [writer.append(payload) for _ in range(7)]
    writer.close()
    assert [place.shard[-5] for place in places] == ["0", "0", "1", "1", "2", "2", "3"]
    for place in places:
        data = (tmp_path / place.shard).read_bytes()[place.offset : place.offset + place.size]
        assert data == payload
    assert all(tarfile.is_tarfile(path) for path in (tmp_path / "shards").iterdir())


def test_a_shard_writer_goes_on_from_a_known_place(tmp_path):
    payload = tar_payload("k", Payload((("bin", bytes(1500)),)))[0]

    def whole(folder: Path, number: int) -> ShardWriter:
        writer = ShardWriter(folder, limit=5000)
        for _ in range(number):
            writer.append(payload)
        return writer

    whole(tmp_path / "once", 7).close()
    half = whole(tmp_path / "twice", 3)
    shard, offset = half.shard, half.offset
    for _ in range(3):  # written, but not recorded anywhere: must not survive
        half.append(payload)
    half.close()
    rest = ShardWriter(tmp_path / "twice", limit=5000, shard=shard, offset=offset)
    for _ in range(4):
        rest.append(payload)
    rest.close()
    once, twice = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "shards").iterdir()}
        for name in ("once", "twice")
    )
    assert once == twice
