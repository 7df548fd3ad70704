from __future__ import annotations

import html
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_connectors.video.asr_json import interpolate, parse_aws, parse_whisper
from data_connectors.video.subtitles import parse_srt, parse_vtt
from data_connectors.video.tables import parse_utterances_csv
from data_connectors.video.transcripts import read_transcript
from medvlp.errors import InputError
from medvlp.types import Utterance, Word

Cue = tuple[int, int, str]  # start ms, end ms, text


def clock(ms: int, comma: str) -> str:
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def as_srt(cues: list[Cue]) -> str:
    return "\n".join(
        f"{i}\n{clock(a, ',')} --> {clock(b, ',')}\n{text}\n"
        for i, (a, b, text) in enumerate(cues, 1)
    ) or "\n"  # fmt: skip


def as_vtt(cues: list[Cue]) -> str:
    body = [f"{clock(a, '.')} --> {clock(b, '.')}\n{html.escape(t)}\n" for a, b, t in cues]
    return "WEBVTT\n\n" + "\n".join(body)


def as_whisper(cues: list[Cue]) -> str:
    segments = [{"start": a / 1000, "end": b / 1000, "text": " " + t} for a, b, t in cues]
    return json.dumps({"text": "", "segments": segments, "language": "en"})


def as_csv(cues: list[Cue]) -> str:
    rows = ['{},{},"{}"'.format(a / 1000, b / 1000, t.replace('"', '""')) for a, b, t in cues]
    return "start,end,text\n" + "\n".join(rows) + "\n"


def as_aws_segments(cues: list[Cue]) -> str:
    segments = [
        {"start_time": str(a / 1000), "end_time": str(b / 1000), "transcript": t}
        for a, b, t in cues
    ]
    return json.dumps({"status": "COMPLETED", "results": {"items": [], "audio_segments": segments}})


FORMATS: dict[str, tuple[str, Callable[[list[Cue]], str]]] = {
    "srt": (".srt", as_srt),
    "vtt": (".vtt", as_vtt),
    "whisper": (".json", as_whisper),
    "csv": (".csv", as_csv),
    "aws": (".json", as_aws_segments),
}

