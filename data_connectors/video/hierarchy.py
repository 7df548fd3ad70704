"""From transcripts and key steps to clips at three levels: phase, step, task.

    task   one utterance of the main recogniser, its window widened to `min_clip_s`; its texts
           are the utterance and what the other recognisers heard meanwhile (SurgVLP pairing)
    step   one key step; its texts are its own and sentences narrated during it
    phase  consecutive key steps of one phase; likewise (HecVL: parent text, then child texts)

The first text of a clip is of the clip's own level. Stretches outside the body carry a label
and no text.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_connectors.items import Span
from data_connectors.video.tables import KeyStep, identifier
from medvlp.types import Text, Transcript, Utterance

log = logging.getLogger(__name__)

OUT_OF_BODY = "out_of_body"
MERGE_GAP_S = 5.0
"""Key steps of one phase that are this close belong to one stretch of it."""
SHARED_S = 0.5
"""Two recognisers' sentences that overlap this long were heard at the same moment."""
_RANK = ("aws", "whisper", "vtt", "srt")
"""Which recogniser's sentences make the clips: AWS segments by sentence, the others by breath."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How clips are cut; the keys of `LecturesSource` of the same names."""

    min_clip_s: float = 4.0
    max_clip_s: float = 120.0
    narrations: int = 8
    out_of_body: tuple[str, ...] = (OUT_OF_BODY,)


def build_spans(
    duration_s: float,
    transcripts: Sequence[Transcript],
    keysteps: Sequence[KeyStep],
    rules: Rules | None = None,
) -> tuple[Span, ...]:
    """The clips of one lecture: phases, then steps, then tasks, each by time.

    Args:
        duration_s: Length of the video; every span satisfies 0 <= start < end <= duration.
        transcripts: One a recogniser, in any order.
        keysteps: The outline, ordered by time.
        rules: How clips are cut.

    Returns:
        Spans whose `parent` is the index of the span of the next higher level that they overlap
        most, or None.
    """
    rules = rules or Rules()
    ranked = sorted(transcripts, key=lambda t: (_rank(t.recogniser), t.recogniser))
    main = ranked[0] if ranked else None
    steps = [s for k in keysteps if (s := _clipped(k, duration_s)) is not None]
    outside = [s for s in steps if _is_outside(s, rules)]
    narration = _usable(main, outside, duration_s) if main else []
    name = main.recogniser if main else ""

    spans = [_outside_span(s) for s in outside]
    phases = [_phase_span(run, narration, name, rules) for run in _phase_runs(steps, rules)]
    spans += phases
    first_phase = len(outside)
    inner = [
        _step_span(s, narration, name, rules) for s in steps if s.step and not _is_outside(s, rules)
    ]
    first_step = len(spans)
    spans += [replace(s, parent=_enclosing(s, phases, first_phase)) for s in inner]
    tasks = _task_spans(narration, name, ranked[1:], duration_s, rules)
    for task in tasks:
        parent = _enclosing(task, inner, first_step)
        parent = _enclosing(task, phases, first_phase) if parent is None else parent
        spans.append(replace(task, parent=parent))
    return tuple(spans)


def keep_visible(spans: Sequence[Span], times_s: Sequence[float]) -> tuple[Span, ...]:
    """The spans that hold at least one stored picture; parents are re-linked past lost ones.

    Args:
        spans: With parents anywhere in the sequence.
        times_s: Times of the stored pictures, ascending.
    """
    seen = [bisect_left(times_s, s.start_s) < bisect_left(times_s, s.end_s) for s in spans]
    place = {old: new for new, old in enumerate(i for i, ok in enumerate(seen) if ok)}
    kept = []
    for span, ok in zip(spans, seen, strict=True):
        if not ok:
            continue
        parent = span.parent
        while parent is not None and not seen[parent]:
            parent = spans[parent].parent
        kept.append(replace(span, parent=None if parent is None else place[parent]))
    if len(kept) < len(spans):
        log.info("%d of %d clips show no stored picture", len(spans) - len(kept), len(spans))
    return tuple(kept)


def window(
    start_s: float, end_s: float, at_least_s: float, duration_s: float
) -> tuple[float, float]:
    """A stretch of time widened evenly to a length, moved inside the video where it sticks out.

    The result contains the part of the stretch that lies in [0, duration].
    """
    start_s, end_s = max(0.0, start_s), min(end_s, duration_s)
    spare = max(0.0, at_least_s - (end_s - start_s)) / 2
    left, right = start_s - spare, end_s + spare
    if left < 0:
        left, right = 0.0, right - left
    if right > duration_s:
        left, right = max(0.0, left - (right - duration_s)), duration_s
    return left, max(right, end_s)


def _rank(recogniser: str) -> int:
    return _RANK.index(recogniser) if recogniser in _RANK else len(_RANK)


def _clipped(step: KeyStep, duration_s: float) -> KeyStep | None:
    if step.start_s >= duration_s:
        log.info("a key step lies behind the end of the video")
        return None
    return replace(step, end_s=min(step.end_s, duration_s))


