from __future__ import annotations

import csv
import shutil
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import data_connectors.video.clock as clock_module
from data_connectors.video.clock import open_clock, probe, sample_frames, shrink
from medvlp.errors import InputError

Writer = Callable[..., Path]
Reader = Callable[[np.ndarray], int]

EVEN = [k / 25 for k in range(250)]


def uneven(count: int, start_s: float = 0.0) -> list[float]:
    """Gaps between 20 ms and 600 ms, in no pattern."""
    gaps = [0.02 + (k * 37 % 30) / 50 for k in range(count)]
    return [round(start_s + sum(gaps[:k]), 3) for k in range(count)]


def expected(times_s: Sequence[float], t: float) -> int:
    """The number of the picture that is shown at t, from the times it was written with."""
    return bisect_right([round(s * 1000) for s in times_s], round(t * 1000)) - 1


@pytest.mark.parametrize(
    ("name", "times_s", "options"),
    [
        ("even.mp4", EVEN, {}),
        ("even.mp4", EVEN, {"b_frames": 0}),
        ("even.mkv", EVEN, {}),
        ("uneven.mp4", uneven(80), {}),
        ("uneven.mkv", uneven(80), {}),
        ("uneven.webm", uneven(80), {"codec": "libvpx-vp9"}),
        ("even.ts", EVEN, {}),
        ("even.avi", EVEN, {"codec": "mpeg4", "b_frames": 0}),
        ("reordered.avi", EVEN, {"tick": Fraction(1, 25)}),
        ("fragments.mp4", EVEN, {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("interlaced.ts", EVEN, {"x264": "interlaced=1", "tick": Fraction(1, 25)}),
        ("open_gop.mkv", EVEN, {"x264": "open-gop=1:b-pyramid=normal:bframes=5"}),
        ("even.mpg", EVEN, {"codec": "mpeg2video"}),
    ],
)
def test_every_sampled_time_gives_the_picture_shown_then(
    tmp_path: Path, video: Writer, number_in: Reader, name: str, times_s: list[float],
    options: dict[str, object],
) -> None:  # fmt: skip
    path = video(tmp_path / name, times_s, **options)
    got = [(t, number_in(rgb)) for t, rgb in sample_frames(path, fps=4)]
    assert [t for t, _ in got] == [k / 4 for k in range(len(got))]
    assert len(got) >= int(times_s[-1] * 4)
    assert [n for _, n in got] == [expected(times_s, t) for t, _ in got]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_a_stream_that_starts_late_counts_from_its_first_picture(
    tmp_path: Path, video: Writer, number_in: Reader, name: str
) -> None:
    path = video(tmp_path / name, [5 + t for t in EVEN])
    media = probe(path)
    assert media.start_s == pytest.approx(5.0, abs=2.0 if name.endswith("ts") else 0.001)
    assert media.first_frame_s == 0
    assert media.duration_s == pytest.approx(10.0, abs=0.002)
    for t, rgb in sample_frames(path, fps=2):
        assert number_in(rgb) == expected(EVEN, t)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_sound_before_the_first_picture_sets_the_clock(
    tmp_path: Path, video: Writer, number_in: Reader, name: str
) -> None:
    times_s = [5 + t for t in EVEN]
    path = video(tmp_path / name, times_s, sound_s=(0.0, 20.0))
    media = probe(path)
    assert media.first_frame_s == pytest.approx(5.0, abs=0.1)
    assert media.duration_s == pytest.approx(15.0, abs=0.1)  # the picture's end, not the sound's
    shift = 5.0 - media.first_frame_s
    got = list(sample_frames(path, fps=2))
    assert got[0][0] in (5.0, 5.5)
    for t, rgb in got:
        assert number_in(rgb) == expected(times_s, t + shift)


def test_a_boundary_belongs_to_the_picture_that_starts_there(
    tmp_path: Path, video: Writer, number_in: Reader
) -> None:
    path = video(tmp_path / "v.mp4", [0, 0.999, 1.0, 2.001, 2.5])
    assert [number_in(rgb) for _, rgb in sample_frames(path, fps=1)] == [0, 2, 2]


def test_a_video_shorter_than_one_step_gives_its_first_picture(
    tmp_path: Path, video: Writer, number_in: Reader
) -> None:
    path = video(tmp_path / "v.mp4", [0, 0.04, 0.08])
    assert [(t, number_in(rgb)) for t, rgb in sample_frames(path, fps=0.1)] == [(0.0, 0)]


def test_a_gif_is_timed_by_its_delays(tmp_path: Path, video: Writer) -> None:
    path = video(tmp_path / "v.gif", [0, 0.5, 0.6, 2.0], codec="gif")
    assert open_clock(path).times_s.tolist() == [0.0, 0.5, 0.6, 2.0]
    assert probe(path).variable_rate


@pytest.mark.parametrize(
    ("name", "options"),
    [("v.mp4", {"gop": 250}), ("v.mpg", {"codec": "mpeg2video", "gop": 12})],
)
def test_skipping_non_reference_pictures_changes_no_bit(
    tmp_path: Path, video: Writer, monkeypatch: pytest.MonkeyPatch, name: str,
    options: dict[str, object],
) -> None:  # fmt: skip
    path = video(tmp_path / name, EVEN, b_frames=3, **options)
    decoded: list[int] = []
    pictures = clock_module.decode

    def counting(path: Path, keep: frozenset[int] | None = None) -> object:
        for tick, frame in pictures(path, keep):
            decoded.append(tick)
            yield tick, frame

    monkeypatch.setattr(clock_module, "decode", counting)
    skipping = list(sample_frames(path, fps=1))
    count = len(decoded)
    monkeypatch.setattr(clock_module, "_SKIPPABLE", frozenset())
    plain = list(sample_frames(path, fps=1))
    assert count < 0.75 * (len(decoded) - count)
    assert [t for t, _ in skipping] == [t for t, _ in plain]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(skipping, plain, strict=True))


def test_pictures_are_shrunk_to_the_long_side_and_never_enlarged(
    tmp_path: Path, video: Writer, number_in: Reader
) -> None:
    path = video(tmp_path / "v.mp4", EVEN[:50])
    for t, rgb in sample_frames(path, fps=10, long_side=80):
        assert rgb.shape == (32, 80, 3)
        assert rgb.dtype == np.uint8
        assert number_in(rgb) == expected(EVEN, t)
    assert next(sample_frames(path, 1, long_side=4000))[1].shape == (64, 160, 3)


def test_shrink_averages_what_it_drops() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 64))
    assert np.abs(shrink(stripes, 32)[:, 2:-2].astype(int) - 127).max() <= 2


