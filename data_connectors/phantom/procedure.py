"""The operation that the lectures show: its phases and steps, and how one lecture goes.

`PHASES` is a table that evaluation prompts can use; `write_hospital` stores it as `phases.yaml`.
"""

# ruff: noqa: E501  (one phrase a line reads better than a wrapped one)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OUT_OF_BODY = "out_of_body"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a phase."""

    id: str
    text: str
    """What the surgeon's outline says."""
    narration: tuple[str, ...]
    """Ways to talk about it; in the grammar of `phrases`."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase."""

    id: str
    name: str
    description: str
    prompts: tuple[str, ...]
    """Other ways to describe what it looks like."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A step as it happens in one lecture."""

    phase: str
    step: str
    text: str
    start_s: float
    end_s: float


PHASES: dict[str, Phase] = {
    phase.id: phase
    for phase in (
        Phase(
            "preparation",
            "preparation and exploration",
            "The camera explores the abdomen over the liver and the gallbladder, without any instrument.",
            ("inspection of the liver and gallbladder with the camera alone",
             "an overview of the abdomen before any instrument is inserted"),
            (
                Step("inspect_abdomen", "Inspect the abdominal cavity",
                     ("[we|we now] [inspect|look around] the abdominal cavity with the camera",
                      "first an overview of the abdomen, no instruments yet",
                      "the camera moves over the liver")),
                Step("inspect_gallbladder", "Inspect the liver and the gallbladder",
                     ("here you see the liver and below it the gallbladder",
                      "we inspect the gallbladder and the edge of the liver",
                      "the gallbladder looks [distended|thin walled] under the liver")),
            ),
        ),
        Phase(
            "trocar_placement",
            "trocar placement",
            "A trocar is pushed through the abdominal wall under vision.",
            ("insertion of a trocar through the abdominal wall", "a port is placed in the abdominal wall"),
            (
                Step("place_epigastric_trocar", "Insert the epigastric trocar",
                     ("the epigastric trocar [is inserted|comes in] under direct vision",
                      "we insert a 12 millimetre trocar through the abdominal wall",
                      "you see the tip of the trocar coming through the wall")),
                Step("place_lateral_trocar", "Insert the lateral trocar",
                     ("the next trocar [is placed|goes in] laterally",
                      "a 5 millimetre port is placed in the flank",
                      "we push the lateral trocar through the peritoneum")),
            ),
        ),
        Phase(
            "dissection",
            "dissection",
            "The hook cautery dissects the tissue while a grasper holds the gallbladder.",
            ("dissection of Calot's triangle with the hook", "the electrocautery hook divides fat and peritoneum"),
            (
                Step("open_peritoneum", "Open the peritoneum with the hook",
                     ("we open the peritoneum with the hook",
                      "the hook [divides|opens] the peritoneum along the gallbladder",
                      "short bursts of cautery with the hook")),
                Step("dissect_calot", "Dissect the triangle of Calot",
                     ("we dissect the triangle of Calot with the hook",
                      "the grasper retracts the gallbladder and the hook clears the fat",
                      "the cystic duct [is dissected|is freed] step by step with the hook")),
                Step("dissect_liver_bed", "Free the gallbladder from the liver bed",
                     ("the gallbladder is dissected from the liver bed with the hook",
                      "we stay close to the gallbladder with the hook while freeing it from the liver",
                      "dissection goes on in the plane of the liver bed")),
            ),
        ),
        Phase(
            "clipping",
            "clipping",
            "A clip applier places metal clips on the cystic duct and artery.",
            ("clips are applied to the cystic duct", "the clip applier closes a metal clip on the artery"),
            (
                Step("clip_duct", "Clip the cystic duct",
                     ("[now|then] the cystic duct is clipped",
                      "the clip applier places 3 clips on the duct",
                      "we apply a clip to the cystic duct, well away from the bile duct")),
                Step("clip_artery", "Clip the cystic artery",
                     ("the artery is clipped in the same way",
                      "another clip is applied to the cystic artery",
                      "the clip applier comes in once more for the artery")),
            ),
        ),
        Phase(
            "division",
            "division",
            "Scissors cut the clipped duct and artery between the clips.",
            ("scissors divide the cystic duct between clips", "cutting the clipped artery with scissors"),
            (
                Step("cut_duct", "Divide the cystic duct with scissors",
                     ("the duct is divided with scissors between the clips",
                      "scissors come in and cut the cystic duct",
                      "we cut between the clips with the scissors")),
                Step("cut_artery", "Divide the cystic artery with scissors",
                     ("the artery is cut with the scissors as well",
                      "and the scissors divide the artery",
                      "we check both clips and cut the artery with scissors")),
            ),
        ),
        Phase(
            "hemostasis",
            "haemostasis and irrigation",
            "The suction irrigator washes the field and removes pools of blood.",
            ("irrigation and suction of blood", "bleeding is controlled, blood and water are aspirated"),
            (
                Step("irrigate", "Irrigate and aspirate",
                     ("we irrigate the field and aspirate the blood",
                      "the suction irrigator [washes|rinses] the liver bed",
                      "suction removes the pool of blood")),
                Step("check_bleeding", "Control bleeding of the liver bed",
                     ("some bleeding from the liver bed is controlled",
                      "there is a little oozing, so we use suction and coagulate",
                      "we check for bleeding with the suction device")),
            ),
        ),
        Phase(
            "packaging",
            "packaging",
            "The gallbladder is put into a retrieval bag.",
            ("the specimen is placed in a retrieval bag", "an open plastic bag holds the gallbladder"),
            (
                Step("open_bag", "Open the retrieval bag",
                     ("the retrieval bag is unfolded and opened",
                      "we bring in the bag and open its mouth",
                      "the plastic bag opens under the liver")),
                Step("bag_specimen", "Place the gallbladder in the bag",
                     ("the gallbladder [is placed|goes] into the bag",
                      "we drop the specimen into the bag",
                      "the grasper pushes the gallbladder down into the retrieval bag")),
            ),
        ),
        Phase(
            "extraction",
            "extraction",
            "The closed bag is pulled out through the opening in the abdominal wall.",
            ("the bag with the specimen is pulled through the port", "removal of the specimen through the abdominal wall"),
            (
                Step("pull_bag", "Pull the bag to the abdominal wall",
                     ("the bag is pulled up to the abdominal wall",
                      "the closed bag with the specimen is drawn into the port",
                      "we pull the string of the bag up through the opening")),
                Step("remove_specimen", "Remove the specimen",
                     ("the specimen is extracted through the umbilical port",
                      "with gentle traction the bag comes out",
                      "the bag leaves the abdomen through the wall")),
            ),
        ),
        Phase(
            "closure",
            "closure",
            "A needle holder closes the opening in the abdominal wall with needle and thread.",
            ("suturing of the abdominal wall", "a curved needle and thread close the port site"),
            (
                Step("suture_fascia", "Suture the fascia",
                     ("the fascia is closed with a needle and a 0 thread",
                      "the needle holder drives the curved needle through the wall",
                      "we suture the opening of the port")),
                Step("tie_knot", "Tie the knot",
                     ("the thread is tied",
                      "we pull the thread tight and tie the knot",
                      "2 more throws on the suture and the needle is removed")),
            ),
        ),
    )
}  # fmt: skip


