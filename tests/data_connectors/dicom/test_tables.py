from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_connectors.dicom.reader import find
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.tables import load_tables
from data_connectors.source import Unit
from medvlp.errors import ConfigError


def mask(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.eye(height, width, dtype=np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def series(tmp_path: Path, write_series: Any, noise: np.ndarray) -> Path:
    write_series(tmp_path / "dicom", noise)
    return tmp_path


def test_labels_of_the_series(ingest: Any, series: Path) -> None:
    (series / "dicom/labels.csv").write_text("uid,labels\n2.25.3,nodule|mass\n2.25.9,normal\n")
    item = ingest(series / "dicom", labels=Path("labels.csv")).only
    assert item.labels == ("nodule", "mass")
    assert item.findings == ()


def test_caption_licence_and_provenance(ingest: Any, series: Path) -> None:
    item = ingest(series / "dicom", caption="Chest CT", licence="CC0").only
    assert [(text.level, text.text) for text in item.texts] == [("caption", "Chest CT")]
    assert (item.licence, item.provenance) == ("CC0", "test")


def test_labels_of_a_single_instance(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    write_dicom(tmp_path / "d/x", np.zeros((4, 4), np.int16), SOPInstanceUID="2.25.77")
    table = tmp_path / "labels.csv"
    table.write_text("uid,labels\n2.25.77,emphysema\n")
    assert ingest(tmp_path / "d", labels=table).only.labels == ("emphysema",)


def test_region_fits_the_stacked_slices(ingest: Any, series: Path) -> None:
    (series / "masks").mkdir()
    (series / "masks/a.png").write_bytes(mask(10 * 6, 5))
    table = series / "regions.csv"
    table.write_text("uid,concept,side,mask\n2.25.3,nodule,left,masks/a.png\n")
    [region] = ingest(series / "dicom", regions=table).only.regions
    assert (region.concept, region.side) == ("nodule", "left")
    assert region.mask_png == mask(10 * 6, 5)


@pytest.mark.parametrize(
    ("data", "code"), [(mask(6, 5), "region-mismatch"), (None, "region-missing")]
)
def test_bad_region_is_refused_and_the_volume_stays(
    ingest: Any, series: Path, data: bytes | None, code: str
) -> None:
    if data:
        (series / "a.png").write_bytes(data)
    table = series / "regions.csv"
    table.write_text("uid,concept,side,mask\n2.25.3,nodule,,a.png\n")
    visuals, refused = ingest(series / "dicom", regions=table)
    assert [item.code for item in refused] == [code]
    assert visuals[0].regions == ()


@pytest.mark.parametrize(
    "text", ["uid,concept,side,mask\n1,nodule,,../../etc/x.png\n", "uid,concept\n1,nodule\n"]
)
def test_bad_region_table_is_a_config_error(tmp_path: Path, text: str) -> None:
    table = tmp_path / "regions.csv"
    table.write_text(text)
    with pytest.raises(ConfigError):
        load_tables(DicomSource(name="x", path=tmp_path, regions=table))


def test_missing_table_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side table is missing"):
        load_tables(DicomSource(name="x", path=tmp_path, labels=Path("nowhere.csv")))


def test_table_is_found_beside_or_above_the_folder(ingest: Any, series: Path) -> None:
    (series / "truth").mkdir()
    (series / "truth/labels.csv").write_text("uid,labels\n2.25.3,nodule\n")
    item = ingest(series / "dicom", labels=Path("truth/labels.csv")).only
    assert item.labels == ("nodule",)
    above = f"{series.name}/truth/labels.csv"
    assert ingest(series / "dicom", labels=Path(above)).only.labels == ("nodule",)


def test_unit_changes_with_its_labels(series: Path) -> None:
    table = series / "labels.csv"
    source = DicomSource(name="x", path=series / "dicom", labels=table)
    ids = set()
    for text in ("uid,labels\n", "uid,labels\n2.25.3,mass\n", "uid,labels\n2.25.3,nodule\n"):
        table.write_text(text)
        os.utime(table, ns=(0, len(ids)))
        [unit] = find(source)
        assert isinstance(unit, Unit)
        ids.add(unit.id)
    assert len(ids) == 3


def test_an_unclosed_quote_in_a_side_table_is_refused(ingest: Any, series: Path) -> None:
    (series / "dicom/labels.csv").write_text('uid,labels\n2.25.9,"normal\n2.25.3,nodule\n')
    with pytest.raises(ConfigError, match="side table cannot be read"):
        ingest(series / "dicom", labels=Path("labels.csv"))
