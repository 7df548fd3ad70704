"""Readers of ontologies: OBO 1.2 and 1.4, and tables.

The reader of OBO is ours: of the libraries, pronto and fastobo refuse a whole file for one line
that bends the grammar (current releases of Uberon, older ones of the Disease Ontology), and obonet
cuts a definition at an exclamation mark and merges terms of one id without a word.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from medvlp.errors import InputError
from medvlp.knowledge.terms import SCOPES, Ontology, Synonym, Term

__all__ = ["Ontology", "Synonym", "Term", "read_obo", "read_ontology", "read_table"]

_Clauses = dict[str, list[tuple[int, str]]]
"""Tag -> its (line number, raw value)."""

_OLD_SYNONYMS = {f"{scope.lower()}_synonym": scope for scope in SCOPES}
"""Tags of OBO 1.0."""
_TERM_TAGS = {"id", "name", "namespace", "def", "synonym", "is_a", "relationship", "xref",
              "alt_id", "is_obsolete", *_OLD_SYNONYMS}  # fmt: skip
_HEADER_TAGS = {"data-version", "version", "date", "ontology", "default-namespace", "remark",
                "property_value"}  # fmt: skip
_PART_OF = ("part_of", "BFO:0000050")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BARE = re.compile(r"((?:[^\\]|\\.)*?)(?:\s!.*|\s\{[^{}]*\}\s*(?:!.*)?)?$")
"""An unquoted value, before its trailing modifiers and its comment."""
_ESCAPE = re.compile(r"\\(.)")
_LICENCE = re.compile("licen[cs]e", re.IGNORECASE)


def read_ontology(path: Path, *, delimiter: str = ",") -> Ontology:
    """Read an ontology by the ending of its file: `.obo`, else a table.

    Raises:
        InputError: What `read_obo` or `read_table` raise.
    """
    return read_obo(path) if path.suffix == ".obo" else read_table(path, delimiter=delimiter)


def read_obo(path: Path) -> Ontology:
    """Read an OBO file.

    Read are the terms with name, definition, synonyms, is_a, part_of, xref, alt_id and namespace.
    Obsolete terms, relation types, instances and imports are left out. A line that cannot be read
    is left out and noted in `problems`.

    Raises:
        InputError: `ontology-unreadable`, `ontology-encoding`, `ontology-syntax` (a term without
            an id), or what `Ontology.build` raises.
    """
    file = _OboFile()
    for number, line in _logical_lines(_read_text(path).split("\n")):
        file.add(number, line)
    terms = file.finish()
    header = file.header
    return Ontology.build(
        terms,
        name=_header(header, "ontology", "default-namespace") or path.stem,
        version=_header(header, "data-version", "version", "date"),
        licence=_licence(header),
        obsolete=file.obsolete,
        problems=file.problems,
    )


def read_table(
    path: Path,
    *,
    delimiter: str = ",",
    separator: str = "|",
    name: str | None = None,
    version: str = "",
    licence: str = "",
) -> Ontology:
    """Read a table with a header line.

    Columns are `id`, `name` and, where they are, `synonyms` (exact ones), `parents`, `part_of`,
    `definition`; others are left out.

    Args:
        path: The file, UTF-8.
        delimiter: Between columns.
        separator: Between the entries of one cell.
        name: The ontology's name; by default the file's.
        version: Its version.
        licence: Its licence.

    Raises:
        InputError: `ontology-unreadable`, `ontology-encoding`, `ontology-columns` (no `id` or
            `name`), `ontology-syntax` (a row with too many or too few cells, or without an id), or
            what `Ontology.build` raises.
    """
    rows = csv.DictReader(StringIO(_read_text(path)), delimiter=delimiter, strict=True)
    terms = []
    try:
        columns = [(column or "").strip() for column in rows.fieldnames or ()]
        if not {"id", "name"} <= set(columns):
            raise InputError(
                "an ontology table needs the columns id and name",
                code="ontology-columns",
                got=columns,
                next_step="name the delimiter, if it is another one",
            )
        rows.fieldnames = columns
        for row in rows:
            terms.append(_row_term(row, separator, rows.line_num))
    except csv.Error as error:
        raise InputError(
            f"line {rows.line_num} is no row", code="ontology-syntax", got=str(error)
        ) from error
    return Ontology.build(terms, name=name or path.stem, version=version, licence=licence)


def _row_term(row: dict[str, str], separator: str, line: int) -> Term:
    # DictReader puts surplus cells under the key None, and None for missing ones.
    if None in row or None in row.values() or not row["id"].strip():
        raise InputError(f"line {line} has not one cell a column, or no id", code="ontology-syntax")

    def entries(column: str) -> tuple[str, ...]:
        cells = (_clean(cell) for cell in row.get(column, "").split(separator))
        return tuple(cell for cell in cells if cell)

    return Term(
        id=row["id"].strip(),
        name=_clean(row["name"]),
        definition=_clean(row.get("definition", "")),
        synonyms=tuple(Synonym(text) for text in entries("synonyms")),
        parents=entries("parents"),
        part_of=entries("part_of"),
    )


@dataclass(slots=True)
class _OboFile:
    """The stanzas of a file while it is read."""

    header: _Clauses = field(default_factory=dict)
    obsolete: int = 0
    problems: list[str] = field(default_factory=list)
    _terms: list[Term] = field(default_factory=list)
    _stanza: _Clauses | None = None
    """Of the term that is read; None in the header and in stanzas of other kinds."""
    _begin: int = 0
    _in_header: bool = True

    def add(self, number: int, line: str) -> None:
        """Take one line."""
        line = line.strip()
        if not line or line[0] == "!":
            return
        if line[0] == "[":
            self._close()
            self._in_header = False
            self._begin = number
            self._stanza = {} if line.startswith("[Term]") else None
            return
        tag, colon, value = line.partition(":")
        if self._in_header:
            clauses, tags = self.header, _HEADER_TAGS
        elif self._stanza is not None:
            clauses, tags = self._stanza, _TERM_TAGS
        else:
            return
        if not colon:
            self.problems.append(f"line {number}: no tag")
        elif tag in tags:
            clauses.setdefault(tag, []).append((number, value.strip()))

    def finish(self) -> list[Term]:
        """The terms, after the last line."""
        self._close()
        return self._terms

    def _close(self) -> None:
        stanza, self._stanza = self._stanza, None
        if stanza is None:
            return
        if not _ids(stanza, "id"):
            raise InputError(f"the term of line {self._begin} has no id", code="ontology-syntax")
        if _first(stanza, "is_obsolete") == "true":
            self.obsolete += 1
        else:
            self._terms.append(self._term(stanza))

    def _term(self, stanza: _Clauses) -> Term:
        relationships = (value.split() for _, value in stanza.get("relationship", ()))
        texts = [text for text, _ in self._quoted(stanza, "def")]
        return Term(
            id=_ids(stanza, "id")[0],
            name=_clean(_first(stanza, "name")),
            definition=texts[0] if texts else "",
            synonyms=tuple(self._synonyms(stanza)),
            parents=_ids(stanza, "is_a"),
            part_of=tuple(
                _unescape(row[1]) for row in relationships if len(row) > 1 and row[0] in _PART_OF
            ),
            xrefs=_ids(stanza, "xref"),
            namespace=_first(stanza, "namespace") or _header(self.header, "default-namespace"),
            alternates=_ids(stanza, "alt_id"),
        )

    def _synonyms(self, stanza: _Clauses) -> Iterator[Synonym]:
        for text, rest in self._quoted(stanza, "synonym"):
            scope = rest.split(maxsplit=1)[0] if rest else ""
            yield Synonym(text, scope if scope in SCOPES else "RELATED")
        for tag, old_scope in _OLD_SYNONYMS.items():
            for text, _ in self._quoted(stanza, tag):
                yield Synonym(text, old_scope)

    def _quoted(self, stanza: _Clauses, tag: str) -> Iterator[tuple[str, str]]:
        """The quoted text of every clause of a tag, and what follows it."""
        for number, value in stanza.get(tag, ()):
            match = _QUOTED.match(value)
            if match and (text := _clean(_unescape(match[1]))):
                yield text, value[match.end() :].strip()
            else:
                self.problems.append(f"line {number}: {tag} has no text in quotes")


def _logical_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that ends in a backslash goes on in the next."""
    kept, begin = "", 0
    for number, line in enumerate(lines, start=1):
        if line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2:
            kept, begin = kept + line[:-1], begin or number
            continue
        yield begin or number, kept + line
        kept, begin = "", 0
    if kept:
        yield begin, kept


