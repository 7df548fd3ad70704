"""Every recipe at the same budget: same data, tower, steps and seeds; one table.

    python benchmarks/recipes.py --out bench --shared ../shared/data          # everything
    python benchmarks/recipes.py --out bench --only surgery --recipes clip,hecvl
    python benchmarks/recipes.py --out bench --table                           # of what is there
    python benchmarks/recipes.py --out big --budget large --jobs 1             # on a GPU

A run is skipped when its `metrics.json` is there, so that the same command goes on after a stop.
Each recipe (configs/recipes/*.yaml) is merged with the budget of a benchmark
(benchmarks/budgets/small/*.yaml, or `large` for a GPU); where both name a key, the budget wins.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipe_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RECIPES, BUDGETS, EVALS = (
    ROOT / "configs/recipes",
    ROOT / "benchmarks/budgets",
    ROOT / "configs/eval",
)
BOTH = ("clip", "medvlp")
RADIOLOGY = (*BOTH, "radclip", "medslip", "devide", "conceptclip", "keep", "m3ae", "arl",
             "ptunifier", "villa", "biomedica")  # fmt: skip
SURGERY = (*BOTH, "surgvlp", "hecvl", "peskavlp", "surgclip", "norton")


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: a dataset, a budget, an evaluation and who takes part."""

    dataset: str
    evaluation: Path
    recipes: tuple[str, ...]
    splits: bool = False
    """Every seed has a split of its own: where there are few patients, one split tells nothing."""

    def dataset_of(self, seed: int) -> str:
        """The dataset that a seed is trained on and judged by."""
        return f"{self.dataset}-{seed}" if self.splits else self.dataset


BENCHES = {
    "phantom": Bench("phantom", EVALS / "recipes_phantom.yaml", RADIOLOGY),
    "surgery": Bench("lectures", EVALS / "recipes_surgery.yaml", SURGERY),
    "kermany": Bench("kermany", EVALS / "kermany.yaml", RADIOLOGY),
    "nih": Bench("nih", EVALS / "nih.yaml", RADIOLOGY, splits=True),
}
HOSPITALS = {
    "phantom": {"patients": 400, "lectures": 40, "seed": 7},
    "lectures": {"patients": 8, "lectures": 60, "seed": 8},
}
"""Settings for radiographs and volumes were chosen on other hospitals than the first, settings for
lectures on the lectures of the first, which are not in the table."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recipe on one benchmark with one seed."""

    bench: str
    recipe: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its run and report are."""
        return out / "runs" / self.bench / f"{self.recipe}-{self.seed}"


def main() -> None:
    """Run what is missing, then write the table."""
    args = _arguments()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    benches = args.only.split(",") if args.only else list(BENCHES)
    if not args.table:
        plan = _plan(benches, args)
        for dataset in sorted({BENCHES[run.bench].dataset_of(run.seed) for run in plan}):
            _prepare(dataset, out, args.shared)
        todo = [run for run in plan if not _done(run, out)]
        print(f"{len(todo)} runs to do", file=sys.stderr)
        with ThreadPoolExecutor(args.jobs) as pool:
            started = [pool.submit(_execute_apart, run, out, args.budget, args.set) for run in todo]
            for number, future in enumerate(as_completed(started), start=1):
                print(f"{number}/{len(todo)} {future.result()}", file=sys.stderr, flush=True)
    table = write_table(
        out, {name: (BENCHES[name].dataset_of, BENCHES[name].recipes) for name in benches}
    )
    print(json.dumps(table, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared/data",
                        help="folder of the real radiographs")  # fmt: skip
    parser.add_argument("--only", help=f"of {','.join(BENCHES)}")
    parser.add_argument("--recipes", help="comma separated; default: all that take part")
    parser.add_argument("--budget", default="small", choices=("small", "large"),
                        help="tower, batch and steps of every run; large: for a GPU")  # fmt: skip
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--set", action="append", default=[], help="override for every training")
    return parser.parse_args()


def _plan(benches: list[str], args: argparse.Namespace) -> list[Run]:
    """All runs, seed by seed, so that an early stop leaves every recipe with the same seeds."""
    wanted = set(args.recipes.split(",")) if args.recipes else None
    return [
        Run(bench, recipe, seed)
        for seed in (int(text) for text in args.seeds.split(","))
        for bench in benches
        for recipe in BENCHES[bench].recipes
        if wanted is None or recipe in wanted
    ]


def _done(run: Run, out: Path) -> bool:
    return (run.folder(out) / "report/metrics.json").is_file()


def _prepare(dataset: str, out: Path, shared: Path) -> None:
    """Make a dataset folder unless it is there."""
    target = out / "data" / dataset
    if (target / "dataset.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if dataset in HOSPITALS:
        hospital = out / f"data/hospital-{dataset}"
        numbers = [f"--{key}={value}" for key, value in HOSPITALS[dataset].items()]
        _verb(["phantom", "--out", str(hospital), *numbers])
        _verb(["ingest", "--config", str(hospital / "ingest.yaml"), "--out", str(target)])
    else:
        base, _, split = dataset.partition("-")
        name = f"cxr_{base}{'256' if base == 'kermany' else '64'}"
        tree = yaml.safe_load((ROOT / f"configs/ingest/{name}.yaml").read_text())
        for source in tree["sources"]:
            source["path"] = str(shared / source["path"].split("shared/data/")[-1])
        config = out / f"data/{dataset}.yaml"
        config.write_text(yaml.safe_dump(tree))
        # A fixed key: the split follows it, and results stay comparable between machines.
        key = out / f"data/{dataset}.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(f"{0x5E + int(split or 0):02x}" * 32)
        _verb(["ingest", "--config", str(config), "--out", str(target),
               "--set", f"deid.key_file={key}"])  # fmt: skip


def _execute_apart(run: Run, out: Path, budget: str, overrides: list[str]) -> str:
    """A run in a process of its own, which gives its memory back; the next starts if it dies."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_execute_and_tell, args=(sender, run, out, budget, overrides))
    process.start()
    sender.close()
    process.join()
    try:
        return str(receiver.recv())
    except EOFError:
        return f"{run}: DIED with exit status {process.exitcode}"


