from __future__ import annotations

import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import InputError
from medvlp.knowledge.concepts import check_concepts, load_concepts
from medvlp.knowledge.findings import FindingReader
from medvlp.knowledge.ontology import (
    Ontology,
    Synonym,
    Term,
    read_obo,
    read_ontology,
    read_table,
)
from medvlp.knowledge.rules import load_rules

HEADER = "format-version: 1.4\ndata-version: releases/2026-01-01\nontology: toy\n"
TOY = (
    HEADER
    + r"""import: http://example.org/other.obo
property_value: http://purl.org/dc/terms/license "https://example.org/cc0" xsd:string

! a remark between stanzas
! is none of the header

[Term]
id: T:1 ! the root
name: lung disease
namespace: toy

[Term]
id: T:2 {source="x"}
name: odd \{name\} of a lung\: pneumonia {note="a ! b"} ! said so
def: "A \"lung\" disease ! of\nany [kind]." [src:1 "a, b", url:http\://x] {since="1"} ! why
synonym: "lung  fever" EXACT layperson [a:b]
synonym: "chest infection" BROAD []
synonym: "inflamed lung" []
narrow_synonym: "lobar kind" []
xref: X:9 "described" {source="y"}
alt_id: T:20
is_a: T:1 {inferred="true"} ! lung disease
is_a: GONE:1
relationship: part_of T:3 {all="yes"} ! chest things
relationship: causes T:1
comment: a comment

[Term]
id: T:3
name: chest things
[Term]
id: T:4
name: old thing
is_obsolete: true
is_a: T:4

[Term]
id: T:5
no tag here
name: broken \
thing
def: no quotes
synonym: "unclosed EXACT []

[Typedef]
id: part_of
name: part of

[Instance]
id: T:99
"""
)


def write(folder: Path, text: str, name: str = "toy.obo") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_an_obo_file_is_read(tmp_path: Path) -> None:
    toy = read_ontology(write(tmp_path, TOY))
    assert (toy.name, toy.version) == ("toy", "releases/2026-01-01")
    assert toy.licence == "https://example.org/cc0"
    assert list(toy.terms) == ["T:1", "T:2", "T:3", "T:5"]
    assert toy.terms["T:1"] == Term("T:1", "lung disease", namespace="toy")
    assert toy.terms["T:2"] == Term(
        id="T:2",
        name="odd {name} of a lung: pneumonia",
        definition='A "lung" disease ! of any [kind].',
        synonyms=(
            Synonym("lung fever", "EXACT"),
            Synonym("chest infection", "BROAD"),
            Synonym("inflamed lung", "RELATED"),
            Synonym("lobar kind", "NARROW"),
        ),
        parents=("T:1", "GONE:1"),
        part_of=("T:3",),
        xrefs=("X:9",),
        alternates=("T:20",),
    )
    assert toy.obsolete == 1
    assert toy.dangling == ("GONE:1",)


def test_lines_that_cannot_be_read_are_noted_and_left_out(tmp_path: Path) -> None:
    toy = read_obo(write(tmp_path, TOY))
    assert toy.terms["T:5"] == Term("T:5", "broken thing")
    begin = TOY.split("\n").index("no tag here") + 1
    assert toy.problems == (
        f"line {begin}: no tag",
        f"line {begin + 3}: def has no text in quotes",
        f"line {begin + 4}: synonym has no text in quotes",
    )


def test_a_last_line_that_would_go_on_still_counts(tmp_path: Path) -> None:
    toy = read_obo(write(tmp_path, "[Term]\nid: a\nname: one \\\ntwo\\"))
    assert toy.terms["a"].name == "one two"


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n")])
def test_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    toy = read_obo(write(tmp_path, "\ufeff" + change(TOY)))
    assert toy.terms == read_obo(write(tmp_path, TOY, "other.obo")).terms
    assert toy.version


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "ontology-empty"),
        (HEADER, "ontology-empty"),
        ("[Term]\nname: x\n", "ontology-syntax"),
        ("[Term]\nid:\nname: x\n", "ontology-syntax"),
        ("[Term]\nid: a\n\n[Term]\nid: a\n", "ontology-duplicate"),
        ("[Term]\nid: a\nis_a: a\n", "ontology-cycle"),
        (
            "[Term]\nid: a\nis_a: b\n\n[Term]\nid: b\nis_a: c\n\n[Term]\nid: c\nis_a: b\n",
            "ontology-cycle",
        ),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        read_obo(write(tmp_path, text))
    assert caught.value.code == code
    if code == "ontology-cycle":
        assert caught.value.got in ("a -> a", "b -> c -> b", "c -> b -> c")


