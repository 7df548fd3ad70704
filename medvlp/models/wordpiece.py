"""Learns a WordPiece vocabulary; the same words give the same vocabulary, everywhere.

The trainer of the `tokenizers` library breaks ties by the order of a hash map, so two runs on the
same texts give different vocabularies, and with them different models.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

Pair = tuple[str, str]


def learn_pieces(words: Mapping[str, int], fixed: Iterable[str], size: int) -> list[str]:
    """Word pieces by repeatedly joining the most frequent pair of neighbours.

    Byte-pair encoding (Sennrich et al. 2016) over words spelt as `n ##o ##d ##e`; ties are
    broken alphabetically. A pair seen once is not joined.

    Args:
        words: How often each word occurs.
        fixed: Pieces that are in the vocabulary whatever the words are, in order.
        size: Most pieces, the fixed ones included.

    Returns:
        Distinct pieces: the fixed ones, the letters of the words, then joins in order.
    """
    spelt = {word: _spell(word) for word in sorted(words)}
    letters = sorted({piece for pieces in spelt.values() for piece in pieces})
    vocabulary = dict.fromkeys([*fixed, *letters])
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, pieces in spelt.items():
        for pair in itertools.pairwise(pieces):
            counts[pair] += words[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(vocabulary) < size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:
            continue  # a later entry has the present count
        if -count < 2:
            break
        vocabulary.setdefault(_join(pair))
        for changed in _join_everywhere(pair, spelt, words, counts, where):
            if counts[changed] > 0:
                heapq.heappush(heap, (-counts[changed], changed))
    return list(vocabulary)


def _spell(word: str) -> list[str]:
    return [word[0], *(f"##{letter}" for letter in word[1:])]


def _join(pair: Pair) -> str:
    return pair[0] + pair[1].removeprefix("##")


def _join_everywhere(
    pair: Pair,
    spelt: dict[str, list[str]],
    words: Mapping[str, int],
    counts: Counter[Pair],
    where: defaultdict[Pair, set[str]],
) -> set[Pair]:
    """Join one pair in every word that has it; returns the pairs whose counts changed."""
    changed: set[Pair] = set()
    for word in sorted(where.pop(pair)):
        old = spelt[word]
        new: list[str] = []
        for piece in old:
            if new and (new[-1], piece) == pair:
                new[-1] = _join(pair)
            else:
                new.append(piece)
        spelt[word] = new
        for other in itertools.pairwise(old):
            counts[other] -= words[word]
            changed.add(other)
        for other in itertools.pairwise(new):
            counts[other] += words[word]
            where[other].add(word)
            changed.add(other)
    changed.discard(pair)
    counts[pair] = 0
    return changed
