"""The moving pictures of a lecture: every phase has its place, instruments and way of moving."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from data_connectors.phantom import instruments as draw_
from data_connectors.phantom.instruments import Pose
from data_connectors.phantom.procedure import OUT_OF_BODY, Stretch
from data_connectors.phantom.tissue import (
    HEIGHT,
    MARGIN,
    WIDTH,
    Look,
    Picture,
    canvas,
    draw_look,
)

_PLACE = {
    OUT_OF_BODY: "outside",
    "preparation": "overview",
    "trocar_placement": "wall",
    "dissection": "calot",
    "clipping": "calot",
    "division": "calot",
    "hemostasis": "liver_bed",
    "packaging": "overview",
    "extraction": "wall",
    "closure": "wall",
}


@dataclass(frozen=True, slots=True)
class Take:
    """The random choices of one step as filmed."""

    phase: str
    step: str
    x: float
    y: float
    angle: float
    scale: float
    tempo: float
    drift: tuple[float, float, float]
    away: float
    """When within its rhythm the instrument leaves the picture, in [0, 1]."""
    duct: tuple[tuple[float, float], tuple[float, float]]
    smoke: float
    blood: float


def _draw_take(rng: np.random.Generator, stretch: Stretch, look: Look) -> Take:
    tilt = rng.uniform(-22, 22)
    x, y = rng.uniform(70, 122), rng.uniform(58, 88)
    smoke = {"dissection": 0.5}.get(stretch.phase, 0.08)
    return Take(
        phase=stretch.phase,
        step=stretch.step,
        x=x,
        y=y,
        angle=rng.uniform(0.1, 1.2),
        scale=look.zoom * rng.uniform(0.9, 1.12),
        tempo=rng.uniform(0.75, 1.3),
        drift=(rng.uniform(0, 6.3), rng.uniform(0, 6.3), rng.uniform(0.5, 1.2)),
        away=rng.uniform(0, 1),
        duct=((x - 62, y + 4 + tilt), (x + 62, y + 4 - tilt)),
        smoke=float(rng.uniform(0.2, 1.0) * (rng.uniform() < smoke)),
        blood=float(rng.uniform() < (1.0 if stretch.phase == "hemostasis" else 0.12)),
    )


def frames(rng: np.random.Generator, schedule: tuple[Stretch, ...], fps: int) -> Iterator[Picture]:
    """Every picture of the lecture in order, uint8 [HEIGHT, WIDTH, 3]."""
    look = draw_look(rng)
    table = _tone(look)
    number = 0
    for stretch in schedule:
        place = _PLACE[stretch.phase]
        if stretch.step in ("dissect_liver_bed",):
            place = "liver_bed"
        background = canvas(rng, look, place)
        take = _draw_take(rng, stretch, look)
        last = round(stretch.end_s * fps)
        first = number
        while number < last:
            t = (number - first) / fps
            share = (number - first) / max(last - first, 1)
            yield _shoot(background, take, look, table, t, share, number)
            number += 1


def _tone(look: Look) -> list[int]:
    """Lookup table of gain and gamma: 256 levels of red, then green, then blue."""
    levels = np.linspace(0, 1, 256)[None] ** look.gamma
    table = np.clip(levels * look.gain[:, None] * 255, 0, 255).astype(int)
    return [int(value) for value in table.ravel()]


def _shoot(
    background: Image.Image, take: Take, look: Look, table: list[int], t: float, share: float,
    number: int,
) -> Picture:  # fmt: skip
    free = take.phase in ("preparation", OUT_OF_BODY)
    reach, speed = (MARGIN - 1, 0.55) if free else (6, 0.25)
    speed *= take.drift[2]
    dx = MARGIN + round(reach * math.sin(speed * t + take.drift[0]))
    dy = MARGIN + round(0.8 * reach * math.sin(0.8 * speed * t + take.drift[1]))
    dy = min(max(dy + round(1.6 * math.sin(1.6 * t)), 0), 2 * MARGIN)  # breathing
    image = background.crop((dx, dy, dx + WIDTH, dy + HEIGHT))
    _act(ImageDraw.Draw(image), take, look, t, share)
    if take.smoke:
        amount = 0.55 * take.smoke * (0.5 + 0.5 * math.sin(0.9 * t))
        shift = (number * 2) % WIDTH
        veil = look.smoke.crop((shift, 0, shift + WIDTH, HEIGHT)).point(lambda v: v * amount)
        image.paste((205, 205, 205), mask=veil)
    image = ImageChops.add(ImageChops.multiply(image, look.light), look.grain[number % 8])
    image = image.point(table)
    if look.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image, np.uint8)


def _pose(
    take: Take, t: float, *, swing: tuple[float, float], rate: float, side: float = 1.0
) -> Pose:
    """Where an instrument is: around its place of work, now and then gone for a moment."""
    beat = rate * take.tempo
    x = take.x + swing[0] * math.sin(beat * t) + 3 * math.sin(2.3 * beat * t + 1)
    y = take.y + swing[1] * math.sin(0.83 * beat * t + 0.7)
    cycle = (0.045 * take.tempo * t + take.away) % 1.0
    if cycle > 0.9:  # withdrawn along its shaft
        out = 150 * math.sin(math.pi * (cycle - 0.9) / 0.1)
        x, y = x + side * out * math.cos(take.angle), y + out * math.sin(take.angle)
    angle = take.angle if side > 0 else math.pi - take.angle
    return Pose(x, y, angle + 0.08 * math.sin(0.6 * beat * t), take.scale)


def _act(draw: ImageDraw.ImageDraw, take: Take, look: Look, t: float, share: float) -> None:
    """What happens in the picture at `t` seconds into the step, `share` of it done."""
    beat = take.tempo * t
    if take.blood and take.phase not in (OUT_OF_BODY, "hemostasis"):
        draw_.pool(draw, (take.x - 40, take.y + 34), 9, beat)
    match take.phase:
        case "trocar_placement":
            push = 0.5 + 0.5 * math.sin(1.1 * beat)
            pose = _pose(take, t, swing=(4, 3), rate=0.5)
            pose = Pose(pose.x, pose.y - 10, take.angle - 1.9, take.scale * (0.85 + 0.3 * share))
            draw_.trocar(draw, pose, look, push)
        case "dissection":
            hold = Pose(take.x - 34, take.y - 24, math.pi - 0.5 * take.angle, take.scale)
            draw_.grasper(draw, hold, look, 0.25)
            pose = _pose(take, t, swing=(15, 9), rate=2.1)
            draw_.hook(draw, pose, look, glow=math.sin(3.1 * beat) > 0.45)
        case "clipping":
            _clipping(draw, take, look, t, share)
        case "division":
            done = 1.0 if share > 0.6 else 0.0
            draw_.duct(draw, look, *take.duct, cut=done)
            for place in (0.28, 0.37, 0.68):
                draw_.clip(draw, *take.duct, place)
            opening = abs(math.sin(1.5 * beat)) if share < 0.75 else 0.2
            pose = _pose(take, t, swing=(7, 4), rate=0.9)
            draw_.scissors(draw, pose, look, opening)
        case "hemostasis":
            _hemostasis(draw, take, look, t, share)
        case "packaging":
            inside = share if take.step == "bag_specimen" else 0.05
            sway = 5 * math.sin(0.7 * beat)
            opening = 0.3 + 0.7 * min(1.0, share * 2) if take.step == "open_bag" else 1.0
            draw_.bag(draw, look, (take.x + sway, take.y), take.scale, opening, inside)
            pose = _pose(take, t, swing=(6, 5), rate=0.6)
            tip = Pose(take.x + sway + 14, take.y - 42 + 34 * inside, pose.angle - 1.1, take.scale)
            draw_.grasper(draw, tip, look, 0.4)
        case "extraction":
            pull = 0.5 + 0.5 * math.sin(0.9 * beat) if take.step == "pull_bag" else share
            draw_.bag_neck(draw, look, (take.x, take.y - 22), take.scale, pull)
        case "closure":
            _closure(draw, take, look, t, share)
        case _:  # preparation and out of the body: the camera alone
            pass


def _clipping(draw: ImageDraw.ImageDraw, take: Take, look: Look, t: float, share: float) -> None:
    draw_.duct(draw, look, *take.duct, cut=0.0)
    places = (0.28, 0.37, 0.68)
    for number, place in enumerate(places):
        if share > 0.25 * (number + 1):
            draw_.clip(draw, *take.duct, place)
    (x0, y0), (x1, y1) = take.duct
    place = places[min(int(share * 4), 2)]
    target = _pose(take, t, swing=(4, 3), rate=0.7)
    squeeze = abs(math.cos(0.8 * take.tempo * t))
    pose = Pose(
        target.x - take.x + x0 + place * (x1 - x0),
        target.y - take.y + y0 + place * (y1 - y0),
        target.angle,
        take.scale,
    )
    draw_.clip_applier(draw, pose, look, squeeze)


def _hemostasis(draw: ImageDraw.ImageDraw, take: Take, look: Look, t: float, share: float) -> None:
    beat = take.tempo * t
    size = 22 * (1.1 - 0.7 * share) * (1 + 0.1 * math.sin(0.9 * beat))
    draw_.pool(draw, (take.x, take.y + 12), size, beat)
    draw_.pool(draw, (take.x - 42, take.y + 30), 0.5 * size, beat + 2)
    pose = _pose(take, t, swing=(17, 8), rate=0.8)
    if take.step == "irrigate" and math.sin(0.8 * beat) > 0:
        x, y = pose.at(-2, 0)
        for k in range(5):
            drop = (beat * 60 + 23 * k) % 46
            draw.line((x - drop * 0.5 + 5 * k - 10, y + drop * 0.6,
                       x - drop * 0.6 + 5 * k - 10, y + drop * 0.6 + 7),
                      fill=(205, 222, 238), width=2)  # fmt: skip
    draw_.suction(draw, pose, look)


def _closure(draw: ImageDraw.ImageDraw, take: Take, look: Look, t: float, share: float) -> None:
    beat = take.tempo * t
    x, y = take.x, take.y
    draw.ellipse((x - 26, y - 5, x + 26, y + 7), fill=(96, 40, 42))
    stitches = 1 + int(3 * share) if take.step == "suture_fascia" else 4
    for k in range(stitches):
        sx = x - 22 + 13 * k
        draw_.thread(draw, look, [(sx, y - 12), (sx + 5, y + 13)])
    pose = _pose(take, t, swing=(16, 11), rate=0.9)
    tail = [(x + 22 * math.sin(k / 2 + 0.5 * beat) + 4 * k, y + 12 + 6 * k) for k in range(8)]
    draw_.thread(draw, look, [(pose.x, pose.y), (x, y + 8), *tail])
    draw_.needle_holder(draw, pose, look, math.sin(1.2 * beat))
    if take.step == "tie_knot":
        other = Pose(x - 34, y - 8 + 7 * math.sin(beat), math.pi - 0.6, take.scale)
        draw_.grasper(draw, other, look, 0.1)
