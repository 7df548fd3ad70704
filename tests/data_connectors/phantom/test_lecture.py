from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_connectors.phantom.film import frames
from data_connectors.phantom.identity import draw_person
from data_connectors.phantom.procedure import OUT_OF_BODY, PHASES, Stretch, draw_schedule
from data_connectors.phantom.recognisers import aws_json, breaths, hear, srt, vtt, whisper_json
from data_connectors.phantom.seeds import stream
from data_connectors.phantom.speech import speak


@pytest.fixture(scope="module")
def truth(hospital: Path) -> dict[str, Any]:
    table = pq.read_table(hospital / "truth.parquet").to_pylist()
    return next(row for row in table if row["kind"] == "lecture")


@pytest.fixture(scope="module")
def folder(hospital: Path, truth: dict[str, Any]) -> Path:
    return hospital / truth["folder"]


@pytest.fixture(scope="module")
def schedules() -> list[tuple[Stretch, ...]]:
    return [draw_schedule(stream(1, "lecture", i, "schedule")) for i in range(60)]


def test_the_video_is_h264_of_the_length_that_the_truth_says(
    folder: Path, truth: dict[str, Any]
) -> None:
    with av.open(str(folder / "video.mp4")) as container:
        stream_ = container.streams.video[0]
        assert stream_.codec_context.name == "h264"
        assert float(stream_.average_rate) == truth["fps"]
        times = sorted(
            float(packet.pts * packet.time_base)
            for packet in container.demux(stream_)
            if packet.pts is not None
        )
    assert len(times) == round(truth["duration_s"] * truth["fps"])
    np.testing.assert_allclose(times, np.arange(len(times)) / truth["fps"], atol=1e-3)
    assert 118 <= truth["duration_s"] <= 300


def test_key_steps_tile_the_video(folder: Path, truth: dict[str, Any]) -> None:
    with (folder / "keysteps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert steps[0]["start"] == "0.0"
    assert float(steps[-1]["end"]) == pytest.approx(truth["duration_s"], abs=0.1)
    for one, other in pairwise(steps):
        assert one["end"] == other["start"]
    assert [s["phase"] for s in steps] == [s["phase"] for s in truth["steps"]]
    assert len({s["phase"] for s in steps} - {OUT_OF_BODY}) >= 7


def test_every_lecture_has_seven_phases_and_a_stretch_outside(
    schedules: Sequence[tuple[Stretch, ...]],
) -> None:
    for schedule in schedules:
        phases = [s.phase for s in schedule]
        assert len(set(phases) - {OUT_OF_BODY}) >= 7
        assert OUT_OF_BODY in phases
        assert 115 <= schedule[-1].end_s <= 300
        for s in schedule:
            assert s.end_s - s.start_s >= 2.9
            assert s.phase == OUT_OF_BODY or s.step in {x.id for x in PHASES[s.phase].steps}


def test_orders_differ_between_lectures(schedules: Sequence[tuple[Stretch, ...]]) -> None:
    orders = [tuple(dict.fromkeys(s.phase for s in some)) for some in schedules]
    assert len(set(orders)) > 20
    starts = [next((s.start_s for s in some if s.phase == "clipping"), 0.0) for some in schedules]
    assert np.ptp(starts) > 25  # time alone does not tell the phase


def test_both_transcripts_and_the_captions_stay_inside_the_video(
    folder: Path, truth: dict[str, Any]
) -> None:
    end = truth["duration_s"]
    whisper = json.loads((folder / "whisper.json").read_text())
    last = 0.0
    for segment in whisper["segments"]:
        assert last <= segment["start"] < segment["end"] <= end
        last = segment["start"]
        assert segment["text"].split() == [word["word"] for word in segment["words"]]
    aws = json.loads((folder / "aws.json").read_text())
    assert aws["status"] == "COMPLETED"
    items = aws["results"]["items"]
    spoken = [item for item in items if item["type"] == "pronunciation"]
    times = [(float(item["start_time"]), float(item["end_time"])) for item in spoken]
    assert all(0 <= start < stop <= end for start, stop in times)
    assert times == sorted(times)
    assert all("start_time" not in item for item in items if item["type"] == "punctuation")
    for segment in aws["results"]["audio_segments"]:
        inside = [items[i] for i in segment["items"]]
        text = re.sub(r" (?=[.,?])", "", " ".join(i["alternatives"][0]["content"] for i in inside))
        assert segment["transcript"] == text
    captions = next(folder.glob("captions.*")).read_text()
    clocks = re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3}) --> ", captions)
    assert len(clocks) == len(whisper["segments"])
    for (h, m, s, ms), segment in zip(clocks, whisper["segments"], strict=True):
        start = int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000
        assert start == pytest.approx(segment["start"], abs=1e-3)


