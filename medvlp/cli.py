"""The verbs. The only file that knows every folder; it imports inside the verbs.

stdout is data (one JSON line at the end), stderr is log and progress. Exit 0 done; 1 refused,
with one clear line; 2 usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medvlp import __version__
from medvlp.errors import ConfigError, MedvlpError

Summary = dict[str, Any]


def _demo(args: argparse.Namespace) -> Summary:
    from medvlp.demo.run import DemoOptions, run_demo

    options = DemoOptions(
        out=args.out,
        patients=args.patients,
        lectures=args.lectures,
        seed=args.seed,
        overrides=tuple(args.set),
    )
    return run_demo(options, verb=run)


def _phantom(args: argparse.Namespace) -> Summary:
    from data_connectors.phantom.hospital import write_hospital

    return write_hospital(
        args.out, patients=args.patients, lectures=args.lectures, seed=args.seed,
        workers=args.workers,
    )  # fmt: skip


def _ingest(args: argparse.Namespace) -> Summary:
    from data_connectors.config import IngestConfig
    from data_connectors.ingest.run import ingest
    from medvlp.config import load_config

    config = load_config(IngestConfig, args.config, args.set)
    return ingest(config, args.out, base=args.config.parent, workers=args.workers,
                  engine=args.engine)  # fmt: skip


def _inspect(args: argparse.Namespace) -> Summary:
    from data_connectors.dataset.inspection import inspect_dataset

    return inspect_dataset(args.dataset, html=args.html)


def _pretrain(args: argparse.Namespace) -> Summary:
    from governance.tracking import TrackingConfig, training_logger
    from medvlp.config import load_config
    from pretrain.config import PretrainConfig
    from pretrain.engine import pretrain

    config = load_config(PretrainConfig, args.config, args.set)
    tracking = TrackingConfig(uri=args.tracking, experiment=args.experiment)
    logger = training_logger(tracking, out=args.out, resume=args.resume)
    return pretrain(config, args.data, args.out, resume=args.resume, logger=logger)


def _evaluate(args: argparse.Namespace) -> Summary:
    from downstream.config import EvalConfig
    from downstream.evaluate import evaluate
    from governance.tracking import log_evaluation
    from medvlp.config import load_config

    config = load_config(EvalConfig, args.config, args.set)
    summary = evaluate(config, data=args.data, run=args.run, out=args.out)
    log_evaluation(run=args.run, report=args.out)
    return summary


def _predict(args: argparse.Namespace) -> Summary:
    from downstream.predict import predict

    labels = tuple(label.strip() for label in args.labels.split(",") if label.strip())
    return predict(
        args.path, run=args.run, labels=labels, out=args.out, dicom=not args.no_dicom,
        masks=args.masks,
    )  # fmt: skip


def _interpolate(args: argparse.Namespace) -> Summary:
    from downstream.config import EvalConfig
    from downstream.sweep import SweepPlan, sweep
    from governance.tracking import TrackingConfig, log_sweep
    from medvlp.config import load_config

    evaluated = args.config is not None or args.set
    config = load_config(EvalConfig, args.config, args.set) if evaluated else None
    base = None if args.base == "start" else Path(args.base)
    plan = SweepPlan(args.run, base, args.out, args.alphas, args.choose, args.metric)
    summary = sweep(plan, config=config, data=args.data)
    log_sweep(TrackingConfig(uri=args.tracking, experiment=args.experiment), out=args.out)
    return summary


def _release(args: argparse.Namespace) -> Summary:
    from governance.config import ReleaseConfig
    from governance.release import release
    from medvlp.config import load_config

    config = load_config(ReleaseConfig, args.config, args.set)
    return release(config, run=args.run, evaluation=args.evaluation, out=args.out)


def _verify(args: argparse.Namespace) -> Summary:
    from governance.verify import verify_bundle

    return verify_bundle(args.bundle)


def _deidentify(args: argparse.Namespace) -> Summary:
    from data_connectors.deid.options import DeidentifyConfig
    from data_connectors.deid.run import deidentify
    from medvlp.config import load_config

    config = load_config(DeidentifyConfig, args.config, args.set)
    base = args.config.parent if args.config else Path()
    return deidentify(config, args.out, args.paths, base=base, workers=args.workers)


def _leakcheck(args: argparse.Namespace) -> Summary:
    from governance.leakcheck import leakcheck

    summary = leakcheck(args.canaries, args.paths, patients=args.patients)
    if summary["hits"]:
        sys.stdout.write(json.dumps(summary) + "\n")
        raise MedvlpError(
            "identifiers were found", code="leak-found",
            got=f"{summary['hits']} hits in {len(summary['files'])} files", limit=0,
            next_step=f"first file: {summary['files'][0]}",
        )  # fmt: skip
    return summary


def _doctor(args: argparse.Namespace) -> Summary:
    from governance.doctor import diagnose

    return diagnose(require=args.require)


class Verb(NamedTuple):
    """One verb: what it does, in a line; how to call it; what it runs."""

    run: Callable[[argparse.Namespace], Summary]
    help: str
    example: str


VERBS: dict[str, Verb] = {
    "demo": Verb(
        _demo, "the whole way on a synthetic hospital, in ten minutes", "medvlp demo --out demo"
    ),
    "phantom": Verb(
        _phantom,
        "write a synthetic hospital with known truth",
        "medvlp phantom --out hospital --patients 200 --lectures 8 --seed 1",
    ),
    "ingest": Verb(
        _ingest,
        "connectors -> dataset folder; resumes where it was stopped",
        "medvlp ingest --config hospital/ingest.yaml --out dataset",
    ),
    "inspect": Verb(
        _inspect, "what is in a dataset folder", "medvlp inspect dataset --html dataset.html"
    ),
    "pretrain": Verb(
        _pretrain,
        "train a model on a dataset folder",
        "medvlp pretrain --config configs/pretrain/demo.yaml --data dataset --out run "
        "--set optim.lr=3e-4",
    ),
    "evaluate": Verb(
        _evaluate,
        "zero-shot tasks: metrics, predictions, report",
        "medvlp evaluate --config configs/eval/demo.yaml --data dataset --run run --out report",
    ),
    "predict": Verb(
        _predict,
        "one case: zero-shot scores, heat maps, DICOM SEG and SR",
        'medvlp predict --run run --labels "pleural_effusion,nodule" --out answer series/',
    ),
    "interpolate": Verb(
        _interpolate,
        "WiSE-FT: models between a run and its base; evaluates each, chooses one",
        "medvlp interpolate --run run --base start --out sweep --alphas 0,0.25,0.5,0.75,1 "
        "--config configs/eval/demo.yaml --set split=val --data dataset",
    ),
    "release": Verb(
        _release,
        "bundle with card and digests, registered as candidate",
        "medvlp release --config configs/release/demo.yaml --run run --evaluation report "
        "--out bundle",
    ),
    "verify": Verb(_verify, "check a bundle, offline, on CPU", "medvlp verify bundle"),
    "deidentify": Verb(
        _deidentify,
        "DICOM objects by PS3.15 Annex E; marked only after a clean search of their bytes",
        "medvlp deidentify --config configs/deid/research.yaml --out clean archive/ export.zip",
    ),
    "leakcheck": Verb(
        _leakcheck,
        "search any output for seeded identifiers or a patient list",
        "medvlp leakcheck --canaries hospital/canaries.txt dataset run report bundle",
    ),
    "doctor": Verb(_doctor, "what this machine has", "medvlp doctor"),
}


def _arguments(name: str, parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    if name in ("ingest", "pretrain", "evaluate", "release"):
        add("--config", type=Path, required=True, metavar="FILE", help="YAML config")
    if name in ("demo", "ingest", "deidentify", "pretrain", "evaluate", "interpolate", "release"):
        add("--set", action="append", default=[], metavar="KEY=VALUE",
            help="override one config value (demo: of its trainings); repeatable")  # fmt: skip
    if name in (
        "demo", "phantom", "ingest", "deidentify", "pretrain", "evaluate", "predict",
        "interpolate", "release",
    ):  # fmt: skip
        add("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    match name:
        case "demo" | "phantom":
            add("--patients", type=int, default=None if name == "demo" else 200, metavar="N")
            add("--lectures", type=int, default=None if name == "demo" else 8, metavar="N")
            add("--seed", type=int, default=1, metavar="S")
        case "inspect":
            add("dataset", type=Path)
            add("--html", type=Path, default=None, metavar="FILE", help="also write a page")
        case "pretrain":
            add("--data", type=Path, required=True, metavar="DATASET")
            add("--resume", action="store_true", help="go on from the last checkpoint in --out")
        case "evaluate":
            add("--data", type=Path, required=True, metavar="DATASET")
            add("--run", type=Path, required=True, metavar="RUN")
        case "predict":
            add("path", type=Path, help="a DICOM series, one DICOM file, or a PNG or JPEG")
            add("--run", type=Path, required=True, metavar="RUN")
            add("--labels", required=True, metavar="A,B", help="concept ids, or any words")
            add("--masks", choices=["fractional", "binary"], default="fractional",
                help="what the segmentation holds (default: fractional)")  # fmt: skip
            add("--no-dicom", action="store_true", help="write no SEG and SR")
        case "interpolate":
            add("--run", type=Path, required=True, metavar="RUN", help="the fine-tuned run")
            add("--base", required=True, metavar="RUN|start",
                help="another run, or the weights that --run started from")  # fmt: skip
            add("--alphas", type=_numbers, default=(0.0, 0.25, 0.5, 0.75, 1.0), metavar="A,A,...",
                help="0 is the base, 1 the run (default: 0,0.25,0.5,0.75,1)")  # fmt: skip
            add("--config", type=Path, default=None, metavar="FILE",
                help="YAML config of an evaluation (default: only write the models)")  # fmt: skip
            add("--data", type=Path, default=None, metavar="DATASET")
            add("--choose", choices=["val", "test", "none"], default="val",
                help="the split that alpha may be chosen on (default: val)")  # fmt: skip
            add("--metric", default=None, metavar="TASK/METRIC",
                help="choose by it (default: the mean of the tasks' headline metrics)")  # fmt: skip
        case "release":
            add("--run", type=Path, required=True, metavar="RUN")
            add("--evaluation", type=Path, required=True, metavar="REPORT")
        case "verify":
            add("bundle", type=Path)
        case "doctor":
            add("--require", action="store_true", help="refuse when a required package is broken")
        case "deidentify":
            add("--config", type=Path, default=None, metavar="FILE",
                help="YAML config (default: everything that may identify is removed)")  # fmt: skip
            add("paths", type=Path, nargs="+", metavar="PATH",
                help="folder, zip, tar or file of DICOM objects")  # fmt: skip
        case "leakcheck":
            add("--canaries", type=Path, metavar="FILE", help="identifiers, one a line")
            add("--patients", type=Path, metavar="FILE",
                help="patient list: CSV with a header, or one identifier a line")  # fmt: skip
            add("paths", type=Path, nargs="+")
    if name in ("pretrain", "interpolate"):
        add("--tracking", default=None, metavar="URI",
            help="MLflow tracking URI (default: SQLite file beside --out)")  # fmt: skip
        add("--experiment", default="medvlp", metavar="NAME")
    if name in ("phantom", "ingest", "deidentify"):
        add("--workers", type=int, default=0, metavar="N",
            help="processes; 0: one a core")  # fmt: skip
    if name == "ingest":
        add("--engine", choices=["local", "ray"], default="local")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("numbers with commas between them") from None


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="medvlp",
        description="Vision-language pretraining from the hospital archive to clinical validation.",
        epilog="Start with: medvlp demo --out demo",
    )
    parser.add_argument("--version", action="version", version=f"medvlp {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=verb.help,
            description=verb.help,
            epilog=f"example:\n  {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("-v", "--verbose", action="store_true", help="log more to stderr")
        _arguments(name, sub)
    return parser


def run(argv: Sequence[str]) -> Summary:
    """Run one verb and return its summary; errors propagate."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    if args.verbose:  # of our own alone: at this level Pillow logs the metadata of every image
        for package in ("medvlp", "data_connectors", "pretrain", "downstream", "governance"):
            logging.getLogger(package).setLevel(logging.DEBUG)
    # A codec that reports every tile of every slice.
    logging.getLogger("openjpeg").setLevel(logging.WARNING)
    return VERBS[args.verb].run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; print its summary as one JSON line, or one clear line of refusal."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        summary = run(arguments)
    except MedvlpError as error:
        sys.stderr.write(f"medvlp {arguments[0]}: {error}\n")
        return 1
    except FileNotFoundError as error:
        refusal = ConfigError("no such file or folder", code="path-missing", got=error.filename)
        sys.stderr.write(f"medvlp {arguments[0]}: {refusal}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"medvlp {arguments[0]}: stopped; run it again to go on\n")
        return 1
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def entry() -> None:
    """Console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
