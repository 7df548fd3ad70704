"""PET: standardised uptake values by body weight (SUVbw), grams per millilitre.

The rules are those of the QIBA FDG-PET profile (vendor-neutral pseudo-code of SUV, D. Clunie, L.
Fitzpatrick et al., "Standardized Uptake Value"; PS3.3 C.8.9): SUV = activity concentration x body
weight / injected activity, where the injected activity is decayed to the time that the activity
concentration is corrected to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset

from data_connectors.dicom.header import guarded, number, text, texts
from medvlp.errors import InputError

SUV_WINDOW: Final = (5.0, 10.0)
"""Shown from 0 to 10: the windows of PET headers are in other units and differ by slice."""
_LEAST_BQ: Final = 1e5
_MOST_WEIGHT_KG: Final = 700.0
_LONGEST_S: Final = 10 * 86_400.0
_LONGEST_UNDATED_S: Final = 12 * 3_600.0
"""A time without a date that lies further back is a clock that goes wrong."""
_DAY: Final = timedelta(days=1)
_NEXT: Final = "set pet: stored to keep the values as they were sent"
_PHILIPS: Final = "Philips PET Private Group"
_GE: Final = "GEMS_PETD_01"


@dataclass(frozen=True, slots=True)
class PetFacts:
    """What one slice says about uptake; None where the header does not say it."""

    units: str
    suv_type: str
    correction: str
    """When the values are decay-corrected to: START of the scan, ADMIN(istration), NONE."""
    corrected: frozenset[str]
    """Corrections that were made: ATTN, DECY, ..."""
    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None
    injected: datetime | None
    """When the tracer was given; of a time without a date, on the day of the scan or before."""
    injected_has_date: bool
    series: datetime | None
    acquired: datetime | None
    private_start: datetime | None
    """GE's own start of the scan."""
    reference_s: float | None
    """Offset of the average count rate from the start of the scan."""
    duration_s: float | None
    philips_suv: float | None
    """Philips: stored counts -> SUV."""
    philips_bq: float | None
    """Philips: stored counts -> Bq/ml."""


def pet_facts(dataset: Dataset) -> PetFacts:
    """Read the facts of one slice.

    Raises:
        InputError: The header is broken.
    """
    return guarded(lambda: _facts(dataset))


def _facts(dataset: Dataset) -> PetFacts:
    tracer = (list(dataset.get("RadiopharmaceuticalInformationSequence") or []) or [Dataset()])[0]
    series, acquired = _moment(dataset, "Series"), _moment(dataset, "Acquisition")
    moment = _parse(text(tracer, "RadiopharmaceuticalStartDateTime"))
    injected = moment
    if injected is None and series is not None:
        injected = _parse(series.strftime("%Y%m%d") + _time(tracer, "RadiopharmaceuticalStartTime"))
    milliseconds = number(dataset, "FrameReferenceTime"), number(dataset, "ActualFrameDuration")
    return PetFacts(
        units=text(dataset, "Units").upper(),
        suv_type=text(dataset, "SUVType").upper(),
        correction=text(dataset, "DecayCorrection").upper(),
        corrected=frozenset(part.upper() for part in texts(dataset, "CorrectedImage")),
        weight_kg=number(dataset, "PatientWeight"),
        dose_bq=number(tracer, "RadionuclideTotalDose"),
        half_life_s=number(tracer, "RadionuclideHalfLife"),
        injected=injected,
        injected_has_date=moment is not None,
        series=series,
        acquired=acquired,
        private_start=_parse(_private(dataset, 0x0009, _GE, 0x0D)),
        reference_s=None if not milliseconds[0] else milliseconds[0] / 1000,
        duration_s=None if milliseconds[1] is None else milliseconds[1] / 1000,
        philips_suv=_factor(_private(dataset, 0x7053, _PHILIPS, 0x00)),
        philips_bq=_factor(_private(dataset, 0x7053, _PHILIPS, 0x09)),
    )


def suv_factors(slices: Sequence[PetFacts]) -> list[float]:
    """What to multiply the rescaled values of each slice with to get SUVbw.

    Args:
        slices: All slices of one series: the start of a scan is the earliest of them.

    Raises:
        InputError: Something that is needed is missing or cannot be (`pet-no-suv`, naming it).
    """
    first = slices[0]
    for what, differs in (
        ("units", any(one.units != first.units for one in slices)),
        ("decay corrections", any(one.correction != first.correction for one in slices)),
    ):
        if differs:
            raise _cannot(f"its slices have several {what}")
    if first.units == "GML":
        if first.suv_type not in ("", "BW"):
            raise _cannot("its uptake is not by body weight (SUVType)")
        return [1.0] * len(slices)
    if not {"ATTN", "DECY"} <= first.corrected and first.correction != "NONE":
        raise _cannot("CorrectedImage does not name attenuation and decay")
    if first.units == "CNTS":
        if all(one.philips_suv for one in slices):
            return [one.philips_suv or 0.0 for one in slices]
        if not all(one.philips_bq for one in slices):
            raise _cannot("its units are counts without Philips' factors (7053,xx00), (7053,xx09)")
        scale = [one.philips_bq or 0.0 for one in slices]
    elif first.units == "BQML":
        scale = [1.0] * len(slices)
    else:
        raise _cannot("its Units are none of BQML, CNTS, GML")
    return [factor * per_bq for factor, per_bq in zip(scale, _per_bq(slices), strict=True)]