words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
texts = st.lists(words, min_size=1, max_size=5).map(" ".join).filter(
    lambda t: "-->" not in t and "<" not in t and "{\\" not in t and not t.isdigit()
)  # fmt: skip
cues = st.lists(
    st.tuples(st.integers(0, 40_000_000), st.integers(1, 600_000), texts).map(
        lambda c: (c[0], c[0] + c[1], c[2])
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(cues=cues)
def test_every_format_keeps_every_cue_to_the_millisecond(
    name: str, cues: list[Cue], tmp_path_factory: pytest.TempPathFactory
) -> None:
    suffix, write = FORMATS[name]
    path = tmp_path_factory.getbasetemp() / f"round_trip_{name}{suffix}"
    path.write_text(write(cues), encoding="utf-8", newline="")
    transcript = read_transcript(path)
    got = sorted(
        (round(u.start_s * 1000), round(u.end_s * 1000), u.text) for u in transcript.utterances
    )
    assert got == sorted(cues)
    assert transcript.recogniser == name
    assert [u.start_s for u in transcript.utterances] == sorted(
        u.start_s for u in transcript.utterances
    )


def read(tmp_path: Path, name: str, text: str | bytes) -> tuple[Utterance, ...]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_transcript(path).utterances


def test_vtt_reads_commas_missing_hours_names_settings_notes_and_entities(tmp_path: Path) -> None:
    text = (
        "\ufeffWEBVTT - a title\r\nKind: captions\r\n\r\nNOTE\r\nnot spoken\r\n\r\n"
        "STYLE\r\n::cue { color: red }\r\n\r\n"
        "intro\r\n01:02,500 --> 01:04.000 align:start\r\n<v Surgeon>pressure &lt; 12 &amp; "
        "<c.loud>stable</c>\r\nsecond line\r\n\r\n"
        "100:00:00.000 --> 100:00:01.000\r\nlast\r\n"
    )
    assert [(u.start_s, u.end_s, u.text) for u in read(tmp_path, "a.vtt", text)] == [
        (62.5, 64.0, "pressure < 12 & stable second line"),
        (360000.0, 360001.0, "last"),
    ]


def test_overlapping_cues_are_kept_in_order_of_time(tmp_path: Path) -> None:
    text = "2\n00:00:05,000 --> 00:00:09,000\nb\n\n1\n00:00:01,000 --> 00:00:06,000\na\n"
    assert [(u.text, u.start_s) for u in read(tmp_path, "a.srt", text)] == [("a", 1.0), ("b", 5.0)]


def test_srt_styling_goes_and_what_is_said_stays(tmp_path: Path) -> None:
    said = '{\\an8}<i>BP <b>< 90</b></i> <font color="red">x</font>'
    text = f"1\n00:00:01,000 --> 00:00:02,000\n{said}\n"
    assert read(tmp_path, "a.srt", text)[0].text == "BP < 90 x"


def test_a_cue_without_words_is_kept(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\n\n2\n00:00:03,000 --> 00:00:04,000\nyes\n"
    assert [u.text for u in read(tmp_path, "a.srt", text)] == ["", "yes"]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.srt", "1\n00:00:01,000 --> 00:00:0x,000\nx\n", "line 2"),
        ("a.srt", "1\n00:00:01,000 -> 00:00:02,000\nx\n", "line 1"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:75,000\nx\n", "line 2"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\na\n2\n00:00:03,000 --> 00:00:04,000\nb\n",
         "line 5"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:75.000\nx\n", "line 3"),
        ("a.vtt", "WEBVTT\n\nwords without a time\n", "line 4"),
        ("a.vtt", "00:01.000 --> 00:02.000\nx\n", "line 1"),
        ("a.vtt", "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000\n\n", "line 2"),
        ("a.csv", "start,text\n1,x\n", "line 1"),
        ("a.csv", "start,end,text\n1,2,x\n3,4\n", "line 3"),
        ("a.csv", "start,end,text\n1,2,x\n3,soon,x\n", "line 3"),
        ("a.csv", "start,end,text\n1,nan,x\n", "line 2"),
        ("a.json", '{"segments": [{"start": 0, "end": 1, "text": "x"}, {"start": 1, "text": "y"}]}',
         "segment 1"),
        ("a.json", '{"segments": [{"start": true, "end": 1, "text": "x"}]}', "segment 0"),
        ("a.json", '{"segments": [{"start": 0, "end": 1}]}', "segment 0"),
        ("a.json", '{"segments": 3}', "segments"),
        ("a.json", '{"segments": [', "line 1"),
        ("a.json", "[" * 100_000, "JSON"),
        ("a.json", '{"status": "FAILED", "results": {}}', "AWS"),
        ("a.json", '{"results": {"items": [{"type": "pronunciation", "alternatives": []}]}}',
         "item 0"),
        ("a.srt", "", "empty"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\xff\xfe\n", "UTF-8"),
        ("a.txt", "x", "ending"),
    ],
)  # fmt: skip
def test_an_unreadable_cue_refuses_the_file_and_says_where(
    tmp_path: Path, name: str, text: str | bytes, place: str
) -> None:
    with pytest.raises(InputError) as refusal:
        read(tmp_path, name, text)
    assert refusal.value.code == "transcript-not-parseable"
    assert place in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.srt", "1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2"),
        ("a.vtt", "WEBVTT\n\n00:02.000 --> 00:02.000\nx\n", "line 3"),
        ("a.csv", "start,end,text\n2,1,x\n", "line 2"),
        ("a.csv", "start,end,text\n-1,1,x\n", "line 2"),
        ("a.json", '{"segments": [{"start": 2, "end": 1, "text": "x"}]}', "segment 0"),
        ("a.json", '{"segments": [{"start": 0, "end": 9, "text": "x", "words": '
                   '[{"word": "x", "start": 2, "end": 1}]}]}', "word 0"),
        ("a.json", '{"results": {"items": [{"type": "pronunciation", "start_time": "2", '
                   '"end_time": "1", "alternatives": [{"content": "x"}]}]}}', "item 0"),
    ],
)  # fmt: skip
def test_an_end_before_its_start_has_its_own_code(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    with pytest.raises(InputError) as refusal:
        read(tmp_path, name, text)
    assert refusal.value.code == "transcript-time-order"
    assert place in str(refusal.value)


def test_refusals_never_quote_what_was_said(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nMr Smith\n\nMr Smith again\n"
    with pytest.raises(InputError) as refusal:
        read(tmp_path, "a.srt", text)
    assert "Smith" not in str(refusal.value)


def test_words_without_times_are_interpolated_and_marked() -> None:
    words = [
        {"word": "about", "start": 1.0, "end": 1.4},
        {"word": "12"},
        {"word": "mm", "score": 0.1},
        {"word": "left", "start": 2.4, "end": 3.0},
        {"word": "end"},
    ]
    segment = {"start": 1.0, "end": 4.0, "text": "about 12 mm left end", "words": words}
    (said,) = parse_whisper({"segments": [segment], "word_segments": words})
    middle = said.words[1].end_s
    assert middle == pytest.approx(1.9)
    assert said.words == (
        Word("about", 1.0, 1.4),
        Word("12", 1.4, middle, interpolated=True),
        Word("mm", middle, 2.4, interpolated=True),
        Word("left", 2.4, 3.0),
        Word("end", 3.0, 4.0, interpolated=True),
    )


@given(
    drawn=st.lists(
        st.tuples(st.one_of(st.none(), st.floats(0, 100)), st.integers(1, 9)), max_size=12
    )
)
def test_interpolated_words_are_ordered_and_lose_nothing(
    drawn: list[tuple[float | None, int]],
) -> None:
    given_times = iter(sorted(k for k, _ in drawn if k is not None))
    words = [
        Word("a" * n, None, None) if k is None else Word("a" * n, t := next(given_times), t)
        for k, n in drawn
    ]
    done = interpolate(words, 0.0, 100.0)
    assert [w.text for w in done] == [w.text for w in words]
    assert [w.interpolated for w in done] == [w.start_s is None for w in words]
    times = [t for w in done for t in (w.start_s, w.end_s)]
    assert all(a <= b + 1e-9 for a, b in pairwise(times))


def aws_item(
    content: str, start: float | None = None, end: float | None = None
) -> dict[str, object]:
    item: dict[str, object] = {
        "alternatives": [{"confidence": "0.9", "content": content}, {"content": "wrong"}],
        "type": "punctuation" if start is None else "pronunciation",
    }
    if start is not None:
        item |= {"start_time": str(start), "end_time": str(end)}
    return item


def test_aws_items_become_sentences_at_full_stops_and_pauses() -> None:
    items = [
        aws_item("We", 1.0, 1.2), aws_item("clip", 1.3, 1.6), aws_item(",", None),
        aws_item("then", 1.7, 1.9), aws_item("cut", 2.0, 2.2), aws_item("."),
        aws_item("Irrigate", 2.3, 2.8), aws_item("now", 6.0, 6.3),
    ]  # fmt: skip
    got = parse_aws({"status": "COMPLETED", "results": {"items": items, "audio_segments": []}})
    assert [(u.text, u.start_s, u.end_s, len(u.words)) for u in got] == [
        ("We clip, then cut.", 1.0, 2.2, 4),
        ("Irrigate", 2.3, 2.8, 1),
        ("now", 6.0, 6.3, 1),
    ]


def test_a_word_may_be_an_instant_and_a_segment_may_not() -> None:
    word = {"word": "a", "start": 1.2, "end": 1.2}
    (said,) = parse_whisper({"segments": [{"start": 1, "end": 2, "text": "a", "words": [word]}]})
    assert said.words == (Word("a", 1.2, 1.2),)
    (item,) = parse_aws({"status": "COMPLETED", "results": {"items": [
        aws_item("a", 1.2, 1.2), aws_item("clip", 1.3, 1.6), aws_item(".")]}})  # fmt: skip
    assert item.words[0] == Word("a", 1.2, 1.2)
    with pytest.raises(InputError, match="must end after it starts"):
        parse_whisper({"segments": [{"start": 1, "end": 1, "text": "a"}]})


def test_a_silent_recording_is_a_transcript_without_utterances() -> None:
    assert parse_whisper({"segments": []}) == ()
    assert parse_vtt("WEBVTT\n") == ()
    assert parse_srt("\n") == ()
    assert parse_utterances_csv("start,end,text\n") == ()


def test_real_lectures_are_read_whole(shared_data: Path) -> None:
    folder = shared_data / "surg_transcripts"
    counts = {}
    for path in sorted(folder.glob("*_narration_texts/*.csv")):
        transcript = read_transcript(path, recogniser=path.parent.name.split("_")[0])
        counts[f"{transcript.recogniser}/{path.stem}"] = len(transcript.utterances)
        lines = len(path.read_text(encoding="utf-8").splitlines()) - 1
        assert len(transcript.utterances) == lines
    assert counts == {
        "aws/vd01en1112e": 42, "aws/vd01en1354e": 16, "aws/vd01en1382e": 26,
        "whisper/vd01en1112e": 115, "whisper/vd01en1354e": 44, "whisper/vd01en1382e": 77,
    }  # fmt: skip
