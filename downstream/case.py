"""One case, read as ingest would read it: a DICOM series, one DICOM object, or one picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_connectors.connectors import connector_of
from data_connectors.dataset.store import decode_visual
from data_connectors.dicom.series import LoadedSeries, assembled, load_series
from data_connectors.dicom.source import DicomSource
from data_connectors.images.pixels import looks_like_image
from data_connectors.images.source import ImagesSource
from data_connectors.items import Payload, Refused, Region, VisualItem
from data_connectors.source import Consulted, Unit
from downstream.dicom_out.source import SourceImages, of_object, of_series
from medvlp.errors import InputError
from medvlp.types import Geometry, Kind, Sample, Visual

NO_MASK: Final = "masks are written for series of slices and single images only"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One visual of one patient; fulfils `downstream.interfaces.SampleStore`."""

    sample: Sample
    shown: Visual
    digest: str
    """SHA-256 over the pixels."""
    source: SourceImages | None
    """The DICOM images that it was made from, where masks can be written for them."""
    left_out: dict[str, int]
    """Files of the case that were not used, by code."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The one sample."""
        return (self.sample,)

    def visual(self, sample: Sample) -> Visual:
        """What it shows."""
        return self.shown

    def regions(self, key: str) -> list[Region]:
        """Nothing is known yet."""
        return []


def read_case(path: Path) -> Case:
    """Read the one visual that a path holds.

    Args:
        path: A folder, zip or tar of one DICOM series, one DICOM file, or a PNG or JPEG.

    Raises:
        InputError: It holds none (`case-empty`) or several (`case-several`), or it is refused
            with the code that ingest would give.
    """
    source = _source_of(path)
    units: list[Unit] = []
    refused: list[Refused] = []
    for found in connector_of(source).find(source):
        if isinstance(found, Unit):
            units.append(found)
        elif not isinstance(found, Consulted):
            refused.append(found)
    if not units:
        raise InputError(
            "there is no image that can be read", code="case-empty", got=_codes(refused),
            next_step="point at one series, one DICOM file, or a PNG or JPEG",
        )  # fmt: skip
    if len(units) > 1:
        raise InputError(
            "there are several series or images", code="case-several", limit=1,
            got=f"{len(units)}: {', '.join(_called(unit) for unit in units[:5])}",
            next_step="point at the folder or file of one of them",
        )  # fmt: skip
    return _read(source, units[0], refused)


def _source_of(path: Path) -> DicomSource | ImagesSource:
    if not path.exists():
        raise FileNotFoundError(None, None, str(path))
    path = path.resolve()
    if path.is_file():
        with path.open("rb") as file:
            if looks_like_image(file.read(16)):
                return ImagesSource(name="case", path=path, patient_per_image=True)
    # Masks go back to the slices as they were acquired: a tilt is kept, nothing is resampled.
    return DicomSource(
        name="case", path=path, allow_missing_patient=True, tilt="keep", irregular="keep"
    )


def _read(source: DicomSource | ImagesSource, unit: Unit, refused: list[Refused]) -> Case:
    """The case of one unit.

    Raises:
        InputError: It cannot be read.
    """
    way, _, part = unit.hint.partition(" ")
    if isinstance(source, DicomSource) and way == "series":
        series: list[LoadedSeries] = []
        for one in load_series(source, unit.inputs, part=part):
            if isinstance(one, Refused):
                refused.append(one)
            else:
                series.append(one)
        if not series:
            raise _refusal(refused)
        stored, loaded = assembled(series[0]).stored, series[0]
        return _case(
            loaded.kind, stored.payload, stored.geometry, stored.digest, loaded.header.modality,
            of_series(source, loaded), refused,
        )  # fmt: skip
    items: list[VisualItem] = []
    for item in connector_of(source).read(source, unit):
        if isinstance(item, Refused):
            refused.append(item)
        elif isinstance(item, VisualItem):
            items.append(item)
    if not items:
        raise _refusal(refused)
    if len(items) > 1:
        raise InputError("the file holds several pictures", code="case-several", got=len(items))
    [item] = items
    images = None
    if isinstance(source, DicomSource) and way == "image":
        images = of_object(source, unit.inputs[0])
    return _case(
        item.kind, item.payload, item.geometry, item.digest, item.modality, images, refused
    )


def _case(
    kind: Kind,
    payload: Payload,
    geometry: Geometry,
    digest: str,
    modality: str,
    source: SourceImages | None,
    refused: list[Refused],
) -> Case:
    members = [(f"case.{extension}", data) for extension, data in payload.members]
    sample = Sample(
        key=digest[:16], patient="case", study="", split="test", kind=kind, modality=modality,
        geometry=geometry,
    )  # fmt: skip
    counts = Counter(entry.code for entry in refused for _ in entry.inputs)
    return Case(sample, decode_visual(kind, geometry, members), digest, source, dict(counts))


def _refusal(refused: list[Refused]) -> InputError:
    """Why a unit gave nothing, as an error."""
    last = refused[-1]
    return InputError(last.reason, code=last.code, next_step=last.next_step)


def _called(unit: Unit) -> str:
    count = len(unit.inputs)
    return f"a series of {count} files" if unit.hint.startswith("series") else "a file"


def _codes(refused: list[Refused]) -> str | None:
    counts = Counter(entry.code for entry in refused)
    return ", ".join(f"{count} x {code}" for code, count in sorted(counts.items())) or None
