"""medvlp and open_clip, the same seconds on the same patients: `cxr_kermany256`, zero-shot.

    python benchmarks/open_clip_240.py --out bench --seeds 1,2,3

open_clip is its own `CLIP` model, tokenizer and `ClipLoss` in the plain loop of its README (AdamW,
cosine, warm-up, fp32), with a small tower (`--tower vit` or `resnet`), the same pictures at 96
pixels, the same captions, random crops and flips. Both are judged by `medvlp evaluate`'s own code
with the same prompts. Runs one after the other, each with all threads; what is there is not run
again. Needs the kermany dataset that `benchmarks/recipes.py --only kermany` makes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_table import paired_auc
from data_connectors.dataset.store import Dataset
from downstream.config import EvalConfig
from downstream.evaluate import evaluate, evaluate_encoder
from medvlp.config import load_config
from medvlp.models.config import PreprocessConfig
from medvlp.models.preprocess import preprocess
from medvlp.types import Visual
from pretrain.config import PretrainConfig
from pretrain.engine import pretrain

ROOT = Path(__file__).resolve().parents[1]
SIZE = 96
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"layers": 6, "width": 192, "head_width": 32, "patch_size": 8},
    "resnet": {"layers": [1, 1, 1, 1], "width": 32, "head_width": 32, "patch_size": None},
}
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 192, "heads": 6, "layers": 3}


def main() -> None:
    """Train what is missing, then compare."""
    args = _arguments()
    data, config = args.out / "data/kermany", ROOT / "configs/eval/kermany.yaml"
    evaluation = load_config(EvalConfig, config, ["untrained=false", "examples=0"])
    torch.set_num_threads(args.threads)
    reports: dict[str, list[Path]] = {"medvlp": [], f"open_clip {args.tower}": []}
    for seed in (int(text) for text in args.seeds.split(",")):
        for name, train in (("medvlp", _medvlp), (f"open_clip {args.tower}", _open_clip)):
            folder = args.out / "open_clip_240" / f"{name.replace(' ', '-')}-{seed}"
            reports[name].append(folder / "report")
            if not (folder / "report/metrics.json").is_file():
                started = time.monotonic()
                train(folder, data, evaluation, seed, args)
                print(f"{name} {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    rows = paired_auc(data, reports, reference="medvlp")
    (args.out / "open_clip_240.json").write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tower", choices=sorted(TOWERS), default="vit")
    return parser.parse_args()


def _medvlp(
    folder: Path, data: Path, evaluation: EvalConfig, seed: int, args: argparse.Namespace
) -> None:
    settings = [f"trainer.seed={seed}", f"trainer.threads={args.threads}",
                f"trainer.max_seconds={args.seconds}"]  # fmt: skip
    config = load_config(PretrainConfig, ROOT / "configs/pretrain/kermany.yaml", settings)
    pretrain(config, data, folder / "run", resume=True)
    evaluate(evaluation, data=data, run=folder / "run", out=folder / "report")


def _open_clip(
    folder: Path, data: Path, evaluation: EvalConfig, seed: int, args: argparse.Namespace
) -> None:
    """The plain loop: crops, flips, ClipLoss, AdamW; the schedule follows the clock."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    dataset = Dataset.open(data)
    samples = [s for s in dataset.select(split="train") if s.texts]
    pixels = torch.cat([_pixels(dataset.visual(sample)) for sample in samples])
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=TEXT["context_length"])
    captions = [tokenizer([text.text for text in sample.texts]) for sample in samples]
    vision = {"image_size": SIZE, **TOWERS[args.tower]}
    model = open_clip.CLIP(embed_dim=128, vision_cfg=vision, text_cfg=TEXT).train()
    loss = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.2)
    started, size = time.monotonic(), 64
    order: list[int] = []
    while (share := (time.monotonic() - started) / args.seconds) < 1:
        if len(order) < size:
            order += rng.permutation(len(samples)).tolist()
        rows, order = order[:size], order[size:]
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * min(share / 0.05, 0.5 * (1 + np.cos(np.pi * share)))
        images = _augmented(pixels[rows].float() / 255, rng)
        texts = torch.stack([captions[row][rng.integers(len(captions[row]))] for row in rows])
        out = model(images, texts)
        value = loss(*out[:2], out[2]) if isinstance(out, tuple) else loss(**out)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
    judged = Judged(model.eval(), tokenizer)
    evaluate_encoder(
        evaluation, dataset=dataset, encoder=judged, untrained=None, out=folder / "report"
    )


def _pixels(visual: Visual) -> Tensor:
    return preprocess(visual, PreprocessConfig(size=SIZE))


def _augmented(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random resized crops (0.6 to 1 of the area) and flips, as common for CLIP."""
    theta = torch.zeros(len(images), 2, 3)
    for row in range(len(images)):
        side = float(np.sqrt(rng.uniform(0.6, 1.0)))
        theta[row, 0, 0] = side * (1 if rng.random() < 0.5 else -1)
        theta[row, 1, 1] = side
        theta[row, :, 2] = torch.from_numpy(rng.uniform(side - 1, 1 - side, 2))
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return (functional.grid_sample(images, grid, align_corners=False) - 0.45) / 0.25


class Judged:
    """open_clip's model behind what the evaluation asks of a model."""

    digest = "open_clip"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.logit_scale = float(model.logit_scale.detach().exp())

    @torch.inference_mode()
    def visuals(self, visuals: Sequence[Visual]) -> Tensor:
        """Unit vectors."""
        frames = torch.cat([_pixels(visual) for visual in visuals])
        vectors: Tensor = self.model.encode_image((frames.float() / 255 - 0.45) / 0.25)
        return functional.normalize(vectors, dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors."""
        vectors: Tensor = self.model.encode_text(self.tokenizer(list(texts)))
        return functional.normalize(vectors, dim=-1)

    def compare(self, visuals: Sequence[Visual], texts: Tensor) -> tuple[Tensor, Tensor]:
        """open_clip has no evidence in patches."""
        return self.visuals(visuals), torch.zeros(len(visuals), len(texts))

    def heat(self, visual: Visual, texts: Tensor) -> Any:
        """open_clip has no map; no task of this comparison asks for one."""
        raise TypeError("open_clip draws no map")


if __name__ == "__main__":
    main()
