"""Uptake values against arithmetic by hand, in float64, from the rules as published."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

F18 = 6586.2
PET: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128",
    "Modality": "PT",
    "RescaleIntercept": 0,
    "RescaleSlope": 1,
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ["ATTN", "DECY", "SCAT"],
    "PatientWeight": 80,
    "SeriesDate": "20260301",
    "SeriesTime": "101500",
    "AcquisitionDate": "20260301",
    "AcquisitionTime": "101500",
    "FrameReferenceTime": 0,
    "ActualFrameDuration": 120_000,
}


def tracer(**change: Any) -> Sequence:
    item = Dataset()
    values = {
        "RadionuclideTotalDose": 350e6,
        "RadionuclideHalfLife": F18,
        "RadiopharmaceuticalStartTime": "091500.50",
        **change,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(item, keyword, value)
    return Sequence([item])


@pytest.fixture
def pet(ingest: Any, tmp_path: Path, write_series: Any) -> Any:
    """`pet(each=..., private=..., keys=..., **header)`: (visual, rescaled values)."""

    def run(
        *,
        each: list[dict[str, Any]] | None = None,
        private: dict[int, Any] | None = None,
        keys: dict[str, Any] | None = None,
        **change: Any,
    ) -> tuple[Any, np.ndarray]:
        stored = np.random.default_rng(0).integers(0, 20_000, (3, 4, 5)).astype(np.int16)
        slopes = [0.5, 1.25, 2.0]
        merged = [
            {"RescaleSlope": slopes[k], **(each[k] if each else {})} for k in range(len(stored))
        ]
        header = {**PET, "RadiopharmaceuticalInformationSequence": tracer(), **change}
        header = {keyword: value for keyword, value in header.items() if value is not None}
        for path in write_series(tmp_path, stored, each=merged, **header):
            dataset = dcmread(path)
            for element, value in (private or {}).items():
                block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
                block.add_new(element, "DS", str(value))
            dataset.save_as(path)
        values = stored * np.array(slopes)[:, None, None]
        return ingest(tmp_path, **(keys or {})), values

    return run


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


def expect(found: tuple[Any, np.ndarray], factor: Any) -> None:
    result, values = found
    visual = result.only
    assert visual.geometry.unit == "SUV"
    assert visual.geometry.window == (5, 10)
    np.testing.assert_allclose(volume_of(visual), values * factor, rtol=1e-6)


def by_hand(seconds: float) -> float:
    """80 kg, 350 MBq of F-18."""
    return 80_000 / (350e6 * math.exp(-math.log(2) * seconds / F18))


def test_start_decays_the_dose_to_the_start_of_the_scan(pet: Any) -> None:
    expect(pet(), by_hand(3599.5))


def test_every_slice_keeps_its_slope_and_the_scan_its_one_start(pet: Any) -> None:
    """Bed positions follow each other; all are corrected to the start of the first."""
    each = [{"AcquisitionTime": t, "FrameReferenceTime": 0} for t in ("1015", "1017", "1019")]
    expect(pet(each=each), by_hand(3599.5))


def test_admin_needs_no_decay(pet: Any) -> None:
    expect(pet(DecayCorrection="ADMIN"), 80_000 / 350e6)


def test_none_decays_to_the_average_of_every_frame(pet: Any) -> None:
    """Average count rate of a frame: integral of the decay over it, divided by its length."""
    each = [
        {"AcquisitionTime": t, "ActualFrameDuration": d}
        for t, d in (("101500", 120_000), ("103000", 600_000), ("110000", 3_600_000))
    ]
    rate = math.log(2) / F18
    factors = []
    for begin, duration in ((3599.5, 120), (4499.5, 600), (6299.5, 3600)):
        mean = sum(math.exp(-rate * (begin + duration * (k + 0.5) / 20_000)) for k in range(20_000))
        factors.append(80_000 / (350e6 * mean / 20_000))
    found = pet(each=each, DecayCorrection="NONE", CorrectedImage=["ATTN"])
    expect(found, np.array(factors)[:, None, None])


def test_tracer_given_before_midnight(pet: Any) -> None:
    late = tracer(RadiopharmaceuticalStartTime="233000")
    times = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    expect(pet(RadiopharmaceuticalInformationSequence=late, **times), by_hand(3600))


def test_scan_that_runs_past_midnight(pet: Any) -> None:
    begun = tracer(RadiopharmaceuticalStartTime="225500")
    after = {"AcquisitionDate": "20260302", "AcquisitionTime": "000100"}
    each = [{"AcquisitionTime": "235500"}, {"AcquisitionTime": "235800"}, after]
    found = pet(each=each, SeriesTime="235500", RadiopharmaceuticalInformationSequence=begun)
    expect(found, by_hand(3600))


def test_long_lived_tracer_with_a_date(pet: Any) -> None:
    dated = tracer(
        RadiopharmaceuticalStartDateTime="20260226101500", RadionuclideHalfLife=282_240.0
    )
    factor = 80_000 / (350e6 * 2 ** (-3 * 86_400 / 282_240))
    expect(pet(RadiopharmaceuticalInformationSequence=dated), factor)


def test_series_made_later_takes_the_start_from_its_frames(pet: Any) -> None:
    """The series' time is that of reprocessing; the frames know their offset from the start."""
    rate = math.log(2) / F18
    average = math.log(rate * 120 / (1 - math.exp(-rate * 120))) / rate
    each = [
        {"AcquisitionTime": t, "FrameReferenceTime": 1000 * (begin + average)}
        for t, begin in (("101500", 0), ("101700", 120), ("101900", 240))
    ]
    found = pet(each=each, SeriesDate="20260302", SeriesTime="170000")
    expect(found, by_hand(3599.5))