def _bare(value: str) -> str:
    """A value without its comment and its trailing modifiers."""
    if "!" in value or "{" in value:
        match = _BARE.match(value)
        value = match[1] if match else value
    return _unescape(value.strip())


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: " " if match[1] in "ntW" else match[1], text)


def _clean(text: str) -> str:
    return " ".join(text.split())


def _first(clauses: _Clauses, tag: str) -> str:
    rows = clauses.get(tag)
    return _bare(rows[0][1]) if rows else ""


def _ids(clauses: _Clauses, tag: str) -> tuple[str, ...]:
    """The ids of a tag. An id has no spaces, so that what follows is a comment or the like."""
    return tuple(_unescape(value.split()[0]) for _, value in clauses.get(tag, ()) if value)


def _header(header: _Clauses, *tags: str) -> str:
    return next((text for tag in tags if (text := _first(header, tag))), "")


def _licence(header: _Clauses) -> str:
    """The value of a licence property, else the remark that speaks of a licence."""
    for _, value in header.get("property_value", ()):
        key, _, rest = value.partition(" ")
        if _LICENCE.search(key):
            quoted = _QUOTED.match(rest)
            return _unescape(quoted[1] if quoted else rest.split(" ")[0])
    remarks = (_unescape(value) for _, value in header.get("remark", ()))
    return next((text for text in remarks if _LICENCE.search(text)), "")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "the ontology is not UTF-8",
            code="ontology-encoding",
            got=f"byte {error.start}",
            next_step="save it as UTF-8",
        ) from error
    except OSError as error:
        raise InputError(
            "the ontology cannot be read", code="ontology-unreadable", got=error.strerror
        ) from error
