from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_connectors.images.source import ImagesSource
from data_connectors.images.texts import describe
from medvlp.errors import InputError

NIH = {"No Finding": "normal", "Effusion": "pleural_effusion", "Mass": "mass", "Tube": ""}


def said(row: dict[str, str] | list[dict[str, str]], **keys: Any) -> Any:
    source = ImagesSource(
        **{
            "name": "x",
            "path": Path(),
            "table": Path("t.csv"),
            "patient_per_image": True,
            "label_column": "label",
            "label_map": NIH,
            **keys,
        }
    )
    return describe(source, row if isinstance(row, list) else [row])


def test_labels_are_both_gold_and_findings() -> None:
    found = said({"label": "Mass|Effusion"})
    assert found.labels == ("mass", "pleural_effusion")
    assert [(f.concept, f.polarity, f.start) for f in found.findings] == [
        ("mass", "present", -1),
        ("pleural_effusion", "present", -1),
    ]


def test_closed_world_denies_the_rest() -> None:
    found = said({"label": "Mass"}, closed_world=True)
    assert {f.concept: f.polarity for f in found.findings} == {
        "mass": "present",
        "pleural_effusion": "absent",
        "normal": "absent",
    }


def test_unlabelled_image_denies_nothing() -> None:
    assert said({"label": ""}, closed_world=True).findings == ()


def test_label_mapped_to_nothing_is_dropped_and_unknown_one_refused() -> None:
    assert said({"label": "Mass|Tube"}).labels == ("mass",)
    with pytest.raises(InputError, match="label-unmapped"):
        said({"label": "Mass|Bone"})


def test_without_a_map_labels_become_ids() -> None:
    found = said({"label": "COVID-19/Mass"}, label_map={}, label_separator="/")
    assert found.labels == ("covid_19", "mass")


def test_every_caption_template_is_stored() -> None:
    templates = ("{view} radiograph with {labels}.", "{labels}")
    row = {"label": "Mass|Effusion", "v": "PA"}
    words = {"Effusion": "pleural effusion"}
    found = said(row, captions=templates, view_column="v", label_words=words)
    assert [(text.level, text.text) for text in found.texts] == [
        ("caption", "PA radiograph with mass and pleural effusion."),
        ("caption", "mass and pleural effusion"),
    ]


def test_normal_image_has_captions_of_its_own() -> None:
    keys = {"captions": ("With {labels}.",), "normal_captions": ("Normal chest radiograph.",)}
    assert [t.text for t in said({"label": "No Finding"}, **keys).texts] == [
        "Normal chest radiograph."
    ]
    assert [t.text for t in said({"label": "Mass"}, **keys).texts] == ["With mass."]


def test_caption_that_lacks_a_value_is_not_made() -> None:
    keys = {"captions": ("{view} view: {labels}", "{labels}"), "view_column": "v"}
    assert [t.text for t in said({"label": "Mass", "v": ""}, **keys).texts] == ["mass"]


def test_rows_of_one_image_give_one_text_each() -> None:
    rows = [
        {"q": "Where?", "a": "Left"},
        {"q": "What?", "a": "NULL"},
        {"q": "Why?", "a": "Mass"},
        {"q": "Where?", "a": "Left"},
    ]
    keys = {"label_column": None, "text_template": "{q} {a}", "text_level": "sentence"}
    found = said(rows, **keys)
    assert [(t.level, t.text) for t in found.texts] == [
        ("sentence", "Where? Left"),
        ("sentence", "Why? Mass"),
    ]


def test_text_columns_are_stored_as_they_are() -> None:
    row = {"n1": "Peripheral opacities.", "n2": ""}
    found = said(row, label_column=None, text_columns=("n1", "n2"), text_level="document")
    assert [(t.level, t.text) for t in found.texts] == [("document", "Peripheral opacities.")]
