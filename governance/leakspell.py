"""Every way in which a person or a program writes a name, a date or a number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from itertools import permutations
from typing import Final

_MONTHS: Final = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre"
    " diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre"
    " dicembre",
}
_UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae",
                                 "Ö": "Oe", "Ü": "Ue", "ø": "oe", "Ø": "Oe", "å": "aa",
                                 "Å": "Aa", "æ": "ae", "Æ": "Ae"})  # fmt: skip
_LETTERS: Final = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "đ": "d",
                                 "Đ": "D", "ł": "l", "Ł": "L", "ı": "i"})  # fmt: skip
_JOINTS: Final = (" ", ", ", ",", "_", "-", ".", "^", "", "; ", "+", "/")
_GAPS: Final = ("", "-", " ", ".", "/", "_")


def every_spelling(word: str) -> set[str]:
    """A canary in all its spellings, itself included."""
    found = {word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)}
    moment = _as_date(word)
    if moment is not None:
        found.update(_dates(moment))
    elif any(char.isdigit() for char in word):
        found.update(_numbers(word))
    else:
        for group in word.split("="):  # DICOM: alphabetic=ideographic=phonetic
            for variant in {group, group.translate(_UMLAUTS), _folded(group)}:
                found.update(_names(variant))
    return {spelt for spelt in found if spelt.strip()}


def _folded(text: str) -> str:
    """Accents taken off."""
    plain = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(char for char in plain if not unicodedata.combining(char))


def _names(name: str) -> Iterator[str]:
    yield name
    parts = [part for part in re.split(r"[\^,]+", name) if part.strip()]
    words = [word for word in re.split(r"[\s^,_.]+", name) if word]
    if "^" not in name and "," not in name and len(words) > 3:
        return  # a sentence or an address: as it is
    for pieces in {tuple(part.strip() for part in parts), tuple(words)}:
        if not 2 <= len(pieces) <= 4:
            continue
        for count in {len(pieces), 2}:
            for order in permutations(pieces, count):
                yield from (joint.join(order) for joint in _JOINTS)
        for last, first in permutations(pieces, 2):
            if len(last) > 3:
                initial = first[0]
                yield from (f"{initial}. {last}", f"{initial} {last}", f"{last}, {initial}.",
                            f"{last} {initial}.", f"{last}^{initial}",
                            f"{initial}.{last}")  # fmt: skip
    for char in "-'’ ":
        if char in name:
            for other in ("", " ", "-"):
                yield name.replace(char, other)


def _numbers(text: str) -> Iterator[str]:
    parts = re.findall(r"[^\W\d_]+|\d+", text)
    if len(parts) > 8:
        return
    for gap in _GAPS:
        yield gap.join(parts)
    bare = [part.lstrip("0") or "0" if part.isdigit() else part for part in parts]
    if bare != parts and sum(map(len, bare)) >= 5:
        for gap in _GAPS:
            yield gap.join(bare)


def _as_date(text: str) -> date | None:
    """DICOM, ISO, d.m.y and y/m/d; the time after it does not matter."""
    match = re.fullmatch(r"(\d{4})([-./]?)(\d\d)\2(\d\d)(?:[T ]?[\d:.+\-]*Z?)?", text)
    other = re.fullmatch(r"(\d{1,2})[.\-](\d{1,2})[.\-](\d{4})", text)
    try:
        if match is not None:
            moment = date(int(match[1]), int(match[3]), int(match[4]))
        elif other is not None:
            moment = date(int(other[3]), int(other[2]), int(other[1]))
        else:
            return None
    except ValueError:
        return None
    return moment if 1850 <= moment.year <= 2100 else None


def _dates(moment: date) -> Iterator[str]:
    year, month, day = moment.year, moment.month, moment.day
    months, days = {str(month), f"{month:02d}"}, {str(day), f"{day:02d}"}
    yield f"{year}{month:02d}{day:02d}"
    yield from (f"{day:02d}{month:02d}{year}", f"{month:02d}{day:02d}{year}")
    for sign in ("-", "/", ".", " ", ":", "_"):
        for m in months:
            for d in days:
                yield f"{year}{sign}{m}{sign}{d}"
                for y in (f"{year}", f"{year % 100:02d}"):
                    full = f"{d}{sign}{m}{sign}{y}", f"{m}{sign}{d}{sign}{y}"
                    # Six digits and fewer with other signs are times, versions and numbers.
                    yield from (way for way in full if len(way) >= 8 and sign not in ":_ ")
                    if len(y) == 4:
                        yield from full
    for names in _MONTHS.values():
        long = names.split()[month - 1]
        for name in {long, long[:3], f"{long[:3]}.", f"{long[:4]}.", _folded(long)}:
            for d in days:
                for y in (f"{year}", f"{year % 100:02d}"):
                    yield from (f"{d} {name} {y}", f"{d}. {name} {y}", f"{d}-{name}-{y}",
                                f"{name} {d}, {y}", f"{name} {d} {y}")  # fmt: skip
                yield from (
                    f"{d}{name}{year}",
                    f"{d} de {name} de {year}",
                    f"{year} {name} {d}",
                    f"{year}-{name}-{d}",
                )
            ending = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
            nth = f"{day}{ending.get(day, 'th')}"
            yield from (f"{nth} {name} {year}", f"{name} {nth}, {year}", f"{nth} of {name} {year}")