def _is_outside(step: KeyStep, rules: Rules) -> bool:
    names = {*rules.out_of_body, OUT_OF_BODY}
    return bool(names & {identifier(step.phase), identifier(step.step)})


def _overlap(a: Utterance | KeyStep | Span, b: Utterance | KeyStep | Span) -> float:
    return max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))


def _enclosing(span: Span, parents: Sequence[Span], first: int) -> int | None:
    """Index, counted from `first`, of the parent with the largest overlap; the earlier wins."""
    overlaps = [_overlap(span, p) for p in parents]
    best = max(overlaps, default=0.0)
    return first + overlaps.index(best) if best > 0 else None


def _usable(main: Transcript, outside: Sequence[KeyStep], duration_s: float) -> list[Utterance]:
    """Utterances with words, in the video, and for their most part spoken inside the body."""
    usable = []
    for u in main.utterances:
        length = u.end_s - u.start_s
        away = sum(_overlap(u, s) for s in outside) > length / 2
        if u.text and u.start_s < duration_s and not away:
            usable.append(u)
    if len(usable) < len(main.utterances):
        log.info("%d of %d utterances are empty, outside the body or behind the video's end",
                 len(main.utterances) - len(usable), len(main.utterances))  # fmt: skip
    return usable


def _phase_runs(steps: Sequence[KeyStep], rules: Rules) -> list[list[KeyStep]]:
    """Consecutive rows of one phase; another phase, the outside or a gap ends a run."""
    runs: list[list[KeyStep]] = []
    last: KeyStep | None = None
    for step in steps:
        if _is_outside(step, rules) or not step.phase:
            last = None
            continue
        same = (
            last is not None
            and identifier(last.phase) == identifier(step.phase)
            and step.start_s - last.end_s <= MERGE_GAP_S
        )
        if same:
            runs[-1].append(step)
        else:
            runs.append([step])
        last = step
    return runs


def _outside_span(step: KeyStep) -> Span:
    return Span("phase", step.start_s, step.end_s, (), (OUT_OF_BODY,))


def _phase_span(
    run: Sequence[KeyStep], narration: Sequence[Utterance], source: str, rules: Rules
) -> Span:
    start_s, end_s = run[0].start_s, max(step.end_s for step in run)
    name = run[0].phase
    own = [Text("phase", "keysteps", _readable(name), start_s, end_s)]
    for step in run:
        said = step.text or _readable(step.step)
        if said and identifier(said) not in {identifier(t.text) for t in own}:
            own.append(Text("phase", "keysteps", said, step.start_s, step.end_s))
    texts = (*own, *_narrated(narration, source, start_s, end_s, rules.narrations))
    return Span("phase", start_s, end_s, texts, (f"phase:{identifier(name)}",))


def _step_span(step: KeyStep, narration: Sequence[Utterance], source: str, rules: Rules) -> Span:
    own = Text("step", "keysteps", step.text or _readable(step.step), step.start_s, step.end_s)
    said = _narrated(narration, source, step.start_s, step.end_s, rules.narrations)
    labels = (f"step:{identifier(step.step)}",)
    return Span("step", step.start_s, step.end_s, (own, *said), labels)


def _readable(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _narrated(
    narration: Sequence[Utterance], source: str, start_s: float, end_s: float, limit: int
) -> list[Text]:
    """Up to `limit` sentences whose middle lies in a stretch, evenly chosen over it."""
    inside = [u for u in narration if start_s <= (u.start_s + u.end_s) / 2 < end_s]
    if len(inside) > limit:
        inside = [inside[(2 * i + 1) * len(inside) // (2 * limit)] for i in range(limit)]
    return [Text("task", source, u.text, u.start_s, u.end_s) for u in inside]


def _task_spans(
    narration: Sequence[Utterance],
    source: str,
    others: Sequence[Transcript],
    duration_s: float,
    rules: Rules,
) -> list[Span]:
    spans = []
    for said in narration:
        if said.end_s - said.start_s > rules.max_clip_s:
            log.info("an utterance is longer than max_clip_s and makes no clip")
            continue
        start_s, end_s = window(said.start_s, said.end_s, rules.min_clip_s, duration_s)
        texts = (Text("task", source, said.text, said.start_s, said.end_s),)
        spans.append(Span("task", start_s, end_s, texts + _meanwhile(said, others)))
    return spans


def _meanwhile(said: Utterance, others: Sequence[Transcript]) -> tuple[Text, ...]:
    """What other recognisers heard during an utterance; subtitles made from one of them once.

    SurgVLP takes every sentence that touches the window; as recognisers cut speech without gaps,
    that lets in both neighbours. Here a sentence must share `SHARED_S`, or half of itself.
    """
    heard: dict[tuple[str, int], Text] = {}
    for other in others:
        for u in other.between(said.start_s, said.end_s):
            shortest = min(u.end_s - u.start_s, said.end_s - said.start_s)
            if u.text and _overlap(u, said) >= min(SHARED_S, shortest / 2):
                text = Text("task", other.recogniser, u.text, u.start_s, u.end_s)
                heard.setdefault((u.text, round(u.start_s * 1000)), text)
    return tuple(heard.values())
