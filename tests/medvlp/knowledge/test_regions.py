from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.ontology import read_ontology
from medvlp.knowledge.regions import load_anatomy, load_regions, parse_anatomy, region_of
from medvlp.knowledge.rules import load_rules
from medvlp.knowledge.tokens import words
from medvlp.types import Side

REGIONS = load_regions()
ANATOMY = load_anatomy()


def entry(name: str, **more: Any) -> dict[str, Any]:
    own = {"id": name, "name": name, "definition": f"the {name}", "source": "us", "licence": "x"}
    return {**own, **more}


def test_the_book_is_large_enough_and_of_our_own_writing() -> None:
    assert len(REGIONS) >= 40
    assert {(region.source, region.licence) for region in REGIONS.values()} == {
        ("medvlp", "Apache-2.0")
    }
    assert all(region.definition for region in REGIONS.values())


@pytest.mark.parametrize(
    "name",
    [
        *("left_lung", "right_upper_lobe", "right_middle_lobe", "left_lower_lobe", "lingula"),
        *("left_apex", "right_base", "left_hilum", "mediastinum", "left_pleura", "heart"),
        *("right_costophrenic_angle", "right_hemidiaphragm", "aortic_arch", "trachea"),
        *("left_ribs", "thoracic_spine", "left_clavicle", "liver", "spleen", "brain"),
    ],
)
def test_regions_that_others_rely_on(name: str) -> None:
    region = REGIONS[name]
    assert region.id == name
    side = next((side for side in ("left", "right") if name.startswith(side)), None)
    assert region.side == ("left" if name == "lingula" else side)


def test_sided_regions_carry_their_side_in_every_text() -> None:
    for region in REGIONS.values():
        if region.id != region.stem:
            assert region.side is not None
            assert region.name.startswith(region.side)
            assert region.side in region.definition
        assert "{" not in region.definition


def test_there_is_no_left_middle_lobe() -> None:
    assert "left_middle_lobe" not in REGIONS


@pytest.mark.parametrize("anatomy", list(load_rules().tree["anatomy"]))
def test_every_place_that_texts_can_name_is_a_region(anatomy: str) -> None:
    assert ANATOMY.candidates(anatomy)
    for side in ("left", "right"):
        for name in region_of(anatomy, side):
            assert REGIONS[name].side in (side, None)


@pytest.mark.parametrize(
    ("anatomy", "side", "regions"),
    [
        ("upper_lobe", "left", ("left_upper_lobe",)),
        ("upper_lobe", "right", ("right_upper_lobe",)),
        ("upper_lobe", "bilateral", ("left_upper_lobe", "right_upper_lobe")),
        ("upper_lobe", None, ()),
        ("upper_lobe", "midline", ()),
        ("middle_lobe", None, ("right_middle_lobe",)),
        ("middle_lobe", "right", ("right_middle_lobe",)),
        ("middle_lobe", "left", ()),
        ("lingula", None, ("lingula",)),
        ("lingula", "right", ()),
        ("mediastinum", "left", ("mediastinum",)),
        ("mediastinum", "midline", ("mediastinum",)),
        ("lungs", None, ("lungs",)),
        ("lungs", "right", ("right_lung",)),
        ("lungs", "bilateral", ("left_lung", "right_lung")),
        ("cerebellum", "right", ("right_cerebellar_hemisphere",)),
        ("left_lung", None, ("left_lung",)),
        ("left_lung", "right", ()),
        ("nowhere", "left", ()),
        (None, "left", ()),
        (None, None, ()),
    ],
)
def test_a_place_and_a_side_mean_regions(
    anatomy: str | None, side: Side | None, regions: tuple[str, ...]
) -> None:
    assert region_of(anatomy, side) == regions


def test_parts_and_wholes_mirror_each_other() -> None:
    for name, above in ANATOMY.above.items():
        assert name in above
        for other in above:
            assert name in ANATOMY.below[other]
    assert ANATOMY.above["left_apex"] >= {"left_upper_lobe", "left_lung", "lungs", "thorax"}
    assert "right_lung" not in ANATOMY.above["left_apex"]


def test_left_and_right_are_built_alike() -> None:
    swap = {"left": "right", "right": "left"}
    for name, region in REGIONS.items():
        if region.id == region.stem or region.stem == "middle_lobe":
            continue
        assert region.side is not None
        twin = f"{swap[region.side]}_{region.stem}"
        mirrored = {
            f"{swap[up.split('_', 1)[0]]}_{up.split('_', 1)[1]}"
            if up.startswith(("left_", "right_"))
            else up
            for up in ANATOMY.above[name]
        }
        assert mirrored == ANATOMY.above[twin]


def test_homes_are_of_known_concepts_and_places() -> None:
    assert set(ANATOMY.homes) <= set(load_concepts())
    assert ANATOMY.homes["pleural_effusion"].place == "pleurae"
    # "Hilar mass" and "mediastinal mass" are phrases of `mass`: its home must not be the lung.
    assert ANATOMY.homes["mass"].place == "thorax"


def test_uberon_ids_name_the_same_structure(shared_data: Path) -> None:
    uberon = read_ontology(shared_data / "ontology" / "uberon_efo-slim.obo")
    compared = 0
    for region in REGIONS.values():
        term = uberon.terms.get(region.uberon or "")
        if term is None:
            continue
        theirs = {words(text) for text in (term.name, *(one.text for one in term.synonyms))}
        plain = (words(text) for text in (region.name, region.stem, *region.synonyms))
        ours = {tuple(word for word in text if word not in ("left", "right")) for text in plain}
        ours |= {("pleura",)} if region.id == "pleurae" else set()
        assert ours & theirs, (region.id, term.name)
        compared += 1
    assert compared >= 30


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        (None, "mapping"),
        ({"regions": [{"id": "a"}]}, "lacks a key"),
        ({"regions": [entry("a", colour="red")]}, "unknown one"),
        ({"regions": [entry("a", source="")]}, "source is empty"),
        ({"regions": [entry("a", sides=["up"])]}, "left or right"),
        ({"regions": [entry("a", side="bilateral")]}, "left or right"),
        ({"regions": [entry("a"), entry("a")]}, "twice"),
        ({"regions": [entry("a"), entry("b", synonyms=["A"])]}, "two regions"),
        ({"regions": [entry("a", sides=["left", "right"])]}, "two regions"),
        ({"regions": [entry("a", part_of=["b"])]}, "no region"),
        ({"regions": [entry("a", part_of=["b"]), entry("b", part_of=["a"])]}, "cycle"),
        ({"regions": [entry("a", part_of=["b"]), entry("b", sides=["left"])]}, "which side"),
        ({"regions": [entry("a")], "homes": {"always": {"b": ["nodule"]}}}, "no region"),
        ({"regions": [entry("a")], "homes": {"never": {"a": ["nodule"]}}}, "always or"),
        (
            {
                "regions": [entry("a")],
                "homes": {"always": {"a": ["x"]}, "unless_said": {"a": ["x"]}},
            },
            "two homes",
        ),
    ],
)
def test_an_inconsistent_book_is_refused(tree: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_anatomy(tree)
    assert caught.value.code == "book-invalid"
