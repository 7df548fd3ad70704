"""pydicom without its voice: its warnings and log lines quote header values."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydicom import config

_lock = threading.RLock()
_inside = 0
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Accept odd values silently, and let no header value reach a log or a warning.

    pydicom's validation warnings contain the offending value, which may be a patient's name;
    every use of pydicom in this package happens inside this context. It is the same for all
    threads: the first one in makes it quiet, the last one out lets it speak again.
    """
    global _inside, _undo
    with _lock:
        _inside += 1
        if _inside == 1:
            _undo = ExitStack()
            _undo.enter_context(_silenced())
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _undo.close()


@contextmanager
def _silenced() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level, reading = logger.level, config.settings.reading_validation_mode
    logger.setLevel(logging.CRITICAL + 1)  # also silences the loggers below it
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        config.settings.reading_validation_mode = reading
