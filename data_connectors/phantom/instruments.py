"""Draw instruments and what they handle, in picture coordinates (x right, y down, pixels)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from data_connectors.phantom.tissue import Colour, Look

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where an instrument's tip is and where it comes from."""

    x: float
    y: float
    angle: float
    """Direction from the tip back along the shaft, radians; 0 points to the right."""
    scale: float = 1.0

    def at(self, along: float, across: float) -> Point:
        """A point in the instrument's own axes: along the shaft away from the tip, across it."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = along * self.scale, across * self.scale
        return self.x + u * cos - v * sin, self.y + u * sin + v * cos

    def shape(self, *points: Point) -> list[Point]:
        """Several of them."""
        return [self.at(u, v) for u, v in points]


def _lit(colour: Colour, add: int = 45) -> Colour:
    r, g, b = (max(0, min(255, c + add)) for c in colour)
    return r, g, b


def _shaft(
    draw: ImageDraw.ImageDraw, pose: Pose, start: float, half: float, colour: Colour
) -> None:
    draw.polygon(pose.shape((start, -half), (300, -half), (300, half), (start, half)), fill=colour)
    stripe = pose.shape((start, -half * 0.4), (300, -half * 0.4), (300, 0), (start, 0))
    draw.polygon(stripe, fill=_lit(colour))


def grasper(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, opening: float) -> None:
    """Two long toothed jaws; `opening` 0 closed to 1."""
    _shaft(draw, pose, 26, 5, look.shaft)
    gap = 2 + 9 * opening
    for sign in (-1, 1):
        jaw = pose.shape(
            (28, sign * 4), (14, sign * gap), (0, sign * gap * 0.8), (10, sign), (28, 0)
        )
        draw.polygon(jaw, fill=look.steel)


def hook(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, glow: bool) -> None:
    """A thin insulated shaft that ends in a copper L."""
    _shaft(draw, pose, 22, 4.5, (32, 32, 36))
    copper = (255, 225, 140) if glow else (196, 150, 70)
    draw.line(pose.shape((24, 0), (4, 0)), fill=copper, width=max(2, round(4 * pose.scale)))
    draw.line(pose.shape((4, -1), (1, 13)), fill=copper, width=max(2, round(4 * pose.scale)))
    if glow:
        x, y = pose.at(1, 13)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 250, 215))


def clip_applier(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, opening: float) -> None:
    """A broad shaft, a coloured joint, two parallel prongs with a clip between them."""
    _shaft(draw, pose, 34, 9, look.steel)
    draw.polygon(pose.shape((38, -10), (26, -10), (26, 10), (38, 10)), fill=look.joint)
    gap = 3 + 5 * opening
    for sign in (-1, 1):
        prong = pose.shape((28, sign * 9), (0, sign * (gap + 3)), (0, sign * gap), (26, sign * 3))
        draw.polygon(prong, fill=_lit(look.steel, 25))
    draw.line(pose.shape((3, -gap), (3, gap)), fill=(245, 245, 250), width=3)


def scissors(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, opening: float) -> None:
    """Two pointed curved blades that cross at a pin."""
    _shaft(draw, pose, 30, 5, look.shaft)
    spread = 2 + 17 * opening
    for sign in (-1, 1):
        blade = pose.shape((34, -sign * 3), (16, sign * spread * 0.55), (0, sign * spread),
                           (14, sign * spread * 0.25), (30, sign * 2))  # fmt: skip
        draw.polygon(blade, fill=_lit(look.steel, 35 if sign > 0 else 5))
    x, y = pose.at(28, 0)
    draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(60, 60, 64))


def suction(draw: ImageDraw.ImageDraw, pose: Pose, look: Look) -> None:
    """A plain blunt tube with side holes."""
    tube = _lit(look.steel, -45)
    _shaft(draw, pose, 2, 7, tube)
    x, y = pose.at(3, 0)
    r = 7 * pose.scale
    draw.ellipse((x - r, y - r, x + r, y + r), fill=tube)
    draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=(30, 26, 28))
    for along in (14, 23, 32):
        x, y = pose.at(along, -2)
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(30, 26, 28))


def trocar(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, depth: float) -> None:
    """A ringed sleeve with a pyramid tip that comes through a dimple of the wall."""
    x, y = pose.at(20, 0)
    r = (26 + 10 * depth) * pose.scale
    draw.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=_lit(look.wall, -55))
    sleeve = _lit(look.joint, 35)
    draw.polygon(pose.shape((18, -15), (70, -15), (70, 15), (18, 15)), fill=sleeve)
    for along in (26, 36, 46, 56):
        draw.line(pose.shape((along, -15), (along, 15)), fill=_lit(sleeve, -50), width=2)
    draw.polygon(pose.shape((18, -15), (-12 * depth - 4, 0), (18, 15)), fill=look.steel)
    draw.polygon(pose.shape((18, -15), (-12 * depth - 4, 0), (18, -2)), fill=_lit(look.steel, 40))


def needle_holder(draw: ImageDraw.ImageDraw, pose: Pose, look: Look, turn: float) -> None:
    """Short thick jaws that hold a curved needle."""
    _shaft(draw, pose, 16, 5.5, look.shaft)
    draw.polygon(pose.shape((18, -6), (0, -4), (0, 4), (18, 6)), fill=(205, 170, 80))
    x, y = pose.at(0, 0)
    r = 19 * pose.scale
    start = math.degrees(pose.angle) + 90 + 70 * turn
    draw.arc((x - r, y - 2 * r, x + r, y), start - 95, start + 95, fill=(235, 238, 242), width=3)


def thread(draw: ImageDraw.ImageDraw, look: Look, points: Sequence[Point]) -> None:
    """Suture material along points."""
    draw.line(list(points), fill=look.thread, width=2, joint="curve")


def duct(draw: ImageDraw.ImageDraw, look: Look, start: Point, end: Point, cut: float) -> None:
    """A pale tube; `cut` in [0, 1] opens a gap in its middle."""
    pale = _lit(look.wall, 28)
    (x0, y0), (x1, y1) = start, end
    for a, b in ((0.0, 0.5 - 0.09 * cut), (0.5 + 0.09 * cut, 1.0)):
        line = (x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0))
        draw.line(line, fill=pale, width=15)
        draw.line((line[0], line[1] - 3, line[2], line[3] - 3), fill=_lit(pale, 22), width=4)


def clip(draw: ImageDraw.ImageDraw, start: Point, end: Point, place: float) -> None:
    """A bright metal clip across the duct, at a share of its length."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    nx, ny = -(y1 - y0) / length, (x1 - x0) / length
    x, y = x0 + place * (x1 - x0), y0 + place * (y1 - y0)
    line = (x - 11 * nx, y - 11 * ny, x + 11 * nx, y + 11 * ny)
    draw.line(line, fill=(90, 92, 98), width=6)
    draw.line(line, fill=(240, 242, 246), width=3)


