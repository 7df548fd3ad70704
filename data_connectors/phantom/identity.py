"""Invented people. Every identifier is unique, belongs to nobody, and is listed as a canary.

Names are built of syllables so that no ordinary word, library or drug is called so: a search for
them finds leaks and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from data_connectors.phantom.seeds import Subject

_HEADS = (
    "Quor", "Zelm", "Vrand", "Thwix", "Brulk", "Ostrev", "Yarm", "Klond", "Fjelt", "Umbral",
    "Grevn", "Axth", "Pludd", "Wyrm", "Skald", "Dvorn", "Jhask", "Nivv", "Hruse", "Eltz",
    "Mzar", "Corv", "Bexl", "Tuvw", "Rhogg", "Ipsk", "Lorv", "Szend", "Fyrn", "Okvar",
)  # fmt: skip
_MIDDLES = (
    "aki", "ebo", "ilu", "ozu", "uwe", "yro", "anqu", "evro", "igha", "ombi",
    "urza", "ysto", "adwe", "ekko", "ivva", "olze", "uphi", "ynna", "arju", "elqu",
    "ibro", "otza", "umfe", "yxa", "awro", "etho", "isko", "ovja", "ugre", "ydla",
)  # fmt: skip
_TAILS = ("dvist", "nqvar", "lstromm", "ggan", "rovitz", "mbeck", "zzoni", "thwaite", "kkonen",
          "jarsk", "xley", "pfeldt", "vrede", "quist", "nskyv", "hoorn")  # fmt: skip
_GIVEN = ("Alvexa", "Brynoj", "Cazimo", "Dorvela", "Eskander", "Fenniqa", "Gudvar", "Hesperyn",
          "Ixandra", "Jorvik", "Kaluze", "Leontyx", "Mirwen", "Nazquil", "Odelynn", "Pyrrin",
          "Quillox", "Rozmund", "Sveyla", "Tavish", "Ulrike", "Vendrel", "Wolmar", "Xanthe",
          "Yvaine", "Zorah")  # fmt: skip
_ACCENTED = {"a": "á", "e": "é", "o": "ö", "u": "ü"}


@dataclass(frozen=True, slots=True)
class Person:
    """A patient and one examination or operation of theirs."""

    given: str
    family: str
    sex: str
    birth: date
    patient_id: str
    accession: str
    phone: str
    referring: str
    """Family name of the referring physician."""
    examined: date
    previous: date
    clock: str
    """Time of the examination, HHMMSS."""
    uid_number: str
    """What makes this patient's DICOM UIDs unique."""

    @property
    def name(self) -> str:
        """Given and family name."""
        return f"{self.given} {self.family}"

    @property
    def dicom_name(self) -> str:
        """As value representation PN."""
        return f"{self.family}^{self.given}"

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return f"2.25.{self.uid_number}"

    def series_uid(self, series: int) -> str:
        """SeriesInstanceUID."""
        return f"{self.study_uid}.{series}"

    def instance_uid(self, series: int, instance: int) -> str:
        """SOPInstanceUID."""
        return f"{self.series_uid(series)}.{instance}"

    @property
    def canaries(self) -> tuple[str, ...]:
        """Strings that must not be found in anything made from this patient's data.

        All UIDs hold the one number, all forms of the name hold the family name.
        """
        return (
            self.name,
            self.family,
            self.referring,
            self.patient_id,
            self.accession,
            self.birth.isoformat(),
            f"{self.birth:%Y%m%d}",
            self.phone,
            self.uid_number,
        )


def draw_person(rng: np.random.Generator, subject: Subject, index: int) -> Person:
    """Somebody who does not exist; the index is spelt into the names and numbers."""
    examined = date(2023, 1, 2) + timedelta(days=int(rng.integers(0, 700)))
    age = int(rng.integers(19, 89)) * 365 + int(rng.integers(0, 365))
    series = 0 if subject == "patient" else 1
    serial = index * 2 + series
    digits = "".join(str(digit) for digit in rng.integers(0, 10, 30))
    return Person(
        given=str(rng.choice(_GIVEN)),
        family=_family(rng, serial, accent=rng.uniform() < 0.12),
        sex=str(rng.choice(["F", "M"])),
        birth=examined - timedelta(days=age),
        patient_id=f"PH{rng.integers(10, 100)}-{serial:05d}{rng.integers(0, 100):02d}",
        accession=f"AX{serial:05d}{rng.integers(0, 10_000):04d}",
        phone=f"+99 {rng.integers(100, 1000)} {serial:06d}",
        referring=_family(rng, serial + 20_000, accent=False),
        examined=examined,
        previous=examined - timedelta(days=int(rng.integers(5, 900))),
        clock=f"{rng.integers(7, 20):02d}{rng.integers(0, 60):02d}{rng.integers(0, 60):02d}",
        uid_number=f"{rng.integers(1, 10)}{digits[:29]}{serial:06d}",
    )


def _family(rng: np.random.Generator, serial: int, accent: bool) -> str:
    """A family name that no other serial number has: syllables are its digits."""
    rest, head = divmod(serial, len(_HEADS))
    rest, middle = divmod(rest, len(_MIDDLES))
    name = _HEADS[head] + _MIDDLES[middle]
    if rest:
        name += _MIDDLES[(rest - 1) % len(_MIDDLES)] + _MIDDLES[(rest - 1) // len(_MIDDLES)]
    name += str(rng.choice(_TAILS))
    if accent:
        for plain, marked in _ACCENTED.items():
            if plain in name[2:]:
                return name[:2] + name[2:].replace(plain, marked, 1)
    return name