def test_probe_says_what_the_file_holds(tmp_path: Path, video: Writer) -> None:
    media = probe(video(tmp_path / "v.mp4", EVEN))
    assert (media.codec, media.width, media.height, media.frames) == ("h264", 160, 64, 250)
    assert media.average_rate == pytest.approx(25.0, rel=0.001)
    assert not media.variable_rate
    assert probe(video(tmp_path / "w.mp4", uneven(80))).variable_rate


def test_a_file_without_a_video_stream_is_refused_by_name(sound_only: Path) -> None:
    with pytest.raises(InputError) as refusal:
        probe(sound_only)
    assert refusal.value.code == "video-no-stream"


def test_an_mp4_that_lost_its_index_is_truncated(tmp_path: Path, video: Writer) -> None:
    data = video(tmp_path / "v.mp4", EVEN).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError) as refusal:
        probe(cut)
    assert refusal.value.code == "video-truncated"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "video-empty"),
        (b"not a video at all, only words" * 100, "video-not-decodable"),
        (b"#EXTM3U\n#EXTINF:1,\nv.ts\n#EXT-X-ENDLIST\n", "video-not-decodable"),
        (b"ffconcat version 1.0\nfile v.ts\n", "video-not-decodable"),
    ],
)
def test_what_is_no_video_is_refused_and_playlists_are_not_followed(
    tmp_path: Path, video: Writer, content: bytes, code: str
) -> None:
    video(tmp_path / "v.ts", EVEN[:25])
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        probe(path)
    assert refusal.value.code == code


