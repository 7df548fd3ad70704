"""Memory of the prototypical contrast: products alone, against a vector for every pair.

    python benchmarks/prototypes.py

Each way runs in a process of its own, and what counts is by how much it raises the highest
resident memory of that process (`ru_maxrss`) after torch is loaded, the inputs are there and a tiny
problem was solved once. `tracemalloc` does not see what torch allocates. This process imports no
torch, because a child starts with the peak of its parent. Prints JSON; exit code 1 if ours
takes more than 1/50 of the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 1 / 50
REPEATS = 3


def main() -> int:
    """Measure both ways and compare them."""
    parser = argparse.ArgumentParser(description="memory of the prototypical contrast")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--concepts", type=int, default=75)
    parser.add_argument("--regions", type=int, default=51)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--way", choices=("products", "pairs"), help="in this process")
    args = parser.parse_args()
    sizes = (args.samples, args.concepts, args.regions, args.dim)
    if args.way:
        print(json.dumps(measure(args.way, sizes)))
        return 0
    ways = {way: _runs(way) for way in ("products", "pairs")}
    ratios = {
        name: ways["products"][name] / ways["pairs"][name]
        for name in ("forward_mib", "with_gradient_mib")
    }
    losses = [way.pop("loss") for way in ways.values()]
    fits = ratios["forward_mib"] <= LIMIT and abs(losses[0] - losses[1]) < 1e-3
    report = {
        "sizes": dict(zip(("samples", "concepts", "regions", "dim"), sizes, strict=True)),
        "pair_tensor_mib": 4 * sizes[0] * sizes[1] * sizes[2] * sizes[3] / 2**20,
        "gradient_of_inputs_mib": 4 * sizes[0] * (sizes[1] + sizes[2]) * sizes[3] / 2**20,
        **ways,
        "losses": losses,
        "ratio_forward": ratios["forward_mib"],
        "ratio_with_gradient": ratios["with_gradient_mib"],
        "limit_forward": LIMIT,
        "fits": fits,
    }
    print(json.dumps(report, indent=2))
    return 0 if fits else 1


def _runs(way: str) -> dict[str, float]:
    """The median of a few runs."""
    command = [sys.executable, __file__, "--way", way, *sys.argv[1:]]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(REPEATS)
    ]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def measure(way: str, sizes: tuple[int, int, int, int]) -> dict[str, float]:
    """Peak and time of the loss of both directions, and of its gradient."""
    import torch

    torch.set_num_threads(1)
    loss_of = {"products": by_products, "pairs": by_pairs}[way]
    loss_of(*_problem((2, 3, 4, 5))).backward()
    problem = _problem(sizes)
    before, start = _peak_mib(), time.perf_counter()
    loss = loss_of(*problem)
    forward, seconds = _peak_mib() - before, time.perf_counter() - start
    loss.backward()
    return {
        "forward_mib": forward,
        "with_gradient_mib": _peak_mib() - before,
        "forward_seconds": seconds,
        "loss": loss.item(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _problem(sizes: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs of both streams, vectors of concepts and regions, and which belong together."""
    import torch

    b, s, r, e = sizes
    draw = torch.Generator().manual_seed(0)
    concept_words = torch.randn(b, s, e, generator=draw).requires_grad_()
    region_words = torch.randn(b, r, e, generator=draw).requires_grad_()
    concepts, regions = torch.randn(s, e, generator=draw), torch.randn(r, e, generator=draw)
    members = torch.rand(b, s, r, generator=draw) < 0.03
    unit = torch.nn.functional.normalize
    return concept_words, region_words, unit(concepts, dim=-1), unit(regions, dim=-1), members


def by_products(
    concept_words: Tensor, region_words: Tensor, concepts: Tensor, regions: Tensor, members: Tensor
) -> Tensor:
    """As in `medvlp.losses.concepts.prototypes`, with all negatives."""
    from medvlp.losses.concepts.prototypes import prototype_nce, prototype_products

    total = concept_words.new_zeros(())
    for words, vectors, own in (
        (concept_words, regions, members),
        (region_words, concepts, members.transpose(1, 2)),
    ):
        near, products = prototype_products(words, vectors, own, unit=True)
        total = total + prototype_nce(10 * near, 10 * products, own, ~own)
    return total


def by_pairs(
    concept_words: Tensor, region_words: Tensor, concepts: Tensor, regions: Tensor, members: Tensor
) -> Tensor:
    """The same loss from a vector for every pair, [b, s, r, e], as the published code holds it."""
    import torch

    from medvlp.losses.concepts.prototypes import prototype_nce

    unit = torch.nn.functional.normalize
    total = concept_words.new_zeros(())
    for words, vectors, own in (
        (concept_words, regions, members),
        (region_words, concepts, members.transpose(1, 2)),
    ):
        pairs = own[..., None] * vectors
        centres = unit(pairs.sum(2), dim=-1)
        del pairs
        z = unit(words, dim=-1)
        near, products = (z * centres).sum(-1), z @ vectors.T
        total = total + prototype_nce(10 * near, 10 * products, own, ~own)
    return total


if __name__ == "__main__":
    sys.exit(main())
