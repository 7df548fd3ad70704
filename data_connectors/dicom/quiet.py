"""pydicom without its voice: its warnings and log lines quote header values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config


@contextmanager
def quiet() -> Iterator[None]:
    """Accept odd values silently, and let no header value reach a log or a warning.

    pydicom's validation warnings contain the offending value, which may be a patient's name;
    every use of pydicom in this package happens inside this context.
    """
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
