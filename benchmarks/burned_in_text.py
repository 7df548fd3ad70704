"""How well text recognition clears pixels: recall on rendered text, false alarms on clean images.

    python benchmarks/burned_in_text.py --images ../shared/data/cxr_kermany256 --count 20

Text of 8 to 24 pixels, light, dark and faint, upright and turned, is drawn over real images and
over speckle in the shape of an ultrasound sector. A case is found when any word is: the object
then waits for a person. The false alarms are the clean images that would wait as well.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data_connectors.deid.ocr import find_text
from data_connectors.items import Identity, Payload, VisualItem
from medvlp.types import Geometry

FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
WORDS = ("DOE^JANE 19630412", "Mueller, Hans", "MRN 0012345", "12.04.1963 F 042Y",
         "St. Mary Hospital", "Quillon Zyxwv")  # fmt: skip
STYLES = ("light", "dark", "faint", "turned")


def item_of(pixels: np.ndarray) -> VisualItem:
    """An image as a connector gives it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    payload = Payload((("png", buffer.getvalue()),))
    return VisualItem(Identity("p"), "image", "US", payload, Geometry(), (), "")


def sector(rng: np.random.Generator) -> np.ndarray:
    """Speckle within a sector on black, uint8 [480, 640]."""
    y, x = np.mgrid[:480, :640]
    radius, angle = np.hypot(x - 320, y + 20), np.arctan2(x - 320, y + 20)
    speckle = ndimage.gaussian_filter(rng.rayleigh(1, (480, 640)), 1.2)
    inside = (abs(angle) < 0.6) & (radius > 40) & (radius < 440)
    return (np.clip(speckle / speckle.max(), 0, 1) * 230 * np.exp(-radius / 500) * inside).astype(
        np.uint8
    )


def drawn(
    pixels: np.ndarray, text: str, size: int, style: str, rng: np.random.Generator
) -> np.ndarray:
    """The image with a line of text at some place."""
    turned = style == "turned"
    image = Image.fromarray(np.rot90(pixels).copy() if turned else pixels.copy())
    draw = ImageDraw.Draw(image)
    face = rng.choice(["DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf"])
    font = ImageFont.truetype(str(FONTS / str(face)), size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = int(rng.integers(0, max(1, image.width - (right - left) - 2)))
    y = int(rng.integers(0, max(1, image.height - (bottom - top) - 4)))
    under = float(np.asarray(image)[y : y + bottom, x : x + right].mean())
    fill = {"dark": 0, "faint": int(under + (70 if under < 128 else -70))}.get(style, 255)
    if style == "dark":  # as on a label: dark on a light field
        draw.rectangle((x - 3, y - 2, x + right + 3, y + bottom + 3), fill=200)
    draw.text((x, y), text, fill=fill, font=font)
    out = np.asarray(image)
    return np.rot90(out, -1).copy() if turned else out


def clean_images(
    folder: Path | None, count: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, uint8 [h, w]); real ones enlarged to a usual size."""
    for _ in range(count):
        yield "sector", sector(rng)
    if folder is not None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
        for index in rng.permutation(len(paths))[:count]:
            image = Image.open(paths[index]).convert("L")
            scale = max(1, 512 // max(image.size))
            yield "real", np.asarray(image.resize((image.width * scale, image.height * scale)))


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--count", type=int, default=20, help="clean images of each kind")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    clean = list(clean_images(args.images, args.count, rng))
    started = time.monotonic()
    alarms = Counter(kind for kind, pixels in clean if find_text(item_of(pixels), timeout_s=60))
    seconds = time.monotonic() - started
    found: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number, size in enumerate(size for size in (8, 10, 12, 16, 24) for _ in STYLES):
        style = STYLES[number % len(STYLES)]
        for kind in ("sector", "real"):
            some = [pixels for k, pixels in clean if k == kind]
            for pixels in some[:3]:
                image = drawn(pixels, WORDS[int(rng.integers(len(WORDS)))], size, style, rng)
                hit = bool(find_text(item_of(image), timeout_s=60))
                for name in (f"{size} px", style, kind, "all"):
                    asked[name] += 1
                    found[name] += hit
    result = {
        "false_alarms": {kind: [alarms[kind], args.count] for kind in dict(clean)},
        "recall": {name: [found[name], count] for name, count in asked.items()},
        "seconds_an_image": round(seconds / len(clean), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
