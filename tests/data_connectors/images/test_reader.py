from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_connectors.images.reader import find, read
from data_connectors.images.source import ImagesSource
from data_connectors.items import Refused, VisualItem
from data_connectors.source import Unit
from medvlp.errors import ConfigError


def ingest(path: Path, **keys: Any) -> tuple[list[VisualItem], Counter[str]]:
    """Visuals, and refusals by code; checks that every input comes out once."""
    source = ImagesSource(name="test", path=path, **keys)
    visuals: list[VisualItem] = []
    codes: Counter[str] = Counter()
    for found in find(source):
        items = [found] if isinstance(found, Refused) else list(read(source, found))
        assert [name for item in items for name in item.inputs] == list(found.inputs)
        visuals += [item for item in items if isinstance(item, VisualItem)]
        codes.update(item.code for item in items if isinstance(item, Refused))
    return visuals, codes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("p1_a.png", "p1_b.png", "p2_a.png"):
        pixels = np.full((8, 8), sum(name.encode()) % 256, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_patient_from_the_file_name(folder: Path) -> None:
    visuals, codes = ingest(folder, patient_pattern=r"^(p\d)_")
    assert [item.identity.patient for item in visuals] == ["p1", "p1", "p2"]
    assert not codes


def test_file_name_that_does_not_fit_is_refused(folder: Path) -> None:
    _, codes = ingest(folder, patient_pattern=r"^(p1)_")
    assert codes == {"patient-id-missing": 1}


def test_images_and_rows_without_their_other_half(folder: Path) -> None:
    (folder / "t.csv").write_text("file,who\np1_a.png,P1\ngone.png,P9\n,P3\n")
    (folder / "README.md").write_text("x")
    visuals, codes = ingest(folder, table=Path("t.csv"), patient_column="who")
    assert [item.inputs for item in visuals] == [("p1_a.png",)]
    assert codes == {"row-missing": 2, "image-missing": 1, "row-without-image": 1, "not-image": 1}


def test_rows_that_name_two_patients_are_refused(folder: Path) -> None:
    (folder / "t.csv").write_text("file,who\np1_a.png,P1\np1_a.png,P2\n")
    _, codes = ingest(folder, table=Path("t.csv"), patient_column="who")
    assert codes["patient-ambiguous"] == 1


def test_wrong_extension_is_read_by_content(folder: Path) -> None:
    (folder / "p1_a.png").rename(folder / "p1_a.JPG")
    (folder / "p3_x.png").write_text("text")
    (folder / "p3_y.png").write_bytes((folder / "p1_b.png").read_bytes()[:50])
    visuals, codes = ingest(folder, patient_per_image=True)
    assert len(visuals) == 3
    assert {item.payload.members[0][0] for item in visuals} == {"png"}
    assert codes == {"image-not-decodable": 1, "image-truncated": 1}


def test_columns_of_the_row_go_into_the_item(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "file,who,exam,kind,view,terms,label\np1_a.png,P1,S1,CR,PA,CC BY 4.0,Mass\n"
    )
    [item], _ = ingest(
        folder,
        table=Path("t.csv"),
        licence="default",
        patient_column="who",
        study_column="exam",
        modality_column="kind",
        view_column="view",
        licence_column="terms",
        label_column="label",
        captions=("{modality} {view}: {labels}",),
    )
    assert (item.identity.patient, item.identity.study) == ("P1", "S1")
    assert (item.modality, item.licence, item.provenance) == ("CR", "CC BY 4.0", "test")
    assert (item.labels, item.texts[0].text) == (("mass",), "CR PA: mass")


def test_unit_changes_with_its_row(folder: Path) -> None:
    table = folder / "t.csv"
    source = ImagesSource(name="x", path=folder, table=Path("t.csv"), patient_column="who")
    ids = set()
    for who in ("P1", "P22", "P333"):
        table.write_text(f"file,who\np1_a.png,{who}\n")
        ids |= {unit.id for unit in find(source) if isinstance(unit, Unit)}
    assert len(ids) == 3


def test_missing_table_stops_the_ingest(folder: Path) -> None:
    with pytest.raises(ConfigError, match="table-unreadable"):
        ingest(folder, table=Path("gone.csv"), patient_per_image=True)


def test_refusals_never_name_files_or_values(folder: Path) -> None:
    (folder / "t.csv").write_text("file,who\nCANARY.png,CANARY\np1_a.png,CANARY\n")
    source = ImagesSource(
        name="x", path=folder, table=Path("t.csv"), patient_column="who", max_pixels=1
    )
    for found in find(source):
        for item in [found] if isinstance(found, Refused) else read(source, found):
            assert isinstance(item, Refused)
            assert "CANARY" not in item.reason + item.next_step + item.code


class TestRealSources:
    """The public collections, with the keys that an ingest would use."""

    def test_kermany(self, shared_data: Path) -> None:
        visuals, codes = ingest(
            shared_data / "cxr_kermany256",
            table=Path("labels.csv"),
            patient_column="patient",
            label_column="label",
            label_map={
                "normal": "normal",
                "bacterial pneumonia": "bacterial_pneumonia",
                "viral pneumonia": "viral_pneumonia",
            },
            closed_world=True,
            captions=("Chest radiograph with {labels}.", "{labels}"),
            normal_captions=("Normal chest radiograph.",),
        )
        assert (len(visuals), codes) == (770, {})
        assert {item.labels for item in visuals} == {
            ("normal",), ("bacterial_pneumonia",), ("viral_pneumonia",)
        }  # fmt: skip
        assert all(len(item.findings) == 3 for item in visuals)
        assert all(len(item.texts) == 1 + ("normal" not in item.labels) for item in visuals)

    def test_nih_is_stored_in_a_folder_below(self, shared_data: Path) -> None:
        visuals, codes = ingest(
            shared_data / "cxr_nih64",
            table=Path("labels_nih14.csv"),
            file_column="Image Index",
            patient_column="Patient ID",
            label_column="Finding Labels",
        )
        assert (len(visuals), codes) == (724, {})
        assert len({item.identity.patient for item in visuals}) == 198
        assert {item.geometry.shape for item in visuals} == {(64, 64)}
        assert len({label for item in visuals for label in item.labels}) == 15

    def test_notes_carry_text_and_licence(self, shared_data: Path) -> None:
        visuals, codes = ingest(
            shared_data / "cxr_notes",
            table=Path("metadata.csv"),
            file_column="filename",
            patient_column="patientid",
            text_columns=("clinical_notes",),
            licence_column="license",
            max_pixels=10**6,  # the small ones are enough here
        )
        assert len(visuals) + codes["image-too-large"] == 75
        assert all(item.texts and item.licence.startswith("CC BY") for item in visuals)

    def test_questions_are_grouped_by_image(self, shared_data: Path) -> None:
        source = ImagesSource(
            name="x",
            path=shared_data / "vqa_rad",
            table=Path("vqa_rad.json"),
            file_column="image_name",
            patient_column="image_case_url",
            text_template="{question} {answer}",
        )
        units = [found for found in find(source) if not isinstance(found, Refused)]
        assert len(units) == 157
        [item] = read(source, units[0])
        assert isinstance(item, VisualItem)
        assert len(item.texts) > 1
        assert all("?" in text.text for text in item.texts)

    def test_hannover_has_more_rows_than_images(self, shared_data: Path) -> None:
        visuals, codes = ingest(
            shared_data / "cxr_hannover",
            table=Path("data.csv"),
            file_column="image_id",
            patient_column="patient_id",
        )
        assert len(visuals) == 16
        assert codes == {"image-missing": 227, "not-image": 1}

    def test_frames_without_a_table(self, shared_data: Path) -> None:
        visuals, codes = ingest(
            shared_data / "surg_intermountain", patient_pattern=r"^(\d+-\d+)-frame"
        )
        assert (len(visuals), codes) == (60, {"not-image": 1})
        assert len({item.identity.patient for item in visuals}) == 3