def test_philips_counts_with_its_factor(pet: Any) -> None:
    expect(pet(Units="CNTS", private={0x00: 0.000413}), 0.000413)


def test_philips_counts_with_activity_only(pet: Any) -> None:
    expect(pet(Units="CNTS", private={0x00: 0, 0x09: 1.7}), 1.7 * by_hand(3599.5))


def test_grams_per_millilitre_are_uptake_already(pet: Any) -> None:
    expect(pet(Units="GML", RadiopharmaceuticalInformationSequence=None), 1.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"PatientWeight": None}, "PatientWeight"),
        ({"PatientWeight": 0}, "PatientWeight"),
        ({"Units": "CNTS"}, "counts"),
        ({"Units": "PROPCPS"}, "Units"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUVType"),
        ({"DecayCorrection": ""}, "DecayCorrection"),
        ({"CorrectedImage": ["DECY"]}, "CorrectedImage"),
        ({"RadiopharmaceuticalInformationSequence": None}, "RadionuclideTotalDose"),
        (
            {"RadiopharmaceuticalInformationSequence": tracer(RadionuclideTotalDose=350)},
            "RadionuclideTotalDose",
        ),
        (
            {"RadiopharmaceuticalInformationSequence": tracer(RadionuclideHalfLife=0)},
            "RadionuclideHalfLife",
        ),
        (
            {
                "RadiopharmaceuticalInformationSequence": tracer(
                    RadiopharmaceuticalStartTime="101501"
                )
            },
            "after the scan",
        ),
        (
            {"RadiopharmaceuticalInformationSequence": tracer(RadiopharmaceuticalStartTime=None)},
            "RadiopharmaceuticalStartTime",
        ),
    ],
)
def test_what_is_missing_is_said_or_the_values_stay_as_sent(
    pet: Any, change: dict[str, Any], why: str
) -> None:
    result, values = pet(keys={"pet": "suv"}, **change)
    assert result.only.geometry.unit == "raw"
    np.testing.assert_allclose(volume_of(result.only), values, rtol=1e-6)
    refused = pet(keys={"pet": "suv-only"}, **change)[0].refusal
    assert refused.code == "pet-no-suv"
    assert why in refused.reason
    assert "350" not in refused.reason
    assert "pet: stored" in refused.next_step


def test_stored_keeps_what_was_sent(pet: Any) -> None:
    result, values = pet(keys={"pet": "stored"})
    np.testing.assert_allclose(volume_of(result.only), values, rtol=1e-6)
    assert result.only.geometry.unit == "raw"