def test_a_file_that_is_not_utf8_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.obo"
    path.write_bytes("[Term]\nid: a\nname: Sjögren\n".encode("latin-1"))
    with pytest.raises(InputError, match="ontology-encoding"):
        read_ontology(path)
    with pytest.raises(InputError, match="ontology-unreadable"):
        read_ontology(tmp_path / "none.obo")


def test_a_licence_is_found_in_a_remark(tmp_path: Path) -> None:
    text = "remark: made by us\nremark: Licensed under CC0\\: see x\n[Term]\nid: a\nname: b\n"
    assert read_obo(write(tmp_path, text)).licence == "Licensed under CC0: see x"
    assert read_obo(write(tmp_path, "[Term]\nid: a\nname: b\n")).licence == ""


PLAIN = st.text(
    st.sampled_from('ab "\\!{}[]():,;\t\x0b\x85\u2028é'), min_size=1, max_size=12
).filter(lambda text: bool(text.split()))


def escaped(text: str) -> str:
    for char in '\\"!{}[]():,':
        text = text.replace(char, f"\\{char}")
    return text.replace("\t", "\\t")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PLAIN, PLAIN, st.lists(PLAIN, max_size=2)), min_size=1, max_size=4))
def test_what_is_written_escaped_is_read_as_it_was(tmp_path_factory, rows) -> None:  # type: ignore[no-untyped-def]
    lines = [HEADER]
    for at, (name, definition, synonyms) in enumerate(rows):
        lines.append(f"[Term]\nid: X:{at}\nname: {escaped(name)} ! {name.count('a')}")
        lines.append(f'def: "{escaped(definition)}" [] ! x')
        lines += [f'synonym: "{escaped(text)}" EXACT [] {{a="b"}}' for text in synonyms]
        lines.append("")
    folder = tmp_path_factory.mktemp("obo")
    terms = read_obo(write(folder, "\n".join(lines))).terms
    for at, (name, definition, synonyms) in enumerate(rows):
        term = terms[f"X:{at}"]
        assert term.name == " ".join(name.split())
        assert term.definition == " ".join(definition.split())
        assert [one.text for one in term.synonyms] == [" ".join(text.split()) for text in synonyms]


TABLE = """id;name;synonyms;parents;owner
H:1;lung disease;;;ward 3
H:2;"pneumonia; of the lung";lung fever| chest fever;H:1;
H:3;odd one;;H:1|GONE:7;
"""


