from __future__ import annotations

import pytest
from pydantic import ValidationError

from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.prompts import LabelPrompts, PromptSet, build_prompts

PLAIN = [name for name in load_concepts() if name != "normal"]


def test_prompts_are_filled_with_the_names_of_concepts() -> None:
    prompts = PromptSet.from_labels(
        ["pleural_effusion"], positive=["{Name} is seen."], negative=["No {name}."]
    )
    (row,) = prompts.prompts
    assert row.positive == ("Pleural effusion is seen.",)
    assert row.negative == ("No pleural effusion.",)


@pytest.mark.parametrize("label", PLAIN)
def test_our_own_extraction_agrees_with_the_prompts_of_every_concept(label: str) -> None:
    (row,) = build_prompts([label]).prompts
    for polarity, texts in (("present", row.positive), ("absent", row.negative)):
        for text in texts:
            found = [(finding.concept, finding.polarity) for finding in extract_findings(text)]
            assert found == [(label, polarity)], text


def test_the_default_prompts_of_all_concepts_are_clean() -> None:
    assert build_prompts(load_concepts()).lint() == ()


def test_normal_is_never_negated_with_no() -> None:
    (row,) = build_prompts(["normal"]).prompts
    assert not any("no normal" in text.lower() for text in row.negative)


def test_an_unknown_label_is_named_by_its_words() -> None:
    prompts = PromptSet.from_labels(["foo_bar"], positive=["a {name}"], negative=[])
    assert prompts.prompts[0].positive == ("a foo bar",)


def test_synonyms_and_names_can_be_asked_for() -> None:
    prompts = PromptSet.from_labels(
        ["nodule"], positive=["{name}"], negative=[], synonyms=1, names={"nodule": "spot"}
    )
    assert prompts.prompts[0].positive == ("spot", "pulmonary nodule")


def test_the_digest_changes_with_any_prompt_and_with_the_order() -> None:
    both = build_prompts(["nodule", "mass"])
    turned = build_prompts(["mass", "nodule"])
    edited = PromptSet(
        prompts=(both.prompts[0], both.prompts[1].model_copy(update={"negative": ("None.",)}))
    )
    assert len({both.digest, turned.digest, edited.digest}) == 3
    assert build_prompts(["nodule", "mass"]).digest == both.digest


def test_a_prompt_set_survives_json() -> None:
    prompts = build_prompts(["nodule", "normal"])
    again = PromptSet.model_validate_json(prompts.model_dump_json())
    assert again == prompts
    assert again.digest == prompts.digest


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("a", ["Mass."], ["No no mass."])], "double-negation"),
        ([("a", ["Clear."], ["No normal chest."])], "double-negation"),
        ([("a", ["Mass."], ["mass"])], "duplicate"),
        ([("a", ["Mass."], []), ("b", ["MASS"], [])], "duplicate"),
        ([("a", ["..."], [])], "empty"),
        ([("a", ["{name}"], [])], "unfilled"),
        ([("a", ["x", "X."], [])], "repeated"),
        ([("a", ["x"], []), ("a", ["y"], [])], "label-twice"),
        ([("a", ["x", "y"], ["no x"])], "unbalanced"),
    ],
)
def test_the_linter_finds(rows: list[tuple[str, list[str], list[str]]], problem: str) -> None:
    prompts = PromptSet(
        prompts=tuple(
            LabelPrompts(label=label, positive=tuple(p), negative=tuple(n)) for label, p, n in rows
        )
    )
    assert any(line.startswith(problem) for line in prompts.lint())


def test_a_label_without_positive_prompts_is_refused() -> None:
    with pytest.raises(ValidationError):
        LabelPrompts(label="a", positive=())
