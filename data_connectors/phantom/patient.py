"""Write one patient's files: CT series, radiograph, reports, true masks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_connectors.phantom.anatomy import draw_anatomy
from data_connectors.phantom.dicom_files import CT_SERIES, DX_SERIES, write_ct, write_radiograph
from data_connectors.phantom.findings import Planted, draw_findings
from data_connectors.phantom.grammar import Written, write_report
from data_connectors.phantom.identity import Person, draw_person
from data_connectors.phantom.radiograph import (
    draw_exposure,
    expose,
    masks_in_picture,
    projection_grid,
)
from data_connectors.phantom.render import Rendered, render
from data_connectors.phantom.report_files import fhir_text, hl7_message, plain_text
from data_connectors.phantom.scanner import acquire, draw_codec, draw_scan
from data_connectors.phantom.seeds import stream


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """What is true of one patient: a row of `truth.parquet`, rows of the tables, canaries."""

    row: dict[str, Any]
    labels: tuple[tuple[str, str], ...]
    """(uid, concepts joined by |)."""
    regions: tuple[tuple[str, str, str, str], ...]
    """(uid, concept, side, mask file relative to the table)."""
    canaries: tuple[str, ...]


def write_patient(out: Path, seed: int, index: int) -> PatientRecord:
    """Write patient `index` under `out`; folders `dicom`, `reports` and `truth/masks` exist."""

    def rng(stage: Any) -> np.random.Generator:
        return stream(seed, "patient", index, stage)

    person = draw_person(rng("identity"), "patient", index)
    anatomy = draw_anatomy(rng("anatomy"))
    findings = draw_findings(rng("findings"), anatomy)
    acquisition, noise, files = rng("acquisition"), rng("noise"), rng("files")
    names = _names(out / "dicom", files, person)

    scan = draw_scan(acquisition, anatomy)
    body = render(anatomy, findings, scan.grid)
    numbers = acquisition.permutation(scan.grid.shape[0]) + 1
    write_ct(person, scan, acquire(body.hu, scan, noise), numbers, lambda: next(names))
    volumes = [(finding, share > 0.5) for finding, share in body.masks]
    regions = _write_masks(out, person.series_uid(CT_SERIES), f"p{index:05d}-ct", _stacked(volumes))

    exposure = draw_exposure(acquisition, anatomy.half_width)
    body = render(anatomy, findings, projection_grid(anatomy.half_width, anatomy.half_depth))
    image = expose(body, exposure, noise)
    inverse, codec = bool(acquisition.uniform() < 1 / 3), draw_codec(acquisition)
    write_radiograph(person, exposure, image, inverse, codec, next(names))
    flat = masks_in_picture(body, exposure)
    uid = person.instance_uid(DX_SERIES, 1)
    regions += _write_masks(out, uid, f"p{index:05d}-dx", flat)

    report = write_report(rng("report"), findings, person)
    _write_reports(out / "reports", person, report, one_field=index % 2 == 0)
    concepts = "|".join(finding.concept for finding in findings) or "normal"
    row = {
        **_who(person, index),
        "findings": [_finding(f, body) for f in findings],
        "report": report.text,
        "statements": [{**asdict(s), "concepts": list(s.concepts)} for s in report.statements],
        "ct_codec": scan.codec,
        "ct_shape": list(scan.grid.shape),
        "ct_spacing_mm": list(scan.grid.spacing_mm),
        "ct_origin_mm": list(scan.grid.origin_mm),
        "ct_noise_hu": scan.noise_hu,
        "dx_codec": codec,
        "dx_inverse": inverse,
        "dx_size": exposure.size,
    }
    labels = ((person.series_uid(CT_SERIES), concepts), (uid, concepts))
    return PatientRecord(row, labels, tuple(regions), person.canaries)


def _names(folder: Path, rng: np.random.Generator, person: Person) -> Iterator[Path]:
    """Paths in a new folder that say nothing of the order; some folders tell the name."""
    name = rng.bytes(6).hex()
    if rng.uniform() < 0.1:
        name = f"{person.family.upper()}_{name[:4]}"
    folder = folder / name
    folder.mkdir()
    used: set[str] = set()
    while True:
        stem = rng.bytes(4).hex()
        if stem not in used:
            used.add(stem)
            yield folder / f"{stem}.dcm"


def _who(person: Person, index: int) -> dict[str, Any]:
    return {
        "kind": "patient",
        "index": index,
        "patient_id": person.patient_id,
        "name": person.name,
        "birth_date": person.birth.isoformat(),
        "sex": person.sex,
        "accession": person.accession,
        "study_uid": person.study_uid,
        "ct_uid": person.series_uid(CT_SERIES),
        "dx_uid": person.instance_uid(DX_SERIES, 1),
    }


def _finding(finding: Planted, body: Rendered) -> dict[str, Any]:
    share = next(share for other, share in body.masks if other is finding)
    millilitres = float(share.sum(dtype=np.float64)) * body.grid.voxel_mm3 / 1000
    return {
        **asdict(finding),
        "centre_mm": list(finding.centre_mm) if finding.centre_mm else None,
        "more_mm": [list(centre) for centre in finding.more_mm],
        "volume_ml": round(millilitres, 3),
    }


def _stacked(
    masks: list[tuple[Planted, NDArray[np.bool_]]],
) -> list[tuple[Planted, NDArray[np.bool_]]]:
    """[D, H, W] as [D * H, W]."""
    return [(finding, mask.reshape(-1, mask.shape[-1])) for finding, mask in masks]


def _write_masks(
    out: Path, uid: str, stem: str, masks: list[tuple[Planted, NDArray[np.bool_]]]
) -> list[tuple[str, str, str, str]]:
    """PNG files; a mask with nothing in it (outside the picture) is left out."""
    rows: list[tuple[str, str, str, str]] = []
    for finding, mask in masks:
        if not mask.any():
            continue
        name = f"masks/{stem}-{finding.concept}.png"
        buffer = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", compress_level=3)
        (out / "truth" / name).write_bytes(buffer.getvalue())
        rows.append((uid, finding.concept, finding.side, name))
    return rows


def _write_reports(folder: Path, person: Person, report: Written, *, one_field: bool) -> None:
    for kind, text in (
        ("text/{}.txt", plain_text(person, report)),
        ("hl7/{}.hl7", hl7_message(person, report, one_field=one_field)),
        ("fhir/{}.json", fhir_text(person, report)),
    ):
        (folder / kind.format(person.accession)).write_bytes(text.encode("utf-8"))