def draw_schedule(rng: np.random.Generator) -> tuple[Stretch, ...]:
    """The steps of one lecture with their times; out-of-body stretches between some of them.

    The order is the usual one, with exceptions: a phase may be skipped (never more than two), bleeding may
    come early, dissection usually comes back after division.
    """
    order = ["preparation", "trocar_placement", "dissection", "clipping", "division"]
    if rng.uniform() < 0.7:
        order.append("dissection")
    order += ["hemostasis", "packaging", "extraction", "closure"]
    if rng.uniform() < 0.25:
        order[0], order[1] = order[1], order[0]
    if rng.uniform() < 0.3:
        order.insert(3, "hemostasis")
    if rng.uniform() < 0.3:
        i = order.index("packaging")
        order[i - 1], order[i] = order[i], order[i - 1]
    skippable = ("preparation", "extraction", "closure", "trocar_placement")
    for name in skippable:
        if rng.uniform() < 0.1 and len(set(order)) > 7:
            order = [other for other in order if other != name]
    plan: list[tuple[str, str, str]] = []
    for number, name in enumerate(order):
        if number and rng.uniform() < 0.2:
            plan.append((OUT_OF_BODY, OUT_OF_BODY, ""))
        phase = PHASES[name]
        steps = list(phase.steps)
        if name == "dissection":
            again = "division" in order[:number]
            steps = [steps[2]] if again else steps[:2]
        elif rng.uniform() < 0.15:
            steps = steps[::-1]
        plan += [(name, step.id, step.text) for step in steps]
        if name in ("clipping", "hemostasis") and rng.uniform() < 0.3:
            plan.append((name, steps[0].id, steps[0].text))
    if not any(name == OUT_OF_BODY for name, _, _ in plan):
        plan.insert(int(rng.integers(1, len(plan))), (OUT_OF_BODY, OUT_OF_BODY, ""))
    return _timed(rng, plan)


def _timed(rng: np.random.Generator, plan: list[tuple[str, str, str]]) -> tuple[Stretch, ...]:
    """Give every step a length, two to five minutes in all."""
    lengths = np.array(
        [
            rng.uniform(3, 7) if name == OUT_OF_BODY else rng.gamma(6, 1.6) + 2.5
            for name, _, _ in plan
        ]
    )
    wanted = rng.uniform(130, 230)
    lengths = np.maximum(lengths * wanted / lengths.sum(), 3.0)
    lengths = np.minimum(lengths, 40.0)
    ends = np.round(np.cumsum(lengths), 1)
    starts = np.concatenate([[0.0], ends[:-1]])
    return tuple(
        Stretch(phase, step, text, float(start), float(end))
        for (phase, step, text), start, end in zip(plan, starts, ends, strict=True)
    )
