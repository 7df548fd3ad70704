"""Forward time of slice pooling on frame vectors, against the mean over slices. Prints JSON.

    python benchmarks/slices.py --slices 24 1000 --dim 256

The tower is not in it: what is measured is what a choice of `pooling.slices` adds to it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

from medvlp.models.config import PoolingConfig
from medvlp.models.pooling import FrameStats, RaggedPooling

VARIANTS = {
    "mean": PoolingConfig(slices="mean"),
    "gated": PoolingConfig(slices="gated"),
    "learned": PoolingConfig(slices="learned"),
    "self_attention": PoolingConfig(slices="self_attention"),
    "self_attention, 2 layers, mean": PoolingConfig(
        slices="self_attention", layers=2, readout="mean"
    ),
}


def main() -> None:
    """Time every variant at every length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, nargs="+", default=[24, 1000], help="of a sample")
    parser.add_argument("--samples", type=int, default=1, help="of a batch")
    parser.add_argument("--dim", type=int, default=256, help="width of a frame vector")
    parser.add_argument("--repeat", type=int, default=50, help="timed runs; the median counts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    results = []
    for n in args.slices:
        times = {
            name: _milliseconds(_run(config, n, args.samples, args.dim, device), args.repeat)
            for name, config in VARIANTS.items()
        }
        results += [
            {
                "slices": n,
                "variant": name,
                "ms": round(ms, 4),
                "to_mean": round(ms / times["mean"], 2),
            }
            for name, ms in times.items()
        ]
    about = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "samples": args.samples,
        "dim": args.dim,
        "repeat": args.repeat,
    }
    print(json.dumps({"about": about, "results": results}, indent=1))


def _run(
    config: PoolingConfig, n: int, samples: int, dim: int, device: torch.device
) -> Callable[[], object]:
    torch.manual_seed(0)
    pool = RaggedPooling(dim, config).to(device).eval()
    stats = FrameStats(*torch.randn(3, n * samples, dim, device=device))
    offsets = torch.arange(samples + 1, device=device) * n
    positions = torch.arange(n * samples, device=device) * 2.5
    kind = torch.ones(samples, dtype=torch.long, device=device)

    @torch.no_grad()
    def run() -> None:
        pool.pool_frames(stats, offsets, positions, kind)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _milliseconds(run: Callable[[], object], repeat: int) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    main()