def _per_bq(slices: Sequence[PetFacts]) -> list[float]:
    """SUVbw of one Bq/ml, for each slice."""
    first = slices[0]
    weight = _within(first.weight_kg, "PatientWeight", 0, _MOST_WEIGHT_KG)
    dose = _within(first.dose_bq, "RadionuclideTotalDose", _LEAST_BQ, 1e12)
    if first.correction == "ADMIN":
        return [weight * 1000 / dose] * len(slices)
    half_life = _within(first.half_life_s, "RadionuclideHalfLife", 0, 1e12)
    if first.correction == "START":
        ages = [_age(first, _start(slices, half_life))] * len(slices)
    elif first.correction == "NONE":
        ages = [_age(one, _average(one, half_life)) for one in slices]
    else:
        raise _cannot("DecayCorrection is none of START, ADMIN, NONE")
    return [weight * 1000 / (dose * 2 ** (-age / half_life)) for age in ages]


def _start(slices: Sequence[PetFacts], half_life_s: float) -> datetime:
    """When the scan began, to which its values are corrected.

    The series' time is that, unless it is later than an acquisition: then the series was made
    afterwards, and the start follows from a slice's own time and its offset from the start.
    """
    acquired = [one.acquired for one in slices if one.acquired is not None]
    series = slices[0].series
    if series is not None and len(acquired) == len(slices) and series <= min(acquired):
        return series
    if slices[0].private_start is not None:
        return slices[0].private_start
    derived = [
        _average(one, half_life_s) - timedelta(seconds=one.reference_s)
        for one in slices
        if one.acquired is not None and one.duration_s and one.reference_s is not None
    ]
    if derived:
        return min(derived)
    if not acquired:
        raise _cannot("neither SeriesTime nor AcquisitionTime is there")
    return min(acquired)


def _average(one: PetFacts, half_life_s: float) -> datetime:
    """When the count rate of a slice's frame was at its average: before the middle, by decay."""
    if one.acquired is None:
        raise _cannot("AcquisitionDate or AcquisitionTime is missing")
    rate = math.log(2) / half_life_s
    decay = rate * (one.duration_s or 0.0)
    if decay <= 1e-12:
        return one.acquired
    return one.acquired + timedelta(seconds=math.log(decay / -math.expm1(-decay)) / rate)


def _age(one: PetFacts, at: datetime) -> float:
    """Seconds from the injection to a time."""
    if one.injected is None:
        raise _cannot("RadiopharmaceuticalStartTime is missing")
    injected = one.injected
    while not one.injected_has_date and injected > at:
        injected -= _DAY  # given before midnight, scanned after it
    age = (at - injected).total_seconds()
    if not 0 <= age <= (_LONGEST_S if one.injected_has_date else _LONGEST_UNDATED_S):
        raise _cannot("the tracer was given after the scan, or long before it")
    return age


def _within(value: float | None, name: str, low: float, high: float) -> float:
    if value is None or not low < value <= high:
        raise _cannot(f"{name} is missing or cannot be")
    return value


def _cannot(why: str) -> InputError:
    return InputError(f"no SUV: {why}", code="pet-no-suv", next_step=_NEXT)


def _moment(dataset: Dataset, kind: str) -> datetime | None:
    """Date and time of the series or the acquisition."""
    whole = _parse(text(dataset, f"{kind}DateTime"))
    return whole or _parse(text(dataset, f"{kind}Date") + _time(dataset, f"{kind}Time"))


def _time(dataset: Dataset, keyword: str) -> str:
    """A time, or something that is none: a date alone must not become midnight."""
    return text(dataset, keyword).replace(":", "") or "x"


def _parse(stamp: str) -> datetime | None:
    """DT or DA + TM, to the second's fraction; an offset from UTC is dropped (all are local)."""
    digits = stamp.replace(":", "").split("+")[0].split("-")[0].strip()
    whole, _, fraction = digits.partition(".")
    try:
        found = datetime.strptime(whole, "%Y%m%d%H%M%S" if len(whole) > 12 else "%Y%m%d%H%M")
        return found + timedelta(seconds=float(f"0.{fraction or 0}"))
    except (ValueError, OverflowError):
        return None


def _private(dataset: Dataset, group: int, creator: str, element: int) -> str:
    """A private value as text; empty where it is missing."""
    try:
        value = dataset.private_block(group, creator)[element].value
    except KeyError:
        return ""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def _factor(value: str) -> float | None:
    """A positive number, or None."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None
