"""Recognisers' JSON: Whisper, faster-whisper, WhisperX; AWS Transcribe."""

from __future__ import annotations

from typing import Any

from data_connectors.video.parsing import in_order, seconds, unreadable, utterance
from medvlp.types import Utterance, Word

PAUSE_S = 1.5
"""A silence this long ends a sentence that AWS did not punctuate."""


def parse_whisper(tree: Any) -> tuple[Utterance, ...]:
    """Whisper's `{"segments": [{start, end, text, words?}]}`, or the bare list of segments.

    WhisperX leaves out the times of words that it could not align (numbers, symbols): these are
    interpolated by length between their neighbours, and marked.

    Raises:
        InputError: `transcript-not-parseable`, `transcript-time-order`.
    """
    segments = tree.get("segments") if isinstance(tree, dict) else tree
    if not isinstance(segments, list):
        raise unreadable("neither a Whisper nor an AWS transcript: no list of segments")
    return tuple(_segment(s, f"segment {i}") for i, s in enumerate(segments))


def _segment(segment: Any, where: str) -> Utterance:
    if not isinstance(segment, dict) or not isinstance(segment.get("text"), str):
        raise unreadable(f"{where}: no text")
    start_s = seconds(segment.get("start"), where)
    end_s = seconds(segment.get("end"), where)
    in_order(start_s, end_s, where)
    words = segment.get("words") or []
    if not isinstance(words, list):
        raise unreadable(f"{where}: its words are no list")
    timed = [_word(w, f"{where}, word {i}") for i, w in enumerate(words)]
    return utterance(segment["text"], start_s, end_s, where, interpolate(timed, start_s, end_s))


def _word(word: Any, where: str) -> Word:
    text = word.get("word", word.get("text")) if isinstance(word, dict) else None
    if not isinstance(text, str):
        raise unreadable(f"{where}: no text")
    times = [None if word.get(k) is None else seconds(word[k], where) for k in ("start", "end")]
    if times[0] is not None and times[1] is not None:
        in_order(times[0], times[1], where, instant=True)
    return Word(text.strip(), times[0], times[1])


def interpolate(words: list[Word], start_s: float, end_s: float) -> tuple[Word, ...]:
    """Give times to words that have none, by their number of characters, and mark them.

    Args:
        words: In spoken order; times may be None.
        start_s: When the utterance starts, for words missing at its beginning.
        end_s: When it ends.
    """
    done: list[Word] = []
    i = 0
    while i < len(words):
        if words[i].start_s is not None and words[i].end_s is not None:
            done.append(words[i])
            i += 1
            continue
        run = i
        while run < len(words) and (words[run].start_s is None or words[run].end_s is None):
            run += 1
        left = done[-1].end_s if done else start_s
        right = words[run].start_s if run < len(words) else end_s
        assert left is not None
        assert right is not None
        done += _spread(words[i:run], left, max(left, right))
        i = run
    return tuple(done)


def _spread(words: list[Word], left: float, right: float) -> list[Word]:
    """Words over a stretch of time, in proportion to their characters."""
    total = sum(max(1, len(w.text)) for w in words)
    spread, place = [], 0
    for word in words:
        start_s = left + (right - left) * place / total
        place += max(1, len(word.text))
        end_s = left + (right - left) * place / total
        # One time may be known: it is kept where it agrees with the order of the words.
        start_s = start_s if word.start_s is None else word.start_s
        end_s = end_s if word.end_s is None else word.end_s
        spread.append(Word(word.text, start_s, max(start_s, end_s), interpolated=True))
    return spread


def parse_aws(tree: Any) -> tuple[Utterance, ...]:
    """AWS Transcribe's `{"results": {"items": [...], "audio_segments": [...]}}`.

    Items become sentences: they end at `.`, `?`, `!` or at a pause of `PAUSE_S`. Where a job has
    no items, its audio segments are the utterances. Of an item's alternatives the first, which
    AWS ranks highest, is taken.

    Raises:
        InputError: `transcript-not-parseable`, `transcript-time-order`.
    """
    results = tree.get("results")
    status = tree.get("status", "COMPLETED")
    if not isinstance(results, dict) or status != "COMPLETED":
        raise unreadable("no results of a completed AWS Transcribe job")
    items = results.get("items") or []
    segments = results.get("audio_segments") or []
    if not isinstance(items, list) or not isinstance(segments, list):
        raise unreadable("AWS items and audio segments must be lists")
    if not items:
        return tuple(_audio_segment(s, f"audio segment {i}") for i, s in enumerate(segments))
    return _sentences(items)


def _audio_segment(segment: Any, where: str) -> Utterance:
    if not isinstance(segment, dict) or not isinstance(segment.get("transcript"), str):
        raise unreadable(f"{where}: no transcript")
    start_s = seconds(segment.get("start_time"), where)
    return utterance(segment["transcript"], start_s, seconds(segment.get("end_time"), where), where)


def _sentences(items: list[Any]) -> tuple[Utterance, ...]:
    sentences: list[Utterance] = []
    words: list[Word] = []
    text = ""
    first = 0

    def close() -> None:
        nonlocal words, text
        if words:
            start_s, end_s = words[0].start_s, words[-1].end_s
            assert start_s is not None
            assert end_s is not None
            sentences.append(utterance(text, start_s, end_s, f"item {first}", tuple(words)))
        elif text:
            raise unreadable(f"item {first}: punctuation before any word")
        words, text = [], ""

    for i, item in enumerate(items):
        content, kind = _content(item, f"item {i}")
        if kind == "punctuation":
            text += content
            if content in {".", "?", "!"}:
                close()
            continue
        start_s = seconds(item.get("start_time"), f"item {i}")
        end_s = seconds(item.get("end_time"), f"item {i}")
        in_order(start_s, end_s, f"item {i}", instant=True)
        if words and start_s - (words[-1].end_s or 0.0) > PAUSE_S:
            close()
        first = first if words else i
        words.append(Word(content, start_s, end_s))
        text += f" {content}"
    close()
    return tuple(sentences)


def _content(item: Any, where: str) -> tuple[str, str]:
    alternatives = item.get("alternatives") if isinstance(item, dict) else None
    if not isinstance(alternatives, list) or not alternatives:
        raise unreadable(f"{where}: no alternatives")
    content = alternatives[0].get("content") if isinstance(alternatives[0], dict) else None
    kind = item.get("type")
    if not isinstance(content, str) or kind not in {"pronunciation", "punctuation"}:
        raise unreadable(f"{where}: no content, or an unknown type")
    return content, kind
