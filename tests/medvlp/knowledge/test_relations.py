from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import InputError
from medvlp.knowledge.concepts import ancestors, load_concepts
from medvlp.knowledge.findings import extract_findings
from medvlp.knowledge.regions import load_anatomy, load_regions
from medvlp.knowledge.relations import RelationTable, relations
from medvlp.knowledge.rules import load_rules
from medvlp.types import Finding, Polarity, Side

CONCEPTS = load_concepts()
REGIONS = load_regions()
ANATOMY = load_anatomy()
ABOVE = ancestors(CONCEPTS)
NAMES = [
    *("normal", "lung_opacity", "airspace_opacity", "consolidation", "pneumonia"),
    *("bacterial_pneumonia", "mass", "nodule", "pleural_effusion", "hemothorax", "pneumothorax"),
    *("hydropneumothorax", "cardiomegaly", "clavicle_fracture", "fracture", "infarct"),
    *("granuloma", "mediastinal_shift"),
]
PLACES = [*load_rules().tree["anatomy"], "lungs", "heart", "left_lung", "unheard_of"]
SWAP = {"left": "right", "right": "left"}


def finding(
    concept: str,
    polarity: Polarity = "present",
    side: Side | None = None,
    anatomy: str | None = None,
) -> Finding:
    return Finding(concept, concept, polarity, anatomy=anatomy, side=side)


FINDINGS = st.lists(
    st.builds(
        finding,
        st.sampled_from(NAMES),
        st.sampled_from(["present", "absent", "uncertain"]),
        st.sampled_from([None, "left", "right", "bilateral", "midline"]),
        st.sampled_from([None, None, *PLACES]),
    ),
    max_size=5,
)


def cells(text_or_findings: str | list[Finding], concept: str) -> dict[int, set[str]]:
    """Value -> regions, for one concept."""
    found = (
        extract_findings(text_or_findings)
        if isinstance(text_or_findings, str)
        else text_or_findings
    )
    (row,) = relations(found, [concept], REGIONS)
    return {v: {r for r, x in zip(REGIONS, row, strict=True) if x == v} for v in (1, -1, 2, 0)}


def test_present_holds_in_the_region_and_in_what_it_is_part_of() -> None:
    found = cells("Consolidation in the right upper lobe.", "consolidation")
    assert found[1] == {"right_upper_lobe", "right_lung", "right_hemithorax", "lungs", "thorax"}
    assert found[-1] == found[2] == set()


def test_a_denial_without_a_place_denies_everywhere() -> None:
    assert cells("No pleural effusion.", "pleural_effusion")[-1] == set(REGIONS)


def test_a_denial_of_one_side_denies_that_side_only() -> None:
    found = cells("No left pleural effusion.", "pleural_effusion")
    assert found[-1] == {name for name, region in REGIONS.items() if region.side == "left"}
    assert found[1] == found[2] == set()


def test_a_denial_of_a_place_holds_there_and_in_its_parts() -> None:
    denied = cells([finding("consolidation", "absent", "left", "upper_lobe")], "consolidation")[-1]
    assert denied == {"left_upper_lobe", "left_apex", "lingula"}
    both = cells([finding("consolidation", "absent", None, "upper_lobe")], "consolidation")[-1]
    assert both == {*denied, "right_upper_lobe", "right_apex"}


def test_a_denial_of_one_side_says_nothing_of_a_place_without_sides() -> None:
    assert cells([finding("mass", "absent", "left", "mediastinum")], "mass")[-1] == set()
    assert "heart" in cells([finding("mass", "absent", None, "mediastinum")], "mass")[-1]


def test_what_is_denied_on_both_sides_is_denied_in_the_whole() -> None:
    both = [finding("nodule", "absent", side, "lungs") for side in ("left", "right")]
    assert "lungs" in cells(both, "nodule")[-1]
    assert "thorax" not in cells(both, "nodule")[-1]


def test_a_denial_somewhere_does_not_undo_a_finding_elsewhere() -> None:
    found = cells("Small left pleural effusion. No right effusion.", "pleural_effusion")
    assert found[1] == {"left_pleura", "left_hemithorax", "pleurae", "thorax"}
    assert "right_pleura" in found[-1]


def test_present_wins_over_uncertain_over_absent() -> None:
    lung = {"anatomy": "lungs", "side": "left"}
    levels: list[Finding] = [
        finding("nodule", polarity, **lung)  # type: ignore[arg-type]
        for polarity in ("absent", "uncertain", "present")
    ]
    assert "left_lung" in cells(levels[:1], "nodule")[-1]
    assert "left_lung" in cells(levels[:2], "nodule")[2]
    assert "left_lung" in cells(levels, "nodule")[1]


def test_an_open_side_is_placed_in_what_both_sides_share() -> None:
    found = cells("Nodule in the upper lobe.", "nodule")
    assert found[1] == {"lungs", "thorax"}


