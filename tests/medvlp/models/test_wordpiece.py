from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.wordpiece import learn_pieces


def naive(words: dict[str, int], size: int) -> list[str]:
    """Recounts everything after every join."""
    spelt = {w: [w[0], *("##" + c for c in w[1:])] for w in words}
    vocabulary = dict.fromkeys(sorted({p for pieces in spelt.values() for p in pieces}))
    while len(vocabulary) < size:
        counts: Counter = Counter()
        for word, pieces in spelt.items():
            for pair in itertools.pairwise(pieces):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        joined = best[0] + best[1][2:]
        vocabulary[joined] = None
        for word, pieces in spelt.items():
            out: list[str] = []
            for piece in pieces:
                if out and (out[-1], piece) == best:
                    out[-1] = joined
                else:
                    out.append(piece)
            spelt[word] = out
    return list(vocabulary)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.text("abno", min_size=1, max_size=7), st.integers(1, 5), max_size=12),
    st.integers(1, 40),
)
def test_pieces_equal_the_naive_recount(words, size):
    assert learn_pieces(words, [], size) == naive(words, size)


def test_fixed_pieces_come_first_and_once():
    pieces = learn_pieces({"nodule": 9, "no": 3}, ["[PAD]", "no"], 100)
    assert pieces[:2] == ["[PAD]", "no"]
    assert len(pieces) == len(set(pieces))
    assert "nodule" in pieces
