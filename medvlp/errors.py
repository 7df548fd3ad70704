"""The exception tree.

    MedvlpError
    ├── ConfigError        a config file or an override is wrong
    ├── InputError         one input cannot be used: it goes to quarantine, the rest goes on
    │   └── GeometryError  a series does not form a volume
    ├── ArchiveError       an archive on the network cannot be asked: nothing is decided, try again
    ├── DatasetError       a dataset folder is missing, broken or of another schema
    ├── CheckpointError    a run or checkpoint cannot be loaded
    ├── IntegrityError     bytes are not what a manifest or audit log says
    ├── GateError          a release gate refuses
    └── DependencyError    an optional dependency or system library is missing

Every error has a stable kebab-case code that other programs may rely on, and says what, got,
limit and next step in one line. Messages never carry patient data: name a file by its pseudonym
or its position, never by its content.
"""

from __future__ import annotations

from typing import ClassVar


class MedvlpError(Exception):
    """Base of every error a user can meet.

    Args:
        what: What is wrong, one clause.
        code: Stable code; defaults to the class's own.
        got: The offending value, free of patient data.
        limit: What would have been accepted.
        next_step: What the user can do.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        what: str,
        *,
        code: str | None = None,
        got: object = None,
        limit: object = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.code = code or self.default_code
        self.got = got
        self.limit = limit
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.limit is not None:
            parts.append(f"limit {self.limit}")
        if self.next_step is not None:
            parts.append(f"next: {self.next_step}")
        return f"[{self.code}] " + "; ".join(part.replace("\n", " ") for part in parts)


class ConfigError(MedvlpError):
    """A config file or an override is wrong."""

    default_code = "config-invalid"


class InputError(MedvlpError):
    """One input cannot be used; it is quarantined and the rest goes on."""

    default_code = "input-unusable"


class GeometryError(InputError):
    """A series does not form a volume."""

    default_code = "series-geometry"


class ArchiveError(MedvlpError):
    """An archive on the network cannot be asked; the same command goes on where it stopped."""

    default_code = "pacs-unreachable"


class DatasetError(MedvlpError):
    """A dataset folder is missing, broken or of another schema."""

    default_code = "dataset-invalid"


class CheckpointError(MedvlpError):
    """A run or checkpoint cannot be loaded."""

    default_code = "checkpoint-invalid"


class IntegrityError(MedvlpError):
    """Bytes are not what a manifest or audit log says."""

    default_code = "integrity-mismatch"


class GateError(MedvlpError):
    """A release gate refuses."""

    default_code = "gate-refused"


class DependencyError(MedvlpError):
    """An optional dependency or a system library is missing."""

    default_code = "dependency-missing"