def test_without_a_place_a_finding_is_at_home() -> None:
    assert cells("The heart is enlarged.", "cardiomegaly")[1] == {"heart", "mediastinum", "thorax"}
    assert cells("Left pneumothorax.", "pneumothorax")[1] == {
        *("left_pleura", "left_hemithorax", "pleurae", "thorax")
    }
    assert cells("Bilateral effusions.", "pleural_effusion")[1] >= {"left_pleura", "right_pleura"}


def test_a_named_place_adds_to_a_certain_home_and_replaces_a_usual_one() -> None:
    effusion = cells([finding("pleural_effusion", side="left", anatomy="base")], "pleural_effusion")
    assert effusion[1] >= {"left_base", "left_pleura"}
    nodule = cells([finding("nodule", anatomy="mediastinum")], "nodule")
    assert nodule[1] == {"mediastinum", "thorax"}


def test_a_place_that_contradicts_its_side_says_nothing() -> None:
    assert not relations(
        [finding("nodule", "present", "left", "middle_lobe")], NAMES, REGIONS
    ).any()
    assert not relations([finding("nodule", "absent", "left", "middle_lobe")], NAMES, REGIONS).any()
    assert not relations([finding("nodule", "absent", None, "unheard_of")], NAMES, REGIONS).any()


def test_more_general_concepts_inherit_present_and_uncertain() -> None:
    text = "Pneumonia in the left lower lobe."
    assert cells(text, "lung_opacity")[1] == cells(text, "pneumonia")[1]
    assert not any(cells(text, "bacterial_pneumonia")[value] for value in (1, -1, 2))
    doubt = [finding("pneumonia", "uncertain", "left", "lower_lobe")]
    assert cells(doubt, "lung_opacity")[2] == cells(doubt, "pneumonia")[2] != set()


def test_doubt_about_a_kind_does_not_undo_what_is_said_of_the_whole() -> None:
    found = [finding("lung_opacity", "absent"), finding("pneumonia", "uncertain", "left", "lungs")]
    assert cells(found, "lung_opacity")[-1] == set(REGIONS)
    assert "left_lung" in cells(found, "pneumonia")[2]


def test_more_special_concepts_inherit_absent() -> None:
    text = "No consolidation in the left lung. No pleural effusion."
    assert cells(text, "hemothorax")[-1] == set(REGIONS)
    assert "left_upper_lobe" in cells("No left lung opacity.", "bacterial_pneumonia")[-1]
    assert cells("No hemothorax.", "pleural_effusion")[-1] == set()


def test_normal_denies_and_has_an_empty_row() -> None:
    found = relations([finding("normal")], ["normal", "pneumothorax", "viral_pneumonia"], REGIONS)
    assert not found[0].any()
    assert (found[1:] == -1).all()
    assert not relations([finding("normal", "absent")], NAMES, REGIONS).any()


def test_rows_and_columns_keep_their_order() -> None:
    found = extract_findings("Left effusion. No pneumothorax. Possible nodule in the right apex.")
    whole = relations(found, CONCEPTS, REGIONS)
    rows, columns = ["nodule", "pneumothorax", "pleural_effusion"], ["thorax", "right_apex"]
    part = relations(found, rows, columns)
    assert part.dtype == np.int8
    at = [list(CONCEPTS).index(name) for name in rows]
    by = [list(REGIONS).index(name) for name in columns]
    np.testing.assert_array_equal(part, whole[np.ix_(at, by)])
    assert part.tolist() == [[2, 2], [-1, -1], [1, 0]]


def test_a_result_can_be_changed_without_changing_the_next_one() -> None:
    found = [finding("nodule", side="left")]
    relations(found, NAMES, REGIONS)[:] = 7
    assert relations(found, NAMES, REGIONS).max() == 1


def test_unknown_rows_and_columns_are_refused_and_unknown_findings_left_out() -> None:
    with pytest.raises(InputError, match="concept-unknown"):
        relations([], ["nodul"], ["heart"])
    with pytest.raises(InputError, match="region-unknown"):
        relations([], ["nodule"], ["hart"])
    assert not relations([finding("nodul")], NAMES, REGIONS).any()
    assert relations([], [], []).shape == (0, 0)