def test_a_table_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE, "house.csv")
    house = read_ontology(path, delimiter=";")
    assert house.name == "house"
    assert house.terms["H:2"] == Term(
        "H:2",
        "pneumonia; of the lung",
        synonyms=(Synonym("lung fever"), Synonym("chest fever")),
        parents=("H:1",),
    )
    assert house.dangling == ("GONE:7",)
    assert house.descendants("H:1") == {"H:2", "H:3"}
    named = read_table(path, delimiter=";", name="ours", version="2", licence="internal")
    assert (named.name, named.version, named.licence) == ("ours", "2", "internal")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "ontology-columns"),
        ("id;name\na;b\n", "ontology-columns"),
        ("id,name\n", "ontology-empty"),
        ("id,name\na,b,c\n", "ontology-syntax"),
        ("id,name,parents\na,b\n", "ontology-syntax"),
        ("id,name\n,b\n", "ontology-syntax"),
        ('id,name\na,"b\n', "ontology-syntax"),
        ('id,name\na,"b"c\n', "ontology-syntax"),
        ("id,name\na,b\na,c\n", "ontology-duplicate"),
        ("id,name,parents\na,b,a\n", "ontology-cycle"),
    ],
)
def test_a_broken_table_is_refused_by_name(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        read_ontology(write(tmp_path, text, "house.csv"))
    assert caught.value.code == code


REAL = {
    "DO_RAD_slim.obo": 81,
    "DO_cancer_slim.obo": 729,
    "DO_infectious_disease_slim.obo": 536,
    "HumanDO_2015.obo": 6570,
    "uberon_efo-slim.obo": 611,
}


@lru_cache
def load(path: Path) -> Ontology:
    return read_ontology(path)


@pytest.fixture
def diseases(shared_data: Path) -> Ontology:
    return load(shared_data / "ontology" / "HumanDO_2015.obo")


@pytest.mark.parametrize("name", list(REAL))
def test_real_ontologies_are_read_whole(shared_data: Path, name: str) -> None:
    real = load(shared_data / "ontology" / name)
    assert len(real.terms) == REAL[name]
    assert real.problems == ()
    for term in real.terms.values():
        text = " ".join((term.name, term.definition, *(one.text for one in term.synonyms)))
        assert "\\" not in text
        assert not term.definition.startswith('"')


def test_the_disease_ontology_knows_pneumonia(diseases: Ontology) -> None:
    assert diseases.search("Pneumonias") == ("DOID:552",)
    assert diseases.is_a("DOID:552", "DOID:850")
    assert not diseases.is_a("DOID:850", "DOID:552")
    assert diseases.version == "20:03:2015 16:19"
    assert "Creative Commons Attribution 3.0" in diseases.licence
    assert diseases.obsolete == 2374


def test_uberon_knows_what_the_lung_is_part_of(shared_data: Path) -> None:
    uberon = load(shared_data / "ontology" / "uberon_efo-slim.obo")
    (lung,) = uberon.search("lung")
    whole = {uberon.terms[name].name for name in uberon.ancestors(lung, part_of=True)}
    assert "respiratory system" in whole
    assert uberon.ancestors(lung) <= uberon.ancestors(lung, part_of=True)


def test_a_branch_of_the_disease_ontology_extends_the_shipped_book(diseases: Ontology) -> None:
    book = load_concepts()
    new = diseases.to_concepts(diseases.descendants("DOID:850"), book=book, region="chest")
    assert 40 < len(new) < len(diseases.descendants("DOID:850"))
    found = check_concepts([*book.values(), *new])
    # "pulmonary emphysema" is the book's: its kinds become kinds of the book's concept.
    assert found["DOID:10030"].is_a == ("emphysema",)
    assert found["DOID:10030"].source == "doid 20:03:2015 16:19"
    reader = FindingReader(found, load_rules())
    (finding,) = reader.read("Interstitial emphysema is present.")
    assert (finding.concept, finding.polarity) == ("DOID:10030", "present")


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("DO")])
def test_whole_ontologies_fit_the_shipped_book(shared_data: Path, name: str) -> None:
    slim, book = load(shared_data / "ontology" / name), load_concepts()
    new = slim.to_concepts(slim.terms, book=book)
    assert len(new) > 0.8 * len(slim.terms)
    check_concepts([*book.values(), *new])


_GENERATED = """
import sys, time
from pathlib import Path
from medvlp.knowledge.ontology import read_ontology
path = Path(sys.argv[1])
with path.open("w") as file:
    file.write("format-version: 1.2\\n")
    for i in range(50_000):
        parent = f"is_a: G:{(i - 1) // 3} ! up\\n" if i else ""
        file.write(
            f'[Term]\\nid: G:{i}\\nname: thing number {i}\\ndef: "The {i}th thing." [a:{i}]\\n'
            f'synonym: "object {i}" EXACT []\\nsynonym: "item {i}" RELATED [a:b]\\nxref: X:{i}\\n'
            f"{parent}\\n"
        )
start = time.process_time()
ontology = read_ontology(path)
seconds = time.process_time() - start
assert len(ontology.terms) == 50_000
assert ontology.search("objects 777") == ("G:777",)
assert len(ontology.ancestors("G:49999")) == 10
status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
megabytes = int(status["VmHWM"].split()[0]) / 1024  # getrusage counts the parent's memory too
assert seconds < 5 and megabytes < 500, (seconds, megabytes)
"""


@pytest.mark.slow
def test_fifty_thousand_terms_take_seconds(tmp_path: Path) -> None:
    # In a process of its own: types are not checked there, and memory is its own.
    command = [sys.executable, "-c", _GENERATED, str(tmp_path / "large.obo")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_long_chain_and_a_wide_fan_are_walked() -> None:
    chain = Ontology.build(
        (Term(f"c{at}", f"link {at}", parents=(f"c{at - 1}",) if at else ()) for at in range(5000)),
        name="chain",
    )
    start = time.process_time()
    assert len(chain.ancestors("c4999")) == len(chain.descendants("c0")) == 4999
    assert time.process_time() - start < 5
