from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_connectors.items import Span
from data_connectors.video.hierarchy import Rules, build_spans, keep_visible, window
from data_connectors.video.tables import KeyStep, read_keysteps
from data_connectors.video.transcripts import read_transcript
from medvlp.types import Transcript, Utterance

STEPS = (
    KeyStep(0, 20, "access", "insert_trocars", "The trocars are inserted."),
    KeyStep(20, 30, "access", "explore", "The abdomen is explored."),
    KeyStep(30, 40, "out_of_body", "", ""),
    KeyStep(40, 70, "dissection", "open_peritoneum", "The peritoneum is opened."),
    KeyStep(70, 90, "access", "explore", "The abdomen is explored."),
)


def heard(recogniser: str, *said: tuple[float, float, str]) -> Transcript:
    return Transcript(recogniser, tuple(Utterance(text, a, b) for a, b, text in said))


AWS = heard("aws", (2, 5, "we insert trocars"), (21, 23, "we look around"),
            (28, 31, "here is the liver"), (33, 38, "coffee please"), (45, 50, "we cut"),
            (95, 99, "thank you"))  # fmt: skip
WHISPER = heard("whisper", (0, 3, "we insert"), (3, 6, "trocars"), (44, 47, "now we"),
                (47, 52, "cut"))  # fmt: skip


def by_level(spans: tuple[Span, ...], level: str) -> list[Span]:
    return [s for s in spans if s.level == level]


def test_consecutive_steps_of_a_phase_are_one_phase_and_a_return_is_another() -> None:
    phases = [s for s in build_spans(100, [], STEPS) if s.labels[0].startswith("phase:")]
    assert [(s.labels, s.start_s, s.end_s) for s in phases] == [
        (("phase:access",), 0, 30),
        (("phase:dissection",), 40, 70),
        (("phase:access",), 70, 90),
    ]
    assert [t.text for t in phases[0].texts] == [
        "access",
        "The trocars are inserted.",
        "The abdomen is explored.",
    ]


def test_the_first_text_of_a_clip_is_of_its_own_level() -> None:
    spans = build_spans(100, [WHISPER, AWS], STEPS)
    assert {s.level for s in spans} == {"task", "step", "phase"}
    assert all(s.texts[0].level == s.level for s in spans if s.texts)


def test_stretches_outside_the_body_are_labelled_and_say_nothing() -> None:
    spans = build_spans(100, [AWS], STEPS)
    (outside,) = [s for s in spans if "out_of_body" in s.labels]
    assert (outside.start_s, outside.end_s, outside.texts) == (30, 40, ())
    said = [t.text for s in spans for t in s.texts]
    assert "coffee please" not in said
    assert "here is the liver" in said  # two of its three seconds are inside the body


def test_a_task_pairs_what_all_recognisers_heard() -> None:
    tasks = by_level(build_spans(100, [WHISPER, AWS], STEPS), "task")
    assert [[(t.source, t.text) for t in s.texts] for s in tasks][:2] == [
        [("aws", "we insert trocars"), ("whisper", "we insert"), ("whisper", "trocars")],
        [("aws", "we look around")],
    ]
    assert (tasks[0].texts[1].start_s, tasks[0].texts[1].end_s) == (0, 3)


def test_neighbours_that_barely_touch_and_copies_are_left_out() -> None:
    main = heard("aws", (10, 14, "we cut"))
    whisper = heard("whisper", (6, 10.2, "before"), (10.2, 13.9, "we cut it"), (13.9, 20, "after"),
                    (11, 11.3, "yes"))  # fmt: skip
    srt = heard("srt", *((u.start_s, u.end_s, u.text) for u in whisper.utterances))
    (task,) = build_spans(60, [main, srt, whisper], ())
    assert [(t.source, t.text) for t in task.texts] == [
        ("aws", "we cut"), ("whisper", "we cut it"), ("whisper", "yes"),
    ]  # fmt: skip


def test_without_aws_the_next_recogniser_makes_the_tasks() -> None:
    tasks = by_level(build_spans(100, [heard("srt", (0, 9, "x")), WHISPER], ()), "task")
    assert [s.texts[0].text for s in tasks] == ["we insert", "trocars", "now we", "cut"]
    assert {t.source for s in tasks for t in s.texts[1:]} == {"srt"}


def test_parents_are_the_next_level_with_the_largest_overlap() -> None:
    spans = build_spans(100, [AWS], STEPS)

    def chain(span: Span) -> list[str]:
        return [span.level] + ([] if span.parent is None else chain(spans[span.parent]))

    tasks = {s.texts[0].text: s for s in by_level(spans, "task")}
    assert chain(tasks["we insert trocars"]) == ["task", "step", "phase"]
    assert chain(tasks["thank you"]) == ["task"]
    step = spans[tasks["here is the liver"].parent or 0]
    assert step.labels == ("step:explore",)
    assert spans[step.parent or 0].labels == ("phase:access",)


def test_an_outline_of_phases_alone_links_tasks_to_phases() -> None:
    spans = build_spans(100, [AWS], [KeyStep(0, 60, "resection", "", "")])
    assert not by_level(spans, "step")
    task = by_level(spans, "task")[0]
    assert spans[task.parent or 0].labels == ("phase:resection",)


