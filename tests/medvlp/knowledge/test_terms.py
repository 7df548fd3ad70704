from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import InputError
from medvlp.knowledge.concepts import Concept, check_concepts
from medvlp.knowledge.terms import SCOPES, Ontology, Synonym, Term

TOY = Ontology.build(
    [
        Term("root", "disease"),
        Term("lung", "lung disease", parents=("root", "gone")),
        Term("heart", "heart disease", parents=("root",), alternates=("cor",)),
        Term(
            "pn",
            "pneumonia",
            synonyms=(Synonym("lung fever"), Synonym("PN"), Synonym("fever", "BROAD")),
            parents=("lung",),
            part_of=("heart",),
        ),
        Term("viral", "viral pneumonia", parents=("pn",)),
        Term("both", "cor pulmonale", parents=("lung", "heart")),
    ],
    name="toy",
    version="1",
)


def test_kinds_are_walked_up_and_down() -> None:
    assert TOY.ancestors("viral") == {"pn", "lung", "root"}
    assert TOY.ancestors("both") == {"lung", "heart", "root"}
    assert TOY.descendants("lung") == {"pn", "viral", "both"}
    assert TOY.children("root") == ("lung", "heart")
    assert TOY.children("viral") == ()
    assert TOY.descendants("viral") == frozenset()


def test_parts_are_walked_when_asked() -> None:
    assert TOY.ancestors("viral", part_of=True) == {"pn", "lung", "heart", "root"}


def test_a_term_is_a_kind_of_itself_and_of_its_ancestors() -> None:
    assert TOY.is_a("viral", "viral")
    assert TOY.is_a("viral", "root")
    assert not TOY.is_a("root", "viral")
    assert not TOY.is_a("viral", "heart")


def test_parents_that_are_missing_are_counted() -> None:
    assert TOY.dangling == ("gone",)


def test_former_ids_lead_to_the_term_and_unknown_ones_are_refused() -> None:
    assert TOY.term("cor").id == "heart"
    assert TOY.is_a("both", "cor")
    for ask in (TOY.term, TOY.children, TOY.ancestors, TOY.descendants):
        with pytest.raises(InputError, match="term-unknown"):
            ask("gone")


def test_phrases_are_found_whatever_their_case_and_number() -> None:
    assert TOY.search("Viral  Pneumonias") == ("viral",)
    assert TOY.search("lung-fever") == ("pn",)
    assert TOY.search("viral") == TOY.search("") == ()


def test_broader_synonyms_count_only_when_asked() -> None:
    assert TOY.search("fever") == ()
    assert TOY.search("fever", scopes=SCOPES) == ("pn",)
    assert TOY.search("pneumonia", scopes=()) == ("pn",)


def test_concepts_keep_the_order_and_the_kinds() -> None:
    concepts = TOY.to_concepts(["lung", "pn", "viral"], region="chest", laterality=False)
    assert concepts == (
        Concept("lung", "lung disease", laterality=False, region="chest", source="toy 1"),
        Concept(
            *("pn", "pneumonia", ("lung fever",), ("lung",)),
            laterality=False,
            region="chest",
            source="toy 1",
        ),
        Concept(
            *("viral", "viral pneumonia", (), ("pn",)),
            laterality=False,
            region="chest",
            source="toy 1",
        ),
    )


def test_a_parent_that_is_not_chosen_gives_way_to_its_own() -> None:
    concepts = {concept.id: concept for concept in TOY.to_concepts(["root", "viral", "both"])}
    assert concepts["viral"].is_a == concepts["both"].is_a == ("root",)


def test_a_name_that_the_book_knows_is_the_books_concept() -> None:
    book = {"pneumonia": Concept("pneumonia", "pneumonia", ("lung fever",))}
    concepts = TOY.to_concepts(TOY.terms, book=book)
    assert [concept.id for concept in concepts] == ["root", "lung", "heart", "viral", "both"]
    assert concepts[3].is_a == ("pneumonia",)
    again = {**book, **{concept.id: concept for concept in concepts}}
    assert TOY.to_concepts(TOY.terms, book=again) == ()


def test_abbreviations_are_no_phrases_of_a_concept() -> None:
    (concept,) = TOY.to_concepts(["pn"])
    assert concept.synonyms == ("lung fever",)


def test_a_term_without_a_name_becomes_no_concept() -> None:
    nameless = Ontology.build([Term("a", "")], name="x")
    assert nameless.search("") == ()
    with pytest.raises(InputError, match="term-nameless"):
        nameless.to_concepts(["a"])


WORDS = st.sampled_from(["lung", "heart", "fever", "big", "lungs", "ALL"])
PHRASES = st.lists(WORDS, min_size=1, max_size=2).map(" ".join)


@st.composite
def graphs(draw: st.DrawFn) -> list[Term]:
    count = draw(st.integers(1, 7))
    terms = []
    for at in range(count):
        parents = draw(st.sets(st.integers(-1, at - 1), max_size=2)) if at else set()
        synonyms = draw(st.lists(PHRASES, max_size=2))
        terms.append(
            Term(
                f"t{at}",
                draw(PHRASES),
                synonyms=tuple(Synonym(text) for text in synonyms),
                parents=tuple(f"t{up}" for up in sorted(parents)),
            )
        )
    return terms


@settings(max_examples=100, deadline=None)
@given(graphs(), st.randoms())
def test_walks_agree_with_the_closure_and_with_each_other(terms, random) -> None:  # type: ignore[no-untyped-def]
    random.shuffle(terms)
    toy = Ontology.build(terms, name="toy")
    reach = {(term.id, up) for term in terms for up in term.parents if up in toy.terms}
    while True:
        more = reach | {(a, d) for a, b in reach for c, d in reach if b == c}
        if more == reach:
            break
        reach = more
    for one in toy.terms:
        assert toy.ancestors(one) == {up for low, up in reach if low == one}
        assert toy.descendants(one) == {low for low, up in reach if up == one}
        for other in toy.terms:
            assert toy.is_a(one, other) == (one == other or (one, other) in reach)
        assert one in toy.search(toy.terms[one].name)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sets(st.integers(0, 6)), st.booleans())
def test_concepts_of_any_terms_fit_any_book(terms, picked, with_book) -> None:  # type: ignore[no-untyped-def]
    toy = Ontology.build(terms, name="toy")
    book = {"big": Concept("big", "big", ("lung fever",)), "x": Concept("x", "x", is_a=("big",))}
    book = book if with_book else {}
    ids = [f"t{at}" for at in picked if f"t{at}" in toy.terms]
    concepts = toy.to_concepts(ids, book=book)
    found = check_concepts([*book.values(), *concepts])
    for concept in concepts:
        for parent in concept.is_a:
            assert parent in found
            if parent in toy.terms:
                assert toy.is_a(concept.id, parent)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_a_cycle_is_always_found(terms) -> None:  # type: ignore[no-untyped-def]
    last = terms[-1]
    closed = [*terms[:-1], Term(last.id, last.name, parents=(*last.parents, "loop"))]
    closed.append(Term("loop", "loop", parents=(last.id,)))
    with pytest.raises(InputError, match="ontology-cycle") as caught:
        Ontology.build(closed, name="toy")
    assert str(caught.value.got).count("loop") >= 1
