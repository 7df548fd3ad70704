"""Backgrounds of a lecture: painted once for every step, larger than the picture, then panned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
WIDTH, HEIGHT = 192, 144
MARGIN = 28
"""How far the camera can pan from the middle, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What makes one operation look different from the next: light, camera, brands, tissue."""

    gain: NDArray[np.float32]
    """[3] red, green, blue."""
    gamma: float
    light: Image.Image
    """Brightness: more in the middle, dark corners. Multiplied."""
    mirrored: bool
    zoom: float
    shaft: Colour
    steel: Colour
    joint: Colour
    bag: Colour
    thread: Colour
    drape: Colour
    fat: Colour
    liver: Colour
    bile: Colour
    wall: Colour
    grain: tuple[Image.Image, ...]
    """Sensor noise, added in turn."""
    smoke: Image.Image
    """Opacity of a cloud twice as wide as the picture, that drifts by."""


def draw_look(rng: np.random.Generator) -> Look:
    """A random operating theatre."""

    def near(colour: Colour, spread: float = 18.0) -> Colour:
        r, g, b = np.clip(rng.normal(colour, spread), 8, 250).astype(int)
        return int(r), int(g), int(b)

    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    cx, cy = rng.normal(0, 0.15, 2)
    radius = np.hypot((x - cx) * 1.05, (y - cy) * 0.9)
    light = np.clip(1.12 - rng.uniform(0.2, 0.5) * radius**2, 0, 1.2)
    if rng.uniform() < 0.4:
        light *= np.hypot(x * 1.02, y * 0.8) < rng.uniform(0.98, 1.1)
    level = rng.uniform(0.75, 1.1)
    steel = near((190, 195, 200), 14)
    shafts: list[Colour] = [(38, 38, 44), (120, 124, 130), (170, 172, 176)]
    joints: list[Colour] = [(60, 90, 170), (110, 70, 150), (40, 130, 120), (150, 120, 50)]
    threads: list[Colour] = [(90, 50, 160), (30, 60, 190), (25, 25, 30), (40, 140, 60)]
    bags: list[Colour] = [(222, 226, 228), (190, 205, 228), (226, 222, 190)]
    drapes: list[Colour] = [(40, 120, 120), (50, 90, 160), (70, 140, 100)]
    return Look(
        gain=rng.normal(1.0, 0.09, 3).astype(np.float32),
        gamma=rng.uniform(0.8, 1.25),
        light=_rgb(np.clip(light * level * 255, 0, 255)),
        mirrored=bool(rng.uniform() < 0.5),
        zoom=rng.uniform(0.85, 1.2),
        shaft=near(shafts[int(rng.integers(3))], 10),
        steel=steel,
        joint=near(joints[int(rng.integers(4))]),
        bag=near(bags[int(rng.integers(3))], 10),
        thread=near(threads[int(rng.integers(4))], 12),
        drape=near(drapes[int(rng.integers(3))]),
        fat=near((205, 170, 90)),
        liver=near((118, 48, 42), 12),
        bile=near((120, 135, 85)),
        wall=near((188, 120, 106), 10),
        grain=tuple(_rgb(rng.integers(0, 9, (HEIGHT, WIDTH))) for _ in range(8)),
        smoke=_cloud(rng, HEIGHT, 2 * WIDTH),
    )


def _rgb(grey: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _cloud(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    coarse = rng.integers(0, 256, (5, 11), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _mottle(rng: np.random.Generator, image: Image.Image, strength: float) -> Image.Image:
    """Multiply by smooth noise of two scales."""
    width, height = image.size
    total = np.zeros((height, width), np.float32)
    for cells, share in ((9, 0.65), (36, 0.35)):
        small = rng.uniform(0, 255, (cells, cells)).astype(np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        total += share * (np.asarray(large, np.float32) / 127.5 - 1)
    array = np.asarray(image, np.float32) * (1 + strength * total[..., None])
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def canvas(rng: np.random.Generator, look: Look, kind: str) -> Image.Image:
    """A background, MARGIN larger than the picture on every side; kind names the place."""
    size = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN)
    match kind:
        case "overview":
            image = _overview(rng, look, size)
        case "calot":
            image = _calot(rng, look, size)
        case "liver_bed":
            image = _liver_bed(rng, look, size)
        case "wall":
            image = _wall(rng, look, size)
        case "outside":
            image = _outside(rng, look, size)
        case other:
            raise ValueError(f"no such place: {other}")
    return image


def _blobs(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int], colour: Colour,
    count: int, radius: float, box: tuple[float, float, float, float] = (0, 0, 1, 1),
) -> None:  # fmt: skip
    for _ in range(count):
        x = size[0] * rng.uniform(box[0], box[2])
        y = size[1] * rng.uniform(box[1], box[3])
        r = radius * rng.uniform(0.6, 1.4)
        shade = rng.uniform(0.82, 1.15)
        tint = tuple(int(min(255, c * shade)) for c in colour)
        draw.ellipse((x - r, y - 0.7 * r, x + r, y + 0.7 * r), fill=tint)


def _overview(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """Liver above, the gallbladder under its edge, fat and bowel below."""
    width, height = size
    image = Image.new("RGB", size, look.fat)
    draw = ImageDraw.Draw(image)
    _blobs(rng, draw, size, look.fat, 40, 22, (0, 0.5, 1, 1))
    _blobs(rng, draw, size, (200, 130, 115), 5, 26, (0, 0.75, 1, 1))
    edge = height * rng.uniform(0.45, 0.6)
    bend = rng.uniform(-25, 25)
    line = [
        (x, edge + bend * np.sin(np.pi * x / width) + 10 * np.sin(x / 23))
        for x in range(0, width + 1, 8)
    ]
    draw.polygon([(0, 0), *line[:1], *line[1:], (width, 0)], fill=look.liver)
    cx, cy = width * rng.uniform(0.35, 0.65), edge + 8
    draw.ellipse((cx - 30, cy - 20, cx + 28, cy + 26), fill=look.bile)
    draw.ellipse((cx - 14, cy - 12, cx + 4, cy), fill=tuple(min(255, c + 45) for c in look.bile))
    return _mottle(rng, image.filter(ImageFilter.GaussianBlur(1.6)), 0.22)


def _calot(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """Fat lobules around a pale duct, liver in one corner, gallbladder in another."""
    width, height = size
    image = Image.new("RGB", size, look.fat)
    draw = ImageDraw.Draw(image)
    _blobs(rng, draw, size, look.fat, 70, 16)
    _blobs(rng, draw, size, (190, 95, 85), 14, 9)
    draw.ellipse((-60, -70, width * 0.62, height * rng.uniform(0.3, 0.42)), fill=look.liver)
    draw.ellipse((width * 0.6, -40, width + 50, height * 0.42), fill=look.bile)
    return _mottle(rng, image.filter(ImageFilter.GaussianBlur(1.4)), 0.22)


def _liver_bed(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """Raw liver surface, some fat below."""
    raw = tuple(min(255, int(c * 1.2) + 15) for c in look.liver)
    image = Image.new("RGB", size, look.liver)
    draw = ImageDraw.Draw(image)
    _blobs(rng, draw, size, (raw[0], raw[1], raw[2]), 26, 22, (0.15, 0.2, 0.85, 0.8))
    _blobs(rng, draw, size, look.fat, 14, 20, (0, 0.82, 1, 1))
    _blobs(rng, draw, size, (60, 24, 22), 10, 7, (0.2, 0.2, 0.8, 0.8))
    return _mottle(rng, image.filter(ImageFilter.GaussianBlur(1.4)), 0.3)


def _wall(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """The inside of the abdominal wall: smooth, striped by muscle, a few vessels."""
    width, height = size
    image = Image.new("RGB", size, look.wall)
    draw = ImageDraw.Draw(image)
    slope = rng.uniform(-0.6, 0.6)
    for x in range(-height, width + height, 9):
        shade = rng.uniform(0.86, 1.08)
        tint = tuple(int(min(255, c * shade)) for c in look.wall)
        draw.line((x, 0, x + slope * height, height), fill=tint, width=6)
    for _ in range(4):
        points = [(rng.uniform(0, width), 0.0)]
        while points[-1][1] < height:
            points.append((points[-1][0] + rng.normal(0, 9), points[-1][1] + 14))
        draw.line(points, fill=(150, 60, 62), width=2)
    return _mottle(rng, image.filter(ImageFilter.GaussianBlur(1.5)), 0.16)


def _outside(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Image.Image:
    """Out of the body: drapes, a patch of skin, gloves, lamps."""
    width, height = size
    image = Image.new("RGB", size, look.drape)
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x = rng.uniform(0, width)
        tint = tuple(int(c * rng.uniform(0.75, 1.2)) for c in look.drape)
        draw.line((x, 0, x + rng.uniform(-60, 60), height), fill=tint, width=14)
    draw.ellipse((width * 0.25, height * 0.3, width * 0.7, height * 0.72), fill=(214, 172, 146))
    for _ in range(2):
        x, y = rng.uniform(20, width - 50), rng.uniform(20, height - 40)
        for finger in range(4):
            draw.rounded_rectangle(
                (x + 11 * finger, y, x + 11 * finger + 9, y + 46), radius=4, fill=(226, 226, 220)
            )
    draw.ellipse((width * 0.78, -20, width + 10, 28), fill=(255, 255, 245))
    return _mottle(rng, image.filter(ImageFilter.GaussianBlur(1.2)), 0.1)
