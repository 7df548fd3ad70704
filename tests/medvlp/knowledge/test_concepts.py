from __future__ import annotations

import subprocess
import sys

import pytest

from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import (
    Concept,
    ancestors,
    check_concepts,
    descendants,
    load_concepts,
    parse_book,
)

_NIH14 = (
    "atelectasis cardiomegaly pleural_effusion infiltration mass nodule pneumonia pneumothorax "
    "consolidation edema emphysema fibrosis pleural_thickening hernia"
)
_OTHERS = (
    "normal bacterial_pneumonia viral_pneumonia covid_19 tuberculosis fracture support_device "
    "granuloma scoliosis degenerative_change ground_glass_opacity lung_opacity b_lines a_lines "
    "pleural_line_irregularity infarct intracranial_hemorrhage brain_mass"
)


@pytest.mark.parametrize("name", f"{_NIH14} {_OTHERS}".split())
def test_the_books_hold_the_concepts_others_rely_on(name: str) -> None:
    assert load_concepts()[name].id == name


def test_the_books_are_of_our_own_writing_and_large_enough() -> None:
    concepts = load_concepts()
    assert len(concepts) >= 60
    assert {concept.source for concept in concepts.values()} == {"medvlp"}
    assert all(concept.region for concept in concepts.values())


def test_ancestors_are_the_transitive_closure() -> None:
    above = ancestors(load_concepts())
    assert above["covid_19"] == {"viral_pneumonia", "pneumonia", "lung_infection", "lung_opacity"}
    assert above["pneumothorax"] == frozenset()


def test_descendants_mirror_ancestors() -> None:
    concepts = load_concepts()
    above, below = ancestors(concepts), descendants(concepts)
    pairs = {(child, parent) for child, parents in above.items() for parent in parents}
    assert pairs == {(child, parent) for parent, group in below.items() for child in group}


def test_normal_denies_concepts_that_exist() -> None:
    concepts = load_concepts()
    assert set(concepts["normal"].denies) <= set(concepts)
    assert "pneumonia" in concepts["normal"].denies


@pytest.mark.parametrize(
    ("concepts", "complaint"),
    [
        ([Concept("a", "apple"), Concept("a", "pear")], "twice"),
        ([Concept("a", "apple"), Concept("b", "pear", ("apples",))], "two concepts"),
        ([Concept("a", "apple", is_a=("b",))], "unknown"),
        ([Concept("a", "apple", is_a=("b",)), Concept("b", "pear", is_a=("a",))], "cycle"),
        ([Concept("a", " - ")], "no words"),
    ],
)
def test_an_inconsistent_book_is_refused(concepts: list[Concept], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        check_concepts(concepts)
    assert caught.value.code == "book-invalid"


@pytest.mark.parametrize(
    "tree", [None, {}, {"concepts": [{"id": "a"}]}, {"concepts": [{"id": 1, "name": 2, "nme": 3}]}]
)
def test_a_malformed_book_is_refused(tree: object) -> None:
    with pytest.raises(ConfigError):
        parse_book(tree)


def test_concepts_and_prompts_import_no_torch() -> None:
    code = (
        "import sys, medvlp.knowledge.concepts, medvlp.knowledge.prompts;"
        "medvlp.knowledge.prompts.build_prompts(['nodule']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
