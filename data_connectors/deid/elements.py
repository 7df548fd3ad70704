"""The engine: every element of an object, its sequences and their items, by its action."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import yaml
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from data_connectors.deid import dates
from data_connectors.deid.bulk import kept_bulk
from data_connectors.deid.clean import Cleaner
from data_connectors.deid.codes import REMOVED, clean_code
from data_connectors.deid.judging import (
    BULK,
    DATES,
    NUMBERS,
    TEXTS,
    keeps_text,
    keeps_uid,
    plain_number,
    spells_text,
)
from data_connectors.deid.options import Options
from data_connectors.deid.profile import Action, action_of, describes
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.deid.residual import DESCRIPTION
from medvlp.errors import InputError

DEEPEST: Final = 32
"""Sequences inside sequences; deeper ones are refused."""
_DUMMIES: Final[dict[str, Any]] = {
    **dates.DUMMY, "AE": "REMOVED", "AS": "000Y", "CS": "OTHER", "PN": "Removed", "IS": "0",
    "DS": "0", "UR": "http://removed.invalid", "FL": 0.0, "FD": 0.0, "AT": 0,
    **dict.fromkeys(TEXTS, "Removed"), **dict.fromkeys(("SS", "US", "SL", "UL", "SV", "UV"), 0),
    **dict.fromkeys(BULK, bytes(8)),
}  # fmt: skip
_LONG: Final = {"ST", "LT", "UT"}
_CHARSET: Final = 0x00080005
_CODE_VALUES: Final = (0x00080100, 0x00080119, 0x00080120)  # short, long, URN
_SCHEME, _MEANING = 0x00080102, 0x00080104
_PATIENT_NAME, _PATIENT_ID, _ACCESSION = 0x00100010, 0x00100020, 0x00080050


@dataclass(frozen=True, slots=True)
class Person:
    """Whose object it is: what stands for the identity, and by how many days dates move."""

    pseudonym: str
    days: int
    cleaner: Cleaner


@dataclass(slots=True)
class Engine:
    """Applies the profile to datasets, in place."""

    options: Options
    names: Pseudonyms
    person: Person
    removed: list[tuple[str, Any]] = field(default_factory=list)
    """(VR, value) of everything that did not stay as it was: what the output must not hold."""
    written: set[str] = field(default_factory=set)
    """Values that stand for others."""
    counts: dict[str, int] = field(default_factory=dict)

    def apply(self, dataset: Dataset, depth: int = 0, *, strict: bool = False) -> None:
        """De-identify a sifted dataset and the items of its sequences."""
        private = self._private(dataset) if not strict else set()
        coded = self._code(dataset, strict=strict)
        for tag in sorted(dataset.keys()):
            if tag in coded:
                continue
            element = dataset[tag]
            if tag in private:
                self._judge_private(dataset, element)
            elif depth == 0 and self._owner(dataset, element):
                continue
            else:
                self._one(dataset, element, depth, strict=strict)

    def _one(self, dataset: Dataset, element: DataElement, depth: int, *, strict: bool) -> None:
        action = action_of(int(element.tag), element.VR, self.options)
        if strict and action not in (Action.REMOVE, Action.EMPTY):
            action = Action.STRICT if element.VR == "SQ" else Action.DUMMY
        match action:
            case Action.KEEP:
                self._keep(dataset, element)
            case Action.RECURSE | Action.STRICT:
                deeper = strict or action is Action.STRICT
                for item in element.value or ():
                    self.apply(item, depth + 1, strict=deeper)
            case Action.REMOVE:
                self._remove(dataset, element)
            case Action.EMPTY:
                self._put(dataset, element, [] if element.VR == "SQ" else "")
            case Action.DUMMY:
                self._dummy(dataset, element)
            case Action.UID:
                self._each(dataset, element, self._uid)
            case Action.SHIFT:
                self._date(dataset, element)
            case Action.CLEAN:
                self._each(dataset, element, self._cleaned)
            case Action.JUDGE:
                self._judge(dataset, element, depth)

    def _judge(self, dataset: Dataset, element: DataElement, depth: int) -> None:
        vr, keyword = element.VR, element.keyword
        words = frozenset(word.lower() for word in self.options.words)
        if int(element.tag) == _CHARSET:
            known = all(str(one) in python_encoding for one in _values(element))
            if not known:
                self._remove(dataset, element)
        elif vr in DATES:
            self._date(dataset, element)
        elif vr == "UI":
            self._each(dataset, element, self._uid)
        elif vr in ("IS", "DS"):
            self._each(dataset, element, lambda text: plain_number(keyword, text))
        elif vr == "CS" or vr in TEXTS:
            other = self._cleaned if vr in _LONG and self._cleans else lambda _: str(_DUMMIES[vr])
            self._each(
                dataset, element, lambda text: text if keeps_text(vr, text, words) else other(text)
            )
        elif vr in BULK or "OW" in vr:
            stays = kept_bulk(dataset, keyword, element.value, depth)
            if stays is None:
                self._remove(dataset, element)
            elif stays is not element.value:
                self._note(element, "replaced")
                element.value = stays
        elif vr in NUMBERS:
            if spells_text(vr, list(_values(element))):
                self._remove(dataset, element)
        elif " or " not in vr:
            self._dummy(dataset, element)  # names, application entities, ages, addresses

    def _keep(self, dataset: Dataset, element: DataElement) -> None:
        if element.VR == "AS":
            self._each(dataset, element, lambda text: dates.cap_age(text) or _DUMMIES["AS"])
        elif element.VR in BULK:
            self._remove(dataset, element)

    def _date(self, dataset: Dataset, element: DataElement) -> None:
        """By the option for dates; what cannot be moved is replaced."""
        vr, how = element.VR, self.options.dates
        if vr not in (*DATES, "SH"):
            self._remove(dataset, element)
            return
        if how == "remove":
            self._dummy(dataset, element)
            return
        days = self.person.days if how == "shift" else 0
        fallback = _DUMMIES[vr] if vr in DATES else ""
        self._each(dataset, element, lambda text: dates.shift(vr, text, days) or fallback)

    def _uid(self, text: str) -> str:
        if keeps_uid(text) or self.options.retain_uids:
            return text
        return self.names.uid(text)

    @property
    def _cleans(self) -> bool:
        """Whether long texts may stay word by word."""
        options = self.options
        return (options.clean_descriptors or options.clean_structured_content
                or options.clean_graphics)  # fmt: skip

    def _cleaned(self, text: str) -> str:
        return self.person.cleaner.clean(text)

    def _owner(self, dataset: Dataset, element: DataElement) -> bool:
        """The three identifiers that get a pseudonym."""
        tag = int(element.tag)
        if tag in (_PATIENT_NAME, _PATIENT_ID):
            self._put(dataset, element, self.person.pseudonym)
        elif tag == _ACCESSION:
            self._put(dataset, element, self.names.accession(str(element.value or "")))
        else:
            return False
        return True

    def _code(self, dataset: Dataset, *, strict: bool) -> set[int]:
        """Clean a coded concept as a whole; returns the tags that are done."""
        value_tag = next((tag for tag in _CODE_VALUES if tag in dataset), None)
        if value_tag is None or _MEANING not in dataset:
            return set()
        tags = (value_tag, _SCHEME, _MEANING)
        code = tuple(_text(dataset, tag) for tag in tags)
        cleaned = REMOVED if strict else clean_code(code[0], code[1], code[2])
        if cleaned is REMOVED and value_tag == _CODE_VALUES[2]:
            cleaned = ("urn:removed", "", REMOVED[2])
        for tag, text, new in zip(tags, code, cleaned, strict=True):
            if tag in dataset and new != text:
                self._put(dataset, dataset[tag], new)
        return {tag for tag in tags if tag in dataset}

    def _private(self, dataset: Dataset) -> set[int]:
        """The private elements on the allow-list, with their creators."""
        kept: set[int] = set()
        if not self.options.keeps_private:
            return kept
        allowed = _allowed(self.options)
        for tag in list(dataset.keys()):
            group, number = int(tag) >> 16, int(tag) & 0xFFFF
            if not group % 2 or number < 0x1000:
                continue
            creator = (group << 16) | (number >> 8)
            name = _text(dataset, creator) if creator in dataset else ""
            if f"{name}/{group:04X}/{number & 0xFF:02X}".upper() in allowed:
                kept |= {int(tag), creator}
        return kept

    def _judge_private(self, dataset: Dataset, element: DataElement) -> None:
        """Numbers and codes of known words stay; a creator's name is on the list already."""
        if int(element.tag) & 0xFFFF < 0x1000:
            return
        vr = element.VR
        if vr in ("IS", "DS", "CS") or vr in TEXTS or vr in NUMBERS:
            self._judge(dataset, element, depth=1)
        else:
            self._remove(dataset, element)

    def _each(self, dataset: Dataset, element: DataElement, new: Callable[[str], str]) -> None:
        """Replace each value by what the function makes of it; all empty: by what there must be."""
        values = [str(one) for one in _values(element)]
        made = [new(one) if one.strip(" \0") else one for one in values]
        if made == values:
            return
        if not any(made):
            if self._may_go(element):
                self._remove(dataset, element)
            else:
                self._dummy(dataset, element)
            return
        self._put(dataset, element, made[0] if len(made) == 1 else made)

    def _may_go(self, element: DataElement) -> bool:
        """Whether the profile without options would remove the element."""
        return action_of(int(element.tag), element.VR, Options()) is Action.REMOVE

    def _dummy(self, dataset: Dataset, element: DataElement) -> None:
        vr = element.VR
        values = list(_values(element))
        if vr == "UI":
            self._each(dataset, element, self._uid)
        elif vr == "SQ" or vr not in _DUMMIES:
            self._remove(dataset, element)
        elif values:
            many = len(values) > 1 and vr not in BULK
            self._put(dataset, element, [_DUMMIES[vr]] * len(values) if many else _DUMMIES[vr])

    def _remove(self, dataset: Dataset, element: DataElement) -> None:
        self._note(element, "removed")
        del dataset[element.tag]

    def _put(self, dataset: Dataset, element: DataElement, value: Any) -> None:
        self._note(element, "replaced")
        self.written.update(value if isinstance(value, list) else [str(value)])
        dataset[element.tag] = DataElement(element.tag, element.VR, value)

    def _note(self, element: DataElement, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        said = leaves(element)
        if element.tag.is_private or describes(int(element.tag)):
            said = ((DESCRIPTION if vr in TEXTS else vr, value) for vr, value in said)
        self.removed.extend(said)


def sift(dataset: Dataset, removed: list[tuple[str, Any]], depth: int = 0) -> None:
    """Remove what cannot be understood: values that do not fit their representation.

    Args:
        dataset: Changed in place.
        removed: (VR, value) of what was removed is added here.
        depth: How deeply nested it is.

    Raises:
        InputError: Sequences are nested deeper than `DEEPEST` (`deid-nested`).
    """
    if depth > DEEPEST:
        raise InputError("its sequences are nested too deeply", code="deid-nested",
                         limit=DEEPEST, next_step="look at the object")  # fmt: skip
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom raises nearly every built-in type here
            removed.append(("UN", getattr(dataset.get_item(tag), "value", None)))
            del dataset[tag]
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                sift(item, removed, depth + 1)


def leaves(element: DataElement) -> Iterator[tuple[str, Any]]:
    """(VR, value) of an element, or of everything in a sequence, one value at a time."""
    if element.VR != "SQ":
        for one in _values(element):
            yield element.VR, one
        return
    for item in element.value or ():
        for inner in item:
            yield from leaves(inner)


def _values(element: DataElement) -> Iterator[Any]:
    value = element.value
    if value is None or (isinstance(value, str | bytes) and not value):
        return
    yield from value if isinstance(value, MultiValue | list | tuple) else (value,)


def _text(dataset: Dataset, tag: int) -> str:
    value = dataset[tag].value if tag in dataset else None
    return "" if value is None else str(value).strip(" \0")


@lru_cache(maxsize=4)
def _allowed(options: Options) -> frozenset[str]:
    """The private elements that may stay, `CREATOR/GGGG/EE` in capitals."""
    listed: list[str] = list(options.safe_private)
    if options.retain_safe_private:
        text = files("data_connectors.deid").joinpath("safe_private.yaml").read_text("utf-8")
        listed += yaml.safe_load(text)["elements"]
    return frozenset(entry.upper() for entry in listed)
