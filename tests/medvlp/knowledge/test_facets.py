from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import ConfigError, InputError
from medvlp.knowledge.concepts import Concept, load_concepts
from medvlp.knowledge.facets import (
    KINDS,
    TEMPLATES,
    FacetBook,
    definitions,
    facet_texts,
    load_facets,
)
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.tokens import normal_text

BOOK = load_facets()
PHANTOM = (
    "nodule mass consolidation pleural_effusion pneumothorax cardiomegaly atelectasis emphysema"
)
NIH14 = (
    "atelectasis cardiomegaly pleural_effusion infiltration mass nodule pneumonia pneumothorax "
    "consolidation edema emphysema fibrosis pleural_thickening hernia"
)
CHEXPERT14 = (
    "enlarged_cardiomediastinum cardiomegaly lung_lesion lung_opacity edema consolidation "
    "pneumonia atelectasis pneumothorax pleural_effusion pleural_plaque fracture support_device"
)
CONCEPTS = {"a": Concept("a", "apple"), "b": Concept("b", "pear"), "c": Concept("c", "plum")}
ROW: dict[str, Any] = {
    "definition": "round fruit",
    "facets": {"shape": "round", "texture": "crisp", "border": "red peel"},
    "source": "us",
    "licence": "Apache-2.0",
}


def test_all_findings_of_the_chest_are_described() -> None:
    assert len(BOOK.entries) >= 60
    assert set(f"{NIH14} {CHEXPERT14} {PHANTOM}".split()) <= set(BOOK.entries)
    chest = {c.id for c in load_concepts().values() if c.region in ("chest", "lung ultrasound")}
    assert set(BOOK.entries) == chest - {"normal"}


@pytest.mark.parametrize("name", PHANTOM.split())
def test_findings_of_the_phantom_have_all_six_facets(name: str) -> None:
    assert [facet.kind for facet in BOOK.entries[name].facets] == list(KINDS)


@pytest.mark.parametrize("name", list(BOOK.entries))
def test_every_entry_is_whole(name: str) -> None:
    entry = BOOK.entries[name]
    assert (entry.source, entry.licence) == ("medvlp", "Apache-2.0")
    assert 3 <= len(entry.facets) == len({facet.kind for facet in entry.facets})
    for facet in entry.facets:
        assert 3 <= len(facet.text.split()) <= 12, facet
        assert facet.text[-1] not in ".,;:", facet
    assert 3 <= len(entry.definition.split()) <= 20


@pytest.mark.parametrize("name", list(BOOK.entries))
def test_our_own_extraction_reads_the_sentences_as_present_and_denies_nothing(name: str) -> None:
    entry = BOOK.entries[name]
    named = [
        template.format(
            name=load_concepts()[name].name,
            Name=load_concepts()[name].name.capitalize(),
            kind=facet.kind,
            Kind=facet.kind.capitalize(),
            facet=facet.text,
        )
        for facet in entry.facets
        for template in TEMPLATES
    ]
    for text in (*named, *definitions(name)):
        found = extract_findings(text)
        assert all(finding.polarity == "present" for finding in found), (text, found)
        if text in named:
            assert name in {finding.concept for finding in found}, text


def test_no_text_occurs_twice() -> None:
    texts = [entry.definition for entry in BOOK.entries.values()]
    texts += [facet.text for entry in BOOK.entries.values() for facet in entry.facets]
    assert len({normal_text(text) for text in texts}) == len(texts)


def test_facets_are_told_in_order_and_plainly_without_a_generator() -> None:
    book = FacetBook.parse({"facets": {"a": ROW}}, CONCEPTS)
    assert book.facet_texts("a") == ("Apple: round.", "Apple: crisp.", "Apple: red peel.")
    assert book.definitions("a") == ("Apple: round fruit.", "Round fruit.")


def test_a_book_can_be_extended() -> None:
    base = FacetBook.parse({"facets": {"a": ROW}}, CONCEPTS)
    other = {**ROW, "definition": "long fruit", "facets": {"shape": "drop"}}
    both = FacetBook.parse({"facets": {"b": other}}, CONCEPTS, base)
    assert both.facet_texts("b") == ("Pear: drop.",)
    assert both.facet_texts("a") == base.facet_texts("a")
    changed = FacetBook.parse({"facets": {"a": other}}, CONCEPTS, base)
    assert changed.facet_texts("a") == ("Apple: drop.",)
    with pytest.raises(ConfigError, match="twice"):
        FacetBook.parse({"facets": {"b": ROW}}, CONCEPTS, base)


