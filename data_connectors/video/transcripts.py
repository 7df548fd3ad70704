"""What recognisers heard, from any of their file formats into one model.

    whisper   Whisper, faster-whisper and WhisperX JSON    `asr_json.py`
    aws       AWS Transcribe (Medical) JSON                `asr_json.py`
    srt, vtt  SubRip and WebVTT                            `subtitles.py`
    csv       `start,end,text` in seconds (SurgVLP)        `tables.py`

Nothing is dropped silently: one unreadable cue refuses the whole file, and the refusal says
where. Overlapping and empty utterances are kept; utterances come ordered by time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_connectors.video.asr_json import parse_aws, parse_whisper
from data_connectors.video.parsing import read_text, unreadable
from data_connectors.video.subtitles import parse_srt, parse_vtt
from data_connectors.video.tables import parse_utterances_csv
from medvlp.types import Transcript, Utterance


def read_transcript(path: Path, recogniser: str | None = None) -> Transcript:
    """Read one transcript file.

    Args:
        path: A file ending in `.json`, `.srt`, `.vtt` or `.csv`; which JSON it is, its keys say.
        recogniser: Name for its texts; by default the format's.

    Raises:
        InputError: `transcript-not-parseable` or `transcript-time-order`, with the place.
    """
    text = read_text(path, code="transcript-not-parseable")
    match path.suffix.lower():
        case ".srt":
            name, utterances = "srt", parse_srt(text)
        case ".vtt":
            name, utterances = "vtt", parse_vtt(text)
        case ".csv":
            name, utterances = "csv", parse_utterances_csv(text)
        case ".json":
            name, utterances = _parse_json(text)
        case suffix:
            raise unreadable(f"no transcript format has the ending {suffix!r}")
    ordered = sorted(utterances, key=lambda u: (u.start_s, u.end_s))
    return Transcript(recogniser or name, tuple(ordered))


def _parse_json(text: str) -> tuple[str, tuple[Utterance, ...]]:
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise unreadable("not valid JSON", line=line) from None
    parse: Callable[[Any], tuple[Utterance, ...]]
    name, parse = "whisper", parse_whisper
    if isinstance(tree, dict) and "results" in tree:
        name, parse = "aws", parse_aws
    return name, parse(tree)
