"""Narrated lectures: a folder each (`folder`), or the SurgVLP layout (`svl`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_connectors.items import Identity, Item, Refused, VisualItem
from data_connectors.source import Unit
from data_connectors.video.files import VIDEO_SUFFIXES, listed, refused, unit, unknown
from data_connectors.video.frames import store_video
from data_connectors.video.hierarchy import Rules, build_spans, keep_visible
from data_connectors.video.source import LecturesSource
from data_connectors.video.tables import KeyStep, read_abstract, read_keysteps
from data_connectors.video.transcripts import read_transcript
from medvlp.errors import InputError
from medvlp.types import Geometry, Text, Transcript

_SVL = {
    "aws_narration_texts": "aws",
    "whisper_narration_texts": "whisper",
    "keystep_texts": "keysteps",
    "abstract_texts": "abstract",
}


@dataclass(slots=True)
class LectureTexts:
    """Everything written or said about one lecture, and the files that could not be read."""

    transcripts: list[Transcript] = field(default_factory=list)
    keysteps: tuple[KeyStep, ...] = ()
    abstract: str = ""
    used: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)


def find_folders(source: LecturesSource) -> Iterator[Unit | Refused]:
    """One unit a sub-folder; files beside the sub-folders belong to no lecture."""
    yield from unknown(name for name in listed(source.path) if "/" not in name)
    folders = defaultdict(list)
    for name in listed(source.path):
        if "/" in name:
            folders[name.split("/")[0]].append(name)
    for folder, names in sorted(folders.items()):
        yield from _lecture(source, folder, names)


def find_svl(source: LecturesSource) -> Iterator[Unit | Refused]:
    """One unit a file stem over the layout's folders."""
    lectures = defaultdict(list)
    others = []
    for name in listed(source.path):
        path = PurePosixPath(name)
        if len(path.parts) == 2 and path.parts[0] in {*_SVL, "videos"}:
            lectures[path.stem].append(name)
        else:
            others.append(name)
    yield from unknown(others)
    for stem, names in sorted(lectures.items()):
        yield from _lecture(source, stem, names)


def _lecture(source: LecturesSource, name: str, inputs: list[str]) -> Iterator[Unit | Refused]:
    videos = [n for n in inputs if role(n) == "video"]
    if len(videos) != 1:
        yield Refused(
            "video-missing" if not videos else "video-several",
            "a lecture has texts but no video" if not videos else "a lecture has several videos",
            "put its recording beside its texts" if not videos else "join them into one file",
            tuple(inputs),
        )
        return
    yield unit(source.path, inputs, hint=name)


def role(name: str) -> str | None:
    """What a file is to its lecture: video, keysteps, abstract, a recogniser's name, or None."""
    path = PurePosixPath(name)
    suffix, stem = path.suffix.lower(), path.stem.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if path.parts[0] in _SVL and suffix == ".csv":
        return _SVL[path.parts[0]]
    match suffix:
        case ".json" if stem in {"aws", "whisper", "whisperx", "faster-whisper"}:
            return "aws" if stem == "aws" else "whisper"
        case ".srt" | ".vtt":
            return suffix[1:] if stem in {"captions", "video"} else stem
        case ".csv" if stem == "keysteps":
            return "keysteps"
        case ".txt" if stem == "abstract":
            return "abstract"
    return None


def read_texts(root: Path, inputs: tuple[str, ...]) -> LectureTexts:
    """Read every text of a lecture; a file that cannot be read is refused, the others are used."""
    texts = LectureTexts()
    for name in inputs:
        kind = role(name)
        if kind is None or kind == "video":
            continue
        try:
            if kind == "keysteps":
                texts.keysteps = read_keysteps(root / name)
            elif kind == "abstract":
                texts.abstract = read_abstract(root / name)
            else:
                texts.transcripts.append(read_transcript(root / name, recogniser=kind))
            texts.used.append(name)
        except InputError as error:
            texts.refusals.append(refused(error, [name]))
    return texts


def read_lecture(source: LecturesSource, item: Unit) -> Iterator[Item]:
    """Decode one lecture and cut its clips; unreadable texts are refused one by one."""
    yield from unknown(n for n in item.inputs if role(n) is None)
    texts = read_texts(source.path, item.inputs)
    yield from texts.refusals
    video = next(n for n in item.inputs if role(n) == "video")
    used = tuple(sorted([video, *texts.used]))
    try:
        media, stored = store_video(source.path / video, source)
    except InputError as error:
        yield refused(error, used)
        return
    spans = build_spans(media.duration_s, texts.transcripts, texts.keysteps, rules_of(source))
    about = (
        (Text("video", "abstract", texts.abstract, 0.0, media.duration_s),)
        if texts.abstract
        else ()
    )
    yield VisualItem(
        identity=Identity(patient=source.patient_of(item.hint), study=item.hint),
        kind="clip",
        modality=source.modality_code,
        payload=stored.payload,
        geometry=Geometry(
            shape=stored.shape, start_s=0.0, end_s=media.duration_s, fps=source.fps, unit="rgb"
        ),
        inputs=used,
        digest=stored.digest,
        texts=about,
        spans=keep_visible(spans, stored.times_s),
        licence=source.licence,
        provenance=source.name,
    )


def rules_of(source: LecturesSource) -> Rules:
    """The clip-cutting keys of a source."""
    return Rules(source.min_clip_s, source.max_clip_s, source.narrations, source.out_of_body)