def test_short_windows_grow_and_long_speech_makes_no_clip() -> None:
    talk = heard("aws", (0.5, 1, "a"), (50, 51, "b"), (99.5, 99.9, "c"), (10, 40, "long"))
    tasks = by_level(build_spans(100, [talk], (), Rules(min_clip_s=4, max_clip_s=20)), "task")
    assert [(s.start_s, s.end_s) for s in tasks] == [(0, 4), (48.5, 52.5), (96, 100)]


def test_at_most_so_many_sentences_accompany_a_phase_spread_over_it() -> None:
    talk = heard("aws", *((float(k), k + 1.0, f"sentence {k}") for k in range(50)))
    step = KeyStep(0, 50, "a", "", "text")
    (phase,) = by_level(build_spans(60, [talk], [step], Rules(narrations=5)), "phase")
    narrated = [t for t in phase.texts if t.level == "task"]
    assert [t.text for t in narrated] == [f"sentence {k}" for k in (5, 15, 25, 35, 45)]
    assert (narrated[0].start_s, narrated[0].end_s) == (5.0, 6.0)
    (silent,) = by_level(build_spans(60, [talk], [step], Rules(narrations=0)), "phase")
    assert [t.level for t in silent.texts] == ["phase", "phase"]


def test_what_lies_behind_the_end_of_the_video_makes_no_clip() -> None:
    spans = build_spans(25, [AWS], STEPS)
    assert max(s.end_s for s in spans) == 25
    assert [s.texts[0].text for s in by_level(spans, "task")] == [
        "we insert trocars",
        "we look around",
    ]


@given(
    start=st.floats(0, 100), length=st.floats(0.001, 50), least=st.floats(0.1, 30),
    duration=st.floats(1, 120),
)  # fmt: skip
def test_a_window_contains_its_speech_and_stays_in_the_video(
    start: float, length: float, least: float, duration: float
) -> None:
    if start >= duration - 1e-3:
        return
    end = min(start + length, duration)
    a, b = window(start, end, least, duration)
    assert 0 <= a <= start + 1e-9
    assert end <= b <= duration + 1e-9
    assert b - a >= min(least, duration) - 1e-6


times = st.tuples(st.integers(0, 300), st.integers(1, 60)).map(lambda t: (t[0], t[0] + t[1]))
talks = st.lists(times.map(lambda t: Utterance("said", *map(float, t))), max_size=12)
outlines = st.lists(
    st.builds(
        lambda t, p, s: KeyStep(float(t[0]), float(t[1]), p, s, "text"),
        times, st.sampled_from(["a", "b", "out_of_body"]), st.sampled_from(["", "s", "t"]),
    ),
    max_size=8,
).map(lambda rows: sorted(rows, key=lambda r: (r.start_s, r.end_s)))  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(aws=talks, srt=talks, steps=outlines, duration=st.integers(1, 320), fps=st.floats(0.1, 2))
def test_every_lecture_gives_sound_spans(
    aws: list[Utterance], srt: list[Utterance], steps: list[KeyStep], duration: int, fps: float
) -> None:
    transcripts = [Transcript("aws", tuple(aws)), Transcript("srt", tuple(srt))]
    spans = build_spans(duration, transcripts, steps)
    assert spans == build_spans(duration, transcripts[::-1], steps)
    grid = [k / fps for k in range(int(duration * fps) + 1) if k / fps < duration]
    kept = keep_visible(spans, grid)
    order = {"phase": 0, "step": 1, "task": 2}
    for found in (spans, kept):
        for span in found:
            assert 0 <= span.start_s < span.end_s <= duration
            if span.parent is not None:
                parent = found[span.parent]
                assert order[parent.level] < order[span.level]
                assert min(span.end_s, parent.end_s) > max(span.start_s, parent.start_s)
    for span in kept:
        assert any(span.start_s <= t < span.end_s for t in grid)
    for span in spans:
        if span.level == "task":
            own = span.texts[0]
            assert own.start_s is not None
            assert own.end_s is not None
            assert span.start_s <= own.start_s
            assert span.end_s >= min(own.end_s, duration)


def test_lost_clips_hand_their_children_to_their_parents() -> None:
    spans = (
        Span("phase", 0, 10, ()),
        Span("step", 4.2, 4.8, (), parent=0),
        Span("task", 4, 8, (), parent=1),
    )
    assert keep_visible(spans, [0.0, 5.0]) == (spans[0], Span("task", 4, 8, (), parent=0))


@pytest.mark.parametrize(("lecture", "tasks"), [("vd01en1354e", 16), ("vd01en1382e", 26)])
def test_real_lectures_pair_two_recognisers(shared_data: Path, lecture: str, tasks: int) -> None:
    folder = shared_data / "surg_transcripts"
    transcripts = [
        read_transcript(folder / f"{name}_narration_texts/{lecture}.csv", recogniser=name)
        for name in ("aws", "whisper")
    ]
    steps = read_keysteps(folder / f"keystep_texts/{lecture}.csv")
    spans = build_spans(900.0, transcripts, steps)
    found = by_level(spans, "task")
    assert len(found) == tasks
    assert {s.texts[0].source for s in found} == {"aws"}
    paired = [s for s in found if any(t.source == "whisper" for t in s.texts)]
    assert len(paired) >= 0.9 * tasks
    assert sum(s.parent is not None for s in found) >= 0.9 * tasks
    assert len(by_level(spans, "phase")) == len(steps)
