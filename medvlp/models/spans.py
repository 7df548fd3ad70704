"""From places in a text to places among its tokens."""

from __future__ import annotations

from collections.abc import Sequence


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Which tokens spell the characters [start, end) of a text.

    ConceptCLIP's code (arXiv 2501.15579) reads character offsets as token numbers, so that most
    of its concepts are vectors of other words. Here every token that shares a character with the
    span belongs to it: of a word in three pieces, all three.

    Args:
        offsets: Of each token, its characters [first, after the last), as by
            `TextTokenizer.offsets`; (0, 0) at special tokens, which are skipped.
        start: First character.
        end: Character after the last; white space at either side of the span is not part of it.

    Returns:
        First token and token after the last; None where the span is empty, has no token of its
        own, or does not end within the text that is left after truncation: half a word is
        another word.
    """
    real = [number for number, (first, last) in enumerate(offsets) if first < last]
    if start >= end or not real or end > offsets[real[-1]][1]:
        return None
    inside = [n for n in real if offsets[n][0] < end and start < offsets[n][1]]
    return (inside[0], inside[-1] + 1) if inside else None
