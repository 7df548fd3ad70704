"""Credentials: read late, shown never."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from data_connectors.pacs.source import Credentials
from medvlp.errors import ConfigError

_LONGEST = 16_384


class Secret:
    """The value of an `Authorization` header; prints as nothing."""

    __slots__ = ("_header",)

    def __init__(self, header: str) -> None:
        self._header = header

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret does not travel")

    @property
    def header(self) -> str:
        """For the one origin that it belongs to."""
        return self._header


def read_secret(credentials: Credentials) -> Secret:
    """The secret that a config names; paths are absolute by now.

    Raises:
        ConfigError: It is missing, readable by others, or of the wrong form.
    """
    text = _of_file(credentials.file) if credentials.file else _of_env(credentials.env or "")
    text = text.strip("\r\n")
    if not text or any(ord(letter) < 32 for letter in text):
        raise ConfigError("the credentials are empty or not one line", code="pacs-secret-form")
    if credentials.scheme == "bearer":
        if not text.isascii() or " " in text:
            raise ConfigError("a bearer token is one ASCII word", code="pacs-secret-form")
        return Secret(f"Bearer {text}")
    if ":" not in text:
        raise ConfigError("basic credentials read user:password", code="pacs-secret-form")
    return Secret("Basic " + base64.b64encode(text.encode()).decode())


def _of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077:
                raise ConfigError(
                    "others may read the credentials file", code="pacs-secret-open",
                    got=f"mode {stat.S_IMODE(state.st_mode):04o}", limit="0600",
                    next_step="chmod 600 it, and change the password if others had access",
                )  # fmt: skip
            return file.read(_LONGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the credentials file cannot be read ({type(error).__name__})",
            code="pacs-secret-missing", next_step="its path is relative to the config file",
        ) from None  # fmt: skip


def _of_env(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            "the environment variable of the credentials is not set",
            code="pacs-secret-missing", got=name,
        )  # fmt: skip
    return value
