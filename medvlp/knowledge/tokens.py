"""Tokens of clinical English with character spans, and the form in which phrases are compared."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import blake2b

# A number with its decimals is one token, so that "1.5 cm" keeps its point. Everything that is
# neither a word nor space is a token of its own: scope rules need the commas.
TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+|[^\w\s]|_+")
_JOINERS = frozenset("-\u2010\u2011'’\"“”_")
_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
_LIST_NUMBER = re.compile(r"\s*(?:\(?\d{1,2}[.)]|[-*•])\s+(?=\S)")
_KEEP_S = ("ss", "us", "is")


def normal(token: str) -> str:
    """A token in the form in which it is compared: lower case, singular.

    The plural rule is crude on purpose: it is applied to both sides of every comparison.
    """
    token = token.lower()
    if len(token) > 3 and token.endswith("s") and not token.endswith(_KEEP_S):
        if token.endswith("ies"):
            return token[:-3] + "y"
        if token.endswith(("sses", "xes", "ches", "shes")):
            return token[:-2]
        return token[:-1]
    return token


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one text: their normal forms and their character spans."""

    norms: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def tokenize(text: str) -> Tokens:
    """Words and punctuation of a text. Hyphens inside words and quotes are no tokens.

    A dash between spaces stays: it separates.
    """
    norms, starts, ends = [], [], []
    for match in TOKEN.finditer(text):
        token, start, end = match.group(), match.start(), match.end()
        if token[0] in _JOINERS:
            spaced = text[start - 1 : start].isspace() and text[end : end + 1].isspace()
            if token[0] != "-" or not spaced:
                continue
        norms.append(normal(token))
        starts.append(start)
        ends.append(end)
    return Tokens(tuple(norms), tuple(starts), tuple(ends))


def words(phrase: str) -> tuple[str, ...]:
    """The normal form of a phrase: its words, without punctuation."""
    return tuple(normal(match.group()) for match in _WORD.finditer(phrase))


def normal_text(text: str) -> str:
    """A text with case, spacing, punctuation and a leading list number removed.

    Two texts with the same normal text say the same in the same words. Plurals are kept, and so
    is the point inside a number.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    start = _LIST_NUMBER.match(text)
    found = _WORD.findall(text, start.end() if start else 0)
    return " ".join(found) if found else " ".join(text.split())


def text_key(text: str) -> int:
    """A stable 63-bit hash of the normal text: equal texts have equal keys on every machine."""
    digest = blake2b(normal_text(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
