"""Looks at the headers of a source on the engine: in parallel, guarded, and never twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from data_connectors.files import Files
from data_connectors.ingest.notes import Notes
from data_connectors.ingest.processes import Engine, Lost
from data_connectors.ingest.progress import Meter, shown
from data_connectors.source import Chunk
from medvlp import __version__

LOOK_S: Final = 120.0
"""A process that looks at the headers of one chunk of files for longer than this is stuck."""


class Scout:
    """A `Spread`: looks at chunks of a source on the engine, and at none of them twice."""

    def __init__(self, engine: Engine, notes: Notes, files: Files) -> None:
        self._engine = engine
        self._notes = notes
        self._files = files

    def __call__(
        self, look: Callable[[Chunk], str], chunks: Sequence[Chunk]
    ) -> Iterator[str | None]:
        """Yield what `look` says of each chunk, in order; None where its process was lost."""
        keys = [self._key(look, chunk) for chunk in chunks]
        known = [self._notes.get(key) is not None for key in keys]
        todo = [chunk for chunk, there in zip(chunks, known, strict=True) if not there]
        answers = self._engine.map(look, todo, timeout_s=LOOK_S)
        sizes = [self._size(chunk) for chunk in chunks]
        meter = Meter("looking", "files", sum(n for n, _ in sizes), sum(s for _, s in sizes))
        with shown(meter) as shows:
            for key, there, size in zip(keys, known, sizes, strict=True):
                text = self._notes.get(key) if there else None
                if text is None:
                    answer = next(answers)
                    text = None if isinstance(answer, Lost) else answer
                    if text is not None:
                        self._notes.put(key, text)
                (shows.skip if there else shows.add)(*size)
                yield text

    def _key(self, look: Callable[[Chunk], str], chunk: Chunk) -> str:
        how = chunk.source.model_dump_json(exclude={"path"})
        facts = json.dumps([__version__, look.__module__, how, self._state(chunk)])
        return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()

    def _state(self, chunk: Chunk) -> list[tuple[Any, ...]]:
        return [(name, *self._files.get(name, (-1, -1))) for name in chunk.names]

    def _size(self, chunk: Chunk) -> tuple[int, int]:
        state = self._state(chunk)
        return len(state), sum(max(0, size) for _, size, _ in state)