def _execute_and_tell(
    sender: Connection, run: Run, out: Path, budget: str, overrides: list[str]
) -> None:
    sender.send(_execute(run, out, budget, overrides))


def _execute(run: Run, out: Path, budget: str, overrides: list[str]) -> str:
    """Train and evaluate in this process; an error is told, and the next run starts."""
    from downstream.config import EvalConfig
    from downstream.evaluate import evaluate
    from medvlp.config import load_config
    from pretrain.config import PretrainConfig
    from pretrain.engine import pretrain

    bench, folder = BENCHES[run.bench], run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "log.txt", level=logging.INFO, force=True)
    path = folder / "pretrain.yaml"
    path.write_text(yaml.safe_dump(merged(run.recipe, run.bench, budget), sort_keys=False))
    data, started = out / "data" / bench.dataset_of(run.seed), time.monotonic()
    try:
        config = load_config(PretrainConfig, path, [f"trainer.seed={run.seed}", *overrides])
        if not (folder / "run/run.json").is_file():
            pretrain(config, data, folder / "run", resume=True)
        trained = time.monotonic() - started
        evaluate(load_config(EvalConfig, bench.evaluation), data=data, run=folder / "run",
                 out=folder / "report")  # fmt: skip
    except Exception:
        logging.exception("failed")
        return f"{run}: FAILED, see {folder / 'log.txt'}"
    return f"{run}: trained {trained:.0f} s, evaluated {time.monotonic() - started - trained:.0f} s"


def merged(recipe: str, bench: str, budget: str = "small") -> dict[str, Any]:
    """A recipe under the budget of a benchmark."""
    tree = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    return _merge(tree, yaml.safe_load((BUDGETS / budget / f"{bench}.yaml").read_text()))


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    joined = dict(tree)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = _merge(joined[key], value) if both else value
    return joined


def _verb(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "medvlp.cli", *arguments], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
