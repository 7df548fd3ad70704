"""How what a model says is named in DICOM: coded concepts and the identity of the algorithm."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from downstream.prompting import concept_name
from medvlp import __version__
from medvlp.errors import DependencyError

SCHEME: Final = "99MEDVLP"
"""Our private coding scheme (PS3.16 chapter 8: `99` and a name): its codes are the concept ids of
the knowledge book, which names no codes of other schemes."""
MAKER: Final = "medvlp"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Which model said it, and how it was asked."""

    model_digest: str
    prompt_digest: str


def highdicom() -> Any:
    """The library that writes SEG and SR.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise DependencyError(
            "DICOM SEG and SR need highdicom", code="dependency-missing", got="highdicom",
            next_step="pip install 'medvlp[seg]', or use --no-dicom",
        ) from None  # fmt: skip
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # it tells identifiers as it goes
    return highdicom


def label_code(label: str) -> Any:
    """A label as a coded concept of our scheme."""
    value = re.sub(r"\W+", "_", label.strip().lower()).strip("_") or "label"
    return highdicom().sr.CodedConcept(value, SCHEME, concept_name(label)[:64])


def own_code(value: str, meaning: str) -> Any:
    """Any other concept of our scheme."""
    return highdicom().sr.CodedConcept(value, SCHEME, meaning)


def algorithm_identification(algorithm: Algorithm) -> Any:
    """Name, version and digests, as PS3.3 10.16 wants them."""
    from pydicom.sr.codedict import codes

    return highdicom().AlgorithmIdentificationSequence(
        name="medvlp zero-shot",
        family=codes.cid7162.ArtificialIntelligence,
        version=__version__,
        source=MAKER,
        parameters={"model": algorithm.model_digest, "prompts": algorithm.prompt_digest},
    )


def scheme_identification() -> Any:
    """Says whose scheme `SCHEME` is (PS3.3 C.12.1.1.1)."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = "Concepts of the medvlp knowledge book"
    item.CodingSchemeVersion = __version__
    item.CodingSchemeResponsibleOrganization = MAKER
    return Sequence([item])
