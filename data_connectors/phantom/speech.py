"""What the surgeon says during a lecture, and when.

Narration lags behind the picture or runs ahead of it, some of it is about nothing on the screen,
some about another step; the patient's name is spoken once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from data_connectors.phantom.grammar import expand, pick
from data_connectors.phantom.identity import Person
from data_connectors.phantom.procedure import OUT_OF_BODY, PHASES, Stretch

LAG_S = (-2.0, 4.0)
_IRRELEVANT_SHARE = 0.15
_OTHER_STEP_SHARE = 0.06

_IRRELEVANT = (
    "[can we|could you] turn the [light|music] down a little",
    "thank you, that is [fine|better]",
    "who is on call tonight",
    "[I think|maybe] we should order lunch soon",
    "the camera needs cleaning once in a while",
    "this was filmed at our [hospital|institute] last [year|spring]",
    "feel free to ask questions at any time",
    "sorry, one moment please",
    "the anaesthetist is happy so far",
    "there are many opinions about that in the literature",
    "I saw a similar case at the congress",
)
_OUTSIDE = (
    "here we are outside for a moment",
    "the camera is cleaned outside the patient",
    "[we change|changing] the optic, outside the body",
)
_BEFORE = "we have [already|just] done this: {other}"
_AFTER = "later on [you will see|we come to] this: {other}"
_OPENINGS = ("[and|so|now|okay|well|] {said}", "{said}", "{said}[, as you can see|, like this|]")


@dataclass(frozen=True, slots=True)
class Spoken:
    """One word as it was said."""

    text: str
    after: str
    """Punctuation behind it, or nothing."""
    start_s: float
    end_s: float
    sentence: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence as it was said."""

    text: str
    start_s: float
    end_s: float
    kind: str
    """`step`, `other_step`, `irrelevant`, `outside` or `name`."""
    phase: str | None
    step: str | None
    lag_s: float
    """How long after the picture it belongs to it began."""


def speak(
    rng: np.random.Generator, schedule: tuple[Stretch, ...], person: Person
) -> tuple[tuple[Sentence, ...], tuple[Spoken, ...]]:
    """The narration of one lecture: its sentences and its words; all inside the video."""
    end = schedule[-1].end_s
    sentences: list[Sentence] = []
    words: list[Spoken] = []
    cursor = 0.4
    named = False
    for stretch in schedule:
        due = stretch.start_s
        while due < stretch.end_s - 1:
            text, kind, phase, step = _say(rng, stretch)
            if not named:
                title = {"F": "Mrs.", "M": "Mr."}[person.sex]
                text, kind, phase, step = (
                    f"Our patient is {title} {person.name}.",
                    "name",
                    None,
                    None,
                )
            lag = rng.uniform(*LAG_S)
            start = max(cursor, due + lag)
            said = _words(rng, text, start, len(sentences))
            if said[-1].end_s > end - 0.3:
                break
            named = True
            words += said
            lag = round(start - due, 3)
            sentences.append(
                Sentence(text, said[0].start_s, said[-1].end_s, kind, phase, step, lag)
            )
            cursor = said[-1].end_s + rng.uniform(0.15, 0.8)
            due = max(due, said[-1].end_s - lag) + rng.uniform(1.5, 6.0)
    return tuple(sentences), tuple(words)


def _say(rng: np.random.Generator, stretch: Stretch) -> tuple[str, str, str | None, str | None]:
    chance = rng.uniform()
    if stretch.phase == OUT_OF_BODY:
        outside = chance < 0.5
        text = pick(rng, _OUTSIDE if outside else _IRRELEVANT)
        return expand(text, rng) + ".", "outside" if outside else "irrelevant", None, None
    if chance < _IRRELEVANT_SHARE:
        return expand(pick(rng, _IRRELEVANT), rng) + ".", "irrelevant", None, None
    if chance < _IRRELEVANT_SHARE + _OTHER_STEP_SHARE:
        phase = PHASES[pick(rng, tuple(PHASES))]
        step = phase.steps[int(rng.integers(len(phase.steps)))]
        template = _BEFORE if rng.uniform() < 0.5 else _AFTER
        text = expand(template, rng, {"other": pick(rng, step.narration)})
        return text + ".", "other_step", phase.id, step.id
    phase = PHASES[stretch.phase]
    step = next(s for s in phase.steps if s.id == stretch.step)
    text = expand(pick(rng, _OPENINGS), rng, {"said": pick(rng, step.narration)})
    return text + ".", "step", phase.id, step.id


def _words(rng: np.random.Generator, text: str, start: float, sentence: int) -> list[Spoken]:
    tempo = rng.uniform(0.85, 1.2)
    said: list[Spoken] = []
    now = start
    for token in text.split():
        match = re.fullmatch(r"(.*?)([.,:?!]*)", token)
        assert match is not None
        word, after = match[1], match[2]
        if token in ("Mr.", "Mrs."):
            word, after = token, ""
        length = tempo * (0.11 + 0.052 * len(word)) * rng.uniform(0.85, 1.2)
        said.append(Spoken(word, after[:1], round(now, 3), round(now + length, 3), sentence))
        now += length + (0.22 if after else 0.03)
    return said