def test_a_concept_without_an_entry_has_no_texts_and_an_unknown_one_is_refused() -> None:
    assert facet_texts("normal") == definitions("normal") == ()
    assert facet_texts("normal", np.random.default_rng(0), 0.5) == ()
    for ask in (facet_texts, definitions):
        with pytest.raises(InputError, match="concept-unknown"):
            ask("nodul")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(BOOK.entries)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_dropout_keeps_at_least_one_and_only_facets(name: str, drop: float, seed: int) -> None:
    texts = facet_texts(name, np.random.default_rng(seed), drop)
    assert texts == facet_texts(name, np.random.default_rng(seed), drop)
    assert 1 <= len(texts) <= len(BOOK.entries[name].facets)
    facets = [facet.text for facet in BOOK.entries[name].facets]
    told = [next(at for at, facet in enumerate(facets) if facet in text) for text in texts]
    assert told == sorted(set(told))
    if drop == 0:
        assert len(texts) == len(facets)


def test_dropout_leaves_out_the_asked_share() -> None:
    rng = np.random.default_rng(7)
    kept = [len(facet_texts("nodule", rng, 0.5)) for _ in range(2000)]
    # Six facets at one half, and 1/64 of the time one in place of none.
    assert abs(np.mean(kept) - (3 + 1 / 64)) < 0.1
    assert {len(facet_texts("nodule", rng, 1.0)) for _ in range(20)} == {1}


def test_all_templates_and_all_facets_are_drawn() -> None:
    rng = np.random.default_rng(3)
    texts = {text for _ in range(300) for text in facet_texts("mass", rng, 0.8)}
    assert len(texts) == len(TEMPLATES) * len(KINDS)


@pytest.mark.parametrize(("rng", "drop"), [(None, 0.5), (np.random.default_rng(0), 1.5)])
def test_dropout_needs_a_probability_and_a_generator(
    rng: np.random.Generator | None, drop: float
) -> None:
    with pytest.raises(ValueError, match="dropout"):
        facet_texts("nodule", rng, drop)


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        (None, "mapping"),
        ({"facets": []}, "mapping"),
        ({"facets": {"x": ROW}}, "unknown concept"),
        ({"facets": {"a": {**ROW, "facets": {"smell": "sweet"}}}}, "none of the six"),
        ({"facets": {"a": {**ROW, "facets": {}}}}, "none of the six"),
        ({"facets": {"a": {**ROW, "facets": ["round"]}}}, "none of the six"),
        ({"facets": {"a": {**ROW, "facets": {"shape": " - "}}}}, "no words"),
        ({"facets": {"a": {**ROW, "facets": {"shape": None}}}}, "no words"),
        ({"facets": {"a": {**ROW, "definition": ""}}}, "no words"),
        ({"facets": {"a": {**ROW, "licence": ""}}}, "no words"),
        ({"facets": {"a": {k: v for k, v in ROW.items() if k != "source"}}}, "lacks a key"),
        ({"facets": {"a": {**ROW, "colour": "red"}}}, "unknown one"),
        ({"facets": {"a": ROW, "b": {**ROW, "facets": {"shape": "oval"}}}}, "twice"),
        ({"facets": {"a": ROW, "b": {**ROW, "definition": "Round."}}}, "twice"),
        ({"facets": {"a": {**ROW, "facets": {"shape": "red", "border": "Red."}}}}, "twice"),
    ],
)
def test_an_inconsistent_book_is_refused(tree: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        FacetBook.parse(tree, CONCEPTS)
    assert caught.value.code == "book-invalid"


def test_facets_regions_and_ontologies_import_no_torch() -> None:
    code = (
        "import sys, medvlp.knowledge.facets, medvlp.knowledge.relations;"
        "import medvlp.knowledge.ontology;"
        "medvlp.knowledge.facets.load_facets();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
