"""Write one lecture's folder: video, two transcripts, captions, key steps, abstract."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_connectors.phantom.film import frames
from data_connectors.phantom.grammar import expand, pick
from data_connectors.phantom.identity import Person, draw_person
from data_connectors.phantom.movie import write_movie
from data_connectors.phantom.procedure import OUT_OF_BODY, PHASES, Stretch, draw_schedule
from data_connectors.phantom.recognisers import aws_json, breaths, hear, srt, vtt, whisper_json
from data_connectors.phantom.seeds import stream
from data_connectors.phantom.speech import speak

_ABSTRACTS = (
    "This [video|lecture] shows a laparoscopic [procedure|operation] step by step: {phases}. "
    "[The narration explains each step.|The operating time was {minutes} minutes.]",
    "[We present|The authors show] a laparoscopic operation with its [main|key] steps, {phases}. "
    "[Tips and pitfalls are discussed.|Recovery was uneventful.]",
)


@dataclass(frozen=True, slots=True)
class LectureRecord:
    """What is true of one lecture: a row of `truth.parquet`, and its canaries."""

    row: dict[str, Any]
    canaries: tuple[str, ...]


def write_lecture(out: Path, seed: int, index: int) -> LectureRecord:
    """Write lecture `index` under `out/lectures`."""

    def rng(stage: Any) -> np.random.Generator:
        return stream(seed, "lecture", index, stage)

    person = draw_person(rng("identity"), "lecture", index)
    schedule = draw_schedule(rng("schedule"))
    files = rng("files")
    fps = int(files.choice([8, 10]))
    # Some archives name their folders after the patient.
    name = f"lecture-{index:04d}"
    if files.uniform() < 0.2:
        name += f"-{person.family}"
    folder = out / "lectures" / name
    folder.mkdir(parents=True)
    count = write_movie(folder / "video.mp4", frames(rng("film"), schedule, fps), fps)
    duration = count / fps
    asr = _write_speech(folder, rng, schedule, person, duration, index)
    _write(folder / "keysteps.csv", _keysteps(schedule))
    _write(folder / "abstract.txt", _abstract(files, schedule) + "\n")
    row = {
        "kind": "lecture",
        "index": index,
        "patient_id": person.patient_id,
        "name": person.name,
        "folder": f"lectures/{name}",
        "fps": float(fps),
        "duration_s": duration,
        "steps": [asdict(stretch) for stretch in schedule],
        "phases": _phases(schedule),
        **asr,
    }
    return LectureRecord(row, (person.name, person.family))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))


def _write_speech(
    folder: Path, rng: Any, schedule: tuple[Stretch, ...], person: Person, duration: float,
    index: int,
) -> dict[str, Any]:  # fmt: skip
    """Both recognisers' files; returns the true sentences and the clocks' offsets."""
    sentences, words = speak(rng("speech"), schedule, person)
    names = frozenset(person.name.split())
    ears = rng("recogniser")
    whisper = hear(ears, words, names, duration, error=0.12, jitter_s=0.05, which=0, spell=False)
    aws = hear(ears, words, names, duration, error=0.2, jitter_s=0.02, which=1, spell=True)
    segments = breaths(ears, whisper)
    _write(folder / "whisper.json", whisper_json(ears, segments))
    _write(folder / "aws.json", aws_json(ears, aws, f"phantom-{index:04d}"))
    if index % 2:
        _write(folder / "captions.vtt", vtt(segments))
    else:
        _write(folder / "captions.srt", srt(segments))
    return {
        "sentences": [asdict(sentence) for sentence in sentences],
        "whisper_offset_s": whisper.offset_s,
        "aws_offset_s": aws.offset_s,
    }


def _keysteps(schedule: tuple[Stretch, ...]) -> str:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["start", "end", "phase", "step", "text"])
    for s in schedule:
        writer.writerow([f"{s.start_s:.1f}", f"{s.end_s:.1f}", s.phase, s.step, s.text])
    return table.getvalue()


def _phases(schedule: tuple[Stretch, ...]) -> list[dict[str, Any]]:
    """Consecutive steps of one phase, joined."""
    joined: list[dict[str, Any]] = []
    for s in schedule:
        if joined and joined[-1]["phase"] == s.phase:
            joined[-1]["end_s"] = s.end_s
        else:
            joined.append({"phase": s.phase, "start_s": s.start_s, "end_s": s.end_s})
    return joined


def _abstract(rng: np.random.Generator, schedule: tuple[Stretch, ...]) -> str:
    seen = dict.fromkeys(s.phase for s in schedule if s.phase != OUT_OF_BODY)
    phases = ", ".join(PHASES[phase].name for phase in seen)
    slots = {"phases": phases, "minutes": str(int(rng.integers(35, 90)))}
    return expand(pick(rng, _ABSTRACTS), rng, slots)