def bag(draw: ImageDraw.ImageDraw, look: Look, centre: Point, size: float, opening: float,
        specimen: float) -> None:  # fmt: skip
    """A plastic bag with a round mouth; `specimen` 0 above it to 1 inside it."""
    x, y = centre
    w, h = 40 * size, 52 * size
    body = [(x - w, y), (x - 0.8 * w, y + h), (x, y + 1.25 * h), (x + 0.8 * w, y + h), (x + w, y)]
    draw.polygon(body, fill=look.bag)
    for fold in (-0.6, -0.2, 0.3, 0.65):
        draw.line((x + fold * w, y, x + 0.6 * fold * w, y + h), fill=_lit(look.bag, -40), width=2)
    rim = (x - w, y - 12 * opening - 3, x + w, y + 12 * opening + 3)
    draw.ellipse(rim, fill=_lit(look.bag, -75), outline=look.joint, width=3)
    sy = y - 34 * size * (1 - specimen)
    draw.ellipse((x - 20 * size, sy - 15 * size, x + 20 * size, sy + 15 * size), fill=look.bile)
    draw.ellipse((x - 9 * size, sy - 9 * size, x, sy - 2 * size), fill=_lit(look.bile, 40))
    if specimen > 0.6:
        draw.arc(rim, 0, 180, fill=look.bag, width=9)


def bag_neck(draw: ImageDraw.ImageDraw, look: Look, hole: Point, size: float, pull: float) -> None:
    """The closed bag drawn into a hole of the wall."""
    x, y = hole
    draw.ellipse((x - 30, y - 22, x + 30, y + 20), fill=_lit(look.wall, -60))
    draw.ellipse((x - 20, y - 16, x + 20, y + 12), fill=(40, 22, 24))
    drop = (62 - 34 * pull) * size
    w = 34 * size
    body = [(x - 8, y - 8), (x - w, y + drop), (x - 0.5 * w, y + drop + 30 * size),
            (x + 0.5 * w, y + drop + 30 * size), (x + w, y + drop), (x + 8, y - 8)]  # fmt: skip
    draw.polygon(body, fill=look.bag)
    for fold in (-0.55, -0.1, 0.4):
        draw.line((x + 5 * fold, y - 6, x + fold * w, y + drop + 22 * size),
                  fill=_lit(look.bag, -45), width=2)  # fmt: skip
    r = 17 * size
    draw.ellipse((x - r, y + drop - 2, x + r, y + drop + 24 * size), fill=_lit(look.bile, 25))


def pool(draw: ImageDraw.ImageDraw, centre: Point, size: float, wobble: float) -> None:
    """Blood, with a highlight."""
    x, y = centre
    points = []
    for i in range(14):
        angle = i * math.tau / 14
        r = size * (1 + 0.22 * math.sin(3 * angle + wobble) + 0.1 * math.sin(5 * angle - wobble))
        points.append((x + 1.5 * r * math.cos(angle), y + 0.75 * r * math.sin(angle)))
    draw.polygon(points, fill=(150, 12, 16))
    draw.ellipse((x - size, y - 0.4 * size, x - 0.35 * size, y - 0.15 * size), fill=(215, 90, 90))
