"""Two speech recognisers that hear the same words differently, and the files they write.

Whisper (aligned by WhisperX): segments of a breath, digits as digits, and those without times.
AWS Transcribe: sentences, numbers spelt out, times as strings, punctuation without times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_connectors.phantom.speech import Spoken

_MISHEARD: dict[str, tuple[str, str]] = {
    "trocar": ("trocart", "throw car"),
    "cautery": ("quarterly", "artery"),
    "calot": ("callow", "carlo"),
    "cystic": ("sistic", "mystic"),
    "grasper": ("grasp her", "grass bar"),
    "peritoneum": ("peritoneal", "perry tonium"),
    "liver": ("lever", "deliver"),
    "duct": ("dock", "duck"),
    "gallbladder": ("gall bladder", "goal ladder"),
    "aspirate": ("as bright", "operate"),
    "hook": ("hoop", "book"),
    "clips": ("chips", "clip"),
    "clip": ("click", "lip"),
    "bag": ("back", "beg"),
    "retrieval": ("retreat all", "removal"),
    "epigastric": ("epic gastric", "gastric"),
    "scissors": ("sisters", "scissor"),
    "suture": ("future", "sutra"),
    "irrigate": ("navigate", "irritate"),
    "suction": ("section", "auction"),
    "needle": ("need all", "needles"),
    "specimen": ("specimens", "spaceman"),
    "fascia": ("fasha", "facial"),
}
_SPELT = {"0": "zero", "2": "two", "3": "three", "5": "five", "12": "twelve"}


@dataclass(frozen=True, slots=True)
class Heard:
    """What one recogniser made of the speech."""

    words: tuple[Spoken, ...]
    offset_s: float
    """How late its clock is."""


def hear(
    rng: np.random.Generator, words: tuple[Spoken, ...], protected: frozenset[str], end_s: float,
    *, error: float, jitter_s: float, which: int, spell: bool,
) -> Heard:  # fmt: skip
    """Recognise speech with errors.

    Args:
        rng: Randomness.
        words: What was said.
        protected: Words that are always heard right (names).
        end_s: Length of the recording; no time goes beyond.
        error: Chance that a confusable word is misheard; small words are dropped at a fifth of it.
        jitter_s: Standard deviation of word times.
        which: Which confusion (0 or 1) this recogniser makes.
        spell: Write numbers as words.
    """
    offset = rng.uniform(-0.25, 0.45)
    heard: list[Spoken] = []
    last = 0.0
    for word in words:
        text = word.text
        dropped = len(text) <= 3 and not word.after and rng.uniform() < error / 5
        if dropped and text not in protected:
            continue
        if text.lower() in _MISHEARD and text not in protected and rng.uniform() < error:
            text = _MISHEARD[text.lower()][which]
        if spell:
            text = _SPELT.get(text, text)
        start = max(last, word.start_s + offset + rng.normal(0, jitter_s))
        end = max(start + 0.04, word.end_s + offset + rng.normal(0, jitter_s))
        if end > end_s - 0.02:
            break
        last = end
        heard.append(replace(word, text=text, start_s=round(start, 3), end_s=round(end, 3)))
    return Heard(tuple(heard), round(offset, 3))


def breaths(rng: np.random.Generator, heard: Heard) -> list[list[Spoken]]:
    """Cut the words into Whisper's segments: at pauses, else every 7 to 16 words."""
    segments: list[list[Spoken]] = []
    limit = 0
    for word in heard.words:
        pause = bool(segments) and word.start_s - segments[-1][-1].end_s > 0.7
        if not segments or pause or len(segments[-1]) >= limit:
            segments.append([])
            limit = int(rng.integers(7, 17))
        segments[-1].append(word)
    return segments


def _shown(word: Spoken) -> str:
    return word.text + word.after


def whisper_json(rng: np.random.Generator, segments: list[list[Spoken]]) -> str:
    """The file that WhisperX writes after alignment."""
    tree: dict[str, Any] = {"segments": [], "word_segments": [], "language": "en"}
    for segment in segments:
        words = []
        for word in segment:
            entry: dict[str, Any] = {"word": _shown(word)}
            # The aligner has no characters for digits: no times.
            if not word.text.isdigit():
                entry["start"], entry["end"] = word.start_s, word.end_s
                entry["score"] = round(float(rng.uniform(0.45, 0.99)), 3)
            words.append(entry)
        tree["segments"].append(
            {
                "start": segment[0].start_s,
                "end": segment[-1].end_s,
                "text": " " + " ".join(map(_shown, segment)),
                "words": words,
            }
        )
        tree["word_segments"] += words
    return json.dumps(tree, ensure_ascii=False) + "\n"


def aws_json(rng: np.random.Generator, heard: Heard, job: str) -> str:
    """The file of a finished AWS Transcribe job."""
    items: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    sentence = -1
    for word in heard.words:
        if word.sentence != sentence:
            sentence = word.sentence
            segments.append({"id": len(segments), "transcript": "", "start_time": "",
                             "end_time": "", "items": []})  # fmt: skip
        segment = segments[-1]
        segment["items"].append(len(items))
        confidence = f"{rng.uniform(0.5, 1.0):.3f}"
        items.append(
            {
                "id": len(items),
                "type": "pronunciation",
                "alternatives": [{"confidence": confidence, "content": word.text}],
                "start_time": f"{word.start_s:.2f}",
                "end_time": f"{max(word.end_s, word.start_s + 0.01):.2f}",
            }
        )
        segment["start_time"] = segment["start_time"] or items[-1]["start_time"]
        segment["end_time"] = items[-1]["end_time"]
        segment["transcript"] += (" " if segment["transcript"] else "") + word.text
        if word.after:
            segment["items"].append(len(items))
            segment["transcript"] += word.after
            items.append(
                {
                    "id": len(items),
                    "type": "punctuation",
                    "alternatives": [{"confidence": "0.0", "content": word.after}],
                }
            )
    results = {
        "transcripts": [{"transcript": " ".join(s["transcript"] for s in segments)}],
        "items": items,
        "audio_segments": segments,
    }
    tree = {"jobName": job, "accountId": "000000000000", "status": "COMPLETED", "results": results}
    return json.dumps(tree, ensure_ascii=False) + "\n"


def srt(segments: list[list[Spoken]]) -> str:
    """SubRip captions."""
    blocks = []
    for number, segment in enumerate(segments, 1):
        start, end = _clock(segment[0].start_s, ","), _clock(segment[-1].end_s, ",")
        blocks.append(f"{number}\n{start} --> {end}\n{' '.join(map(_shown, segment))}\n")
    return "\n".join(blocks)


def vtt(segments: list[list[Spoken]]) -> str:
    """WebVTT captions (W3C): escaped text, a note, a cue setting."""
    blocks = ["WEBVTT\n", "NOTE automatic captions\n"]
    for segment in segments:
        start, end = _clock(segment[0].start_s, "."), _clock(segment[-1].end_s, ".")
        text = " ".join(map(_shown, segment)).replace("&", "&amp;").replace("<", "&lt;")
        blocks.append(f"{start} --> {end} line:90%\n{text}\n")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    total = round(seconds * 1000)
    hours, rest = divmod(total, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, milli = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milli:03d}"
