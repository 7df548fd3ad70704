"""Where every random number of the phantom comes from.

A stream is named by (seed, kind, index, stage): patient 7 is the same whatever the number of
patients, of processes, or of draws made in another stage.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Subject = Literal["patient", "lecture"]
Stage = Literal[
    "identity", "anatomy", "findings", "acquisition", "noise", "report", "files",
    "schedule", "scene", "film", "speech", "recogniser",
]  # fmt: skip

_SUBJECTS: tuple[Subject, ...] = ("patient", "lecture")
_STAGES: tuple[Stage, ...] = (
    "identity", "anatomy", "findings", "acquisition", "noise", "report", "files",
    "schedule", "scene", "film", "speech", "recogniser",
)  # fmt: skip


def stream(seed: int, subject: Subject, index: int, stage: Stage) -> np.random.Generator:
    """The generator of one stage of one patient or lecture.

    The order of the names above is part of what a seed means: new ones go to the end.
    """
    entropy = [seed, _SUBJECTS.index(subject), index, _STAGES.index(stage)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