def test_the_name_is_spoken_once_and_heard_by_both(folder: Path, truth: dict[str, Any]) -> None:
    whisper = json.loads((folder / "whisper.json").read_text())
    aws = json.loads((folder / "aws.json").read_text())
    family = truth["name"].split()[1]
    heard = " ".join(segment["text"] for segment in whisper["segments"])
    assert heard.count(family) == 1
    assert aws["results"]["transcripts"][0]["transcript"].count(family) == 1


def test_recognisers_differ_and_digits_have_no_times() -> None:
    digits = different = 0
    for index in range(8):
        schedule = draw_schedule(stream(2, "lecture", index, "schedule"))
        person = draw_person(np.random.default_rng(index), "lecture", index)
        _, words = speak(np.random.default_rng(index), schedule, person)
        names, end = frozenset(person.name.split()), schedule[-1].end_s
        rng = np.random.default_rng(index)
        one = hear(rng, words, names, end, error=0.1, jitter_s=0.05, which=0, spell=False)
        two = hear(rng, words, names, end, error=0.2, jitter_s=0.02, which=1, spell=True)
        segments = breaths(rng, one)
        tree = json.loads(whisper_json(rng, segments))
        for word in (word for segment in tree["segments"] for word in segment["words"]):
            if word["word"].strip(".,").isdigit():
                digits += 1
                assert "start" not in word
            else:
                assert word["start"] < word["end"]
        different += [w.text for w in one.words] != [w.text for w in two.words]
        assert not re.search(r"\d", aws_json(rng, two, "job").split('"items"')[0][60:])
        assert srt(segments).count("-->") == vtt(segments).count("-->") == len(segments)
    assert digits >= 3
    assert different == 8


def test_narration_is_about_what_is_shown_most_of_the_time() -> None:
    kinds, lags = [], []
    for index in range(25):
        schedule = draw_schedule(stream(3, "lecture", index, "schedule"))
        person = draw_person(np.random.default_rng(index), "lecture", index)
        sentences, words = speak(np.random.default_rng(index), schedule, person)
        kinds += [s.kind for s in sentences]
        lags += [s.lag_s for s in sentences]
        assert all(0 <= w.start_s < w.end_s <= schedule[-1].end_s for w in words)
        starts = [w.start_s for w in words]
        assert starts == sorted(starts)
        about = [s for s in sentences if s.kind == "step"]
        shown = [
            any(
                t.phase == s.phase and t.start_s - 6 < s.end_s and s.start_s < t.end_s + 8
                for t in schedule
            )
            for s in about
        ]
        assert np.mean(shown) > 0.85
    share = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert share["step"] > 0.6
    assert 0.08 < share["irrelevant"] < 0.25
    assert min(lags) < -1
    assert max(lags) > 3


def test_phases_look_different_and_lectures_do_too() -> None:
    """Mean colours of two lectures: no single colour tells the phase."""
    colours: list[dict[str, np.ndarray]] = []
    for index in range(2):
        schedule = draw_schedule(stream(4, "lecture", index, "schedule"))
        seen: dict[str, list[np.ndarray]] = {}
        for number, picture in enumerate(frames(stream(4, "lecture", index, "film"), schedule, 2)):
            now = next(s for s in schedule if number / 2 < s.end_s)
            if number % 6 == 0:
                assert picture.shape == (144, 192, 3)
                seen.setdefault(now.phase, []).append(picture.mean((0, 1)))
        colours.append({phase: np.mean(values, axis=0) for phase, values in seen.items()})
    both = set(colours[0]) & set(colours[1])
    shift = np.mean([np.abs(colours[0][p] - colours[1][p]).mean() for p in both])
    spread = np.ptp([colours[0][p].mean() for p in ("dissection", "clipping", "division")
                     if p in colours[0]])  # fmt: skip
    assert spread < shift