@pytest.mark.parametrize("name", ["v.mkv", "v.ts", "fast.mp4"])
def test_a_recording_that_breaks_off_is_right_up_to_there(
    tmp_path: Path, video: Writer, number_in: Reader, name: str
) -> None:
    options = {"movflags": "faststart"} if name == "fast.mp4" else {}
    data = video(tmp_path / name, EVEN, options=options).read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: int(0.6 * len(data))])
    got = list(sample_frames(cut, fps=5))
    assert 10 <= len(got) < 50
    shown = [(number_in(rgb), expected(EVEN, t)) for t, rgb in got]
    # The last one or two may be held pictures of the damaged end; none is ever from later.
    assert [n for n, _ in shown[:-2]] == [e for _, e in shown[:-2]]
    assert all(n <= e for n, e in shown)


def test_damage_in_the_middle_moves_no_later_picture(
    tmp_path: Path, video: Writer, number_in: Reader
) -> None:
    data = bytearray(video(tmp_path / "v.ts", EVEN, gop=10).read_bytes())
    for packet in range(len(data) // 188 // 3, len(data) // 188 // 3 + 20):
        data[packet * 188 + 20 : packet * 188 + 180] = bytes(160)
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data)
    got = [(t, number_in(rgb)) for t, rgb in sample_frames(broken, fps=5)]
    wrong = [(t, n) for t, n in got if n != expected(EVEN, t)]
    assert len(got) >= 45
    assert wrong, "the damage must reach a picture, or this tests nothing"
    assert len(wrong) <= 8
    assert all(n <= expected(EVEN, t) for t, n in wrong)
    assert all(n == expected(EVEN, t) for t, n in got if t > 8)


def test_a_lost_picture_is_held_from_the_one_shown_before_even_where_that_was_skipped(
    tmp_path: Path, video: Writer, number_in: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path / "v.mp4", EVEN, b_frames=3, gop=250)
    clock = open_clock(path)
    wanted = {tick for _, tick in clock.grid(5)}
    pictures = clock_module.decode
    decoded = {tick for tick, _ in pictures(path, frozenset(wanted))}
    ticks = clock.pts.tolist()
    place = next(k for k in range(10, 250) if ticks[k] in wanted and ticks[k - 1] not in decoded)

    def damaged(path: Path, keep: frozenset[int] | None = None) -> object:
        return ((tick, frame) for tick, frame in pictures(path, keep) if tick != ticks[place])

    monkeypatch.setattr(clock_module, "decode", damaged)
    got = {t: number_in(rgb) for t, rgb in sample_frames(path, fps=5)}
    assert got == {k / 5: 5 * k - (5 * k == place) for k in range(50)}


def test_real_clips_are_timed_by_their_packets(shared_data: Path) -> None:
    folder = shared_data / "us_pocus"
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        counted = {row["Filename"]: float(row["Length (frames)"]) for row in csv.DictReader(file)}
    paths = sorted(p for p in folder.iterdir() if p.suffix in {".mp4", ".mpeg", ".mov", ".gif"})
    assert len(paths) == 18
    assert {p.suffix for p in paths} == {".mov", ".mp4", ".mpeg"}
    for path in paths:
        clock = open_clock(path)
        with av.open(str(path)) as container:
            frames = [float(f.pts * f.time_base) for f in container.decode(video=0)]
        assert np.allclose(clock.times_s, np.array(frames) - frames[0], atol=1e-9)
        assert np.all(np.diff(clock.times_s) > 0)
        # The table was made with a reader that loses up to two pictures of a program stream.
        assert 0 <= clock.media.frames - counted[path.stem] <= 2
        times = [t for t, _ in sample_frames(path, fps=4, long_side=64)]
        assert times == [k / 4 for k in range(len(times))]
        assert clock.media.duration_s - 0.25 <= times[-1] < clock.media.duration_s


def test_memory_does_not_grow_with_the_video(tmp_path: Path, video: Writer) -> None:
    import tracemalloc

    path = video(tmp_path / "v.mp4", EVEN)
    long = tmp_path / "long.mp4"
    shutil.copy(video(tmp_path / "w.mp4", [k / 25 for k in range(1000)]), long)
    peaks = []
    for p in (path, long):
        tracemalloc.start()
        for _ in sample_frames(p, fps=25):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 750 more pictures are 23 MB as arrays; their times are kilobytes.
    assert peaks[1] - peaks[0] < 1_000_000