def oracle(findings: list[Finding]) -> np.ndarray:
    """The rules, cell by cell, for all concepts that the findings can touch."""
    denies = CONCEPTS["normal"].denies
    kin = {*NAMES, *denies, *(up for name in NAMES for up in ABOVE[name])}
    expanded = []
    for one in findings:
        if one.concept != "normal":
            expanded.append(one)
        elif one.polarity == "present":
            expanded += [finding(name, "absent") for name in denies]
    direct = {}
    for name in kin:
        own = [one for one in expanded if one.concept == name]
        for region in REGIONS:
            direct[name, region] = max((level(one, region) for one in own), default=0)
    raised = dict(direct)
    for (name, region), own_level in direct.items():
        kinds = [direct[kid, region] for kid in kin if name in ABOVE[kid]]
        if 3 in kinds:
            raised[name, region] = 3
        elif 2 in kinds and own_level == 0:
            raised[name, region] = 2
    lowered = dict(raised)
    for (name, region), own_level in raised.items():
        if own_level == 0 and any(raised[up, region] == 1 for up in ABOVE[name]):
            lowered[name, region] = 1
    final = dict(lowered)
    for whole in {region.whole for region in REGIONS.values() if region.whole}:
        parts = [r for r in REGIONS if whole in ANATOMY.above[r] and r != whole]
        for name in kin:
            if lowered[name, whole] == 0 and all(lowered[name, part] == 1 for part in parts):
                final[name, whole] = 1
    values = {0: 0, 1: -1, 2: 2, 3: 1}
    return np.array([[values[final[name, region]] for region in REGIONS] for name in NAMES])


def level(one: Finding, region: str) -> int:
    """What one finding says of one region."""
    sided = one.side in ("left", "right")
    inside = ANATOMY.above[region]
    if one.polarity == "absent":
        if one.anatomy is None:
            return int(not sided or REGIONS[region].side == one.side)
        if sided:
            named = [r for r in ANATOMY.region_of(one.anatomy, one.side) if REGIONS[r].side]
        else:
            named = list(ANATOMY.candidates(one.anatomy))
        return int(any(name in inside for name in named))
    home = ANATOMY.homes.get(one.concept)
    places = [one.anatomy] if one.anatomy else []
    if home and (home.always or not places):
        places.append(home.place)
    for place in places:
        named = list(ANATOMY.region_of(place, one.side))
        if any(region in ANATOMY.above[name] for name in named):
            return {"present": 3, "uncertain": 2}[one.polarity]
        if not named and not sided:
            either = ANATOMY.candidates(place)
            if either and all(region in ANATOMY.above[name] for name in either):
                return {"present": 3, "uncertain": 2}[one.polarity]
    return 0


@settings(max_examples=25, deadline=None)
@given(FINDINGS)
def test_relations_equal_the_rules_spelled_out(findings: list[Finding]) -> None:
    np.testing.assert_array_equal(relations(findings, NAMES, REGIONS), oracle(findings))


@settings(max_examples=150, deadline=None)
@given(FINDINGS, st.randoms())
def test_present_rises_and_absent_sinks_and_order_does_not_matter(findings, random) -> None:  # type: ignore[no-untyped-def]
    found = relations(findings, CONCEPTS, REGIONS)
    column = {name: at for at, name in enumerate(REGIONS)}
    for name, above in ANATOMY.above.items():
        for other in above:
            part, whole = found[:, column[name]], found[:, column[other]]
            assert (whole[part == 1] == 1).all(), (name, other)
            assert (part[whole == -1] == -1).all(), (name, other)
    row = {name: at for at, name in enumerate(CONCEPTS)}
    for name, parents in ABOVE.items():
        for parent in parents:
            assert (found[row[parent]][found[row[name]] == 1] == 1).all(), (name, parent)
    shuffled = [*findings, *findings]
    random.shuffle(shuffled)
    np.testing.assert_array_equal(relations(shuffled, CONCEPTS, REGIONS), found)


@settings(max_examples=100, deadline=None)
@given(FINDINGS)
def test_mirrored_sides_give_a_mirrored_matrix(findings: list[Finding]) -> None:
    # The middle lobe and the lingula have no twin.
    single = {"middle_lobe", "lingula", "left_lung"}
    findings = [one for one in findings if one.anatomy not in single]
    turned = [
        finding(one.concept, one.polarity, SWAP.get(one.side or "", one.side), one.anatomy)  # type: ignore[arg-type]
        for one in findings
    ]
    columns = [name for name in REGIONS if name not in ("right_middle_lobe", "lingula")]
    mirrored = [
        f"{SWAP[name.split('_', 1)[0]]}_{name.split('_', 1)[1]}"
        if name.startswith(("left_", "right_"))
        else name
        for name in columns
    ]
    np.testing.assert_array_equal(
        relations(turned, NAMES, mirrored), relations(findings, NAMES, columns)
    )


def test_thousands_of_reports_take_seconds() -> None:
    rng = np.random.default_rng(0)
    names = [name for name in CONCEPTS if name != "normal"][:40]
    reports = [
        [
            finding(
                names[rng.integers(len(names))],
                ("present", "absent", "uncertain")[rng.integers(3)],
                (None, "left", "right", "bilateral")[rng.integers(4)],
                (None, "upper_lobe", "base", "lungs")[rng.integers(4)],
            )
            for _ in range(8)
        ]
        for _ in range(500)
    ]
    table = RelationTable(list(CONCEPTS)[:60], list(REGIONS)[:80])
    start = time.process_time()
    for report in reports:
        table.of(report)
    assert time.process_time() - start < 2  # 500 reports, with all types checked; else 0.2 s
