"""`medvlp release`: a run and its evaluation become a bundle and a registered candidate."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from governance.card import write_card
from governance.config import ReleaseConfig
from governance.manifest import write_manifest
from governance.reference import make_cases, write_cases
from governance.tracking import TRACKING_FILE, client, read_tracking, tracking_uri
from medvlp import audit
from medvlp.errors import CheckpointError, GateError
from medvlp.files import file_digest, write_json
from medvlp.knowledge.prompts import build_prompts
from medvlp.models.checkpoint import load_encoder

PHANTOM_LABELS = (
    "nodule",
    "mass",
    "consolidation",
    "pleural_effusion",
    "pneumothorax",
    "cardiomegaly",
    "atelectasis",
    "emphysema",
)
MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")

log = logging.getLogger(__name__)


def release(config: ReleaseConfig, *, run: Path, evaluation: Path, out: Path) -> dict[str, Any]:
    """Write the bundle, then register it under the configured alias.

    Bundle: `model/` (safetensors, configs, tokenizer), `preprocessing.json` (the contract),
    `prompts.json`, `evaluation/`, `reference/` (phantom cases with their scores),
    `MODEL_CARD.md`, `audit.jsonl`, `manifest.json`.

    Args:
        config: Name, alias, card, reference cases.
        run: A finished run folder.
        evaluation: Its report folder.
        out: The bundle folder; must not exist.

    Returns:
        Bundle facts: name, version, alias, manifest digest, number of files.

    Raises:
        CheckpointError: The run or the evaluation is incomplete.
        GateError: The evaluation is of another model, or the bundle exists.
    """
    if out.exists():
        raise GateError("the bundle exists", code="bundle-exists", next_step="choose another --out")
    facts = _read_facts(run, evaluation)
    building = out.with_name(f".{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    encoder = load_encoder(run)
    _refuse_other_model(facts["results"], encoder.digest)
    prompts = config.prompts or build_prompts(PHANTOM_LABELS)

    log.info("release: copying the model, its contract and its evaluation")
    _copy(run, building / "model", MODEL_FILES)
    _copy(evaluation, building / "evaluation", ("metrics.json", "report.html"))
    write_json(building / "preprocessing.json", encoder.preprocess.model_dump(mode="json"))
    write_json(building / "prompts.json", prompts.model_dump(mode="json"))
    log.info("release: making and scoring the reference cases")
    cases = make_cases(config.reference)
    write_cases(building / "reference", cases, encoder, prompts, config.reference.tolerance)
    card = write_card(
        config.card,
        name=config.name,
        model=facts["model"],
        run=facts["run"],
        results=facts["results"],
    )
    (building / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    audit_head = audit.append(
        building / "audit.jsonl",
        "release",
        name=config.name,
        model=encoder.digest,
        dataset=facts["run"].get("dataset"),
        metrics=file_digest(evaluation / "metrics.json"),
    )
    digest = write_manifest(
        building,
        name=config.name,
        model_digest=encoder.digest,
        prompt_digest=prompts.digest,
        dataset_digest=facts["run"].get("dataset"),
        audit_head=audit_head,
    )
    os.replace(building, out)
    version = _register(config, run=run, bundle=out, manifest=digest, model=encoder.digest)
    return {
        "bundle": out.name,
        "name": config.name,
        "version": version,
        "alias": config.alias,
        "manifest_sha256": digest,
        "model_digest": encoder.digest,
        "reference_cases": len(cases),
    }


def _read_facts(run: Path, evaluation: Path) -> dict[str, Any]:
    """The JSON files of a run and its evaluation."""
    try:
        return {
            "model": json.loads((run / "model.json").read_text(encoding="utf-8")),
            "run": json.loads((run / "run.json").read_text(encoding="utf-8")),
            "results": json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))[
                "results"
            ],
        }
    except (FileNotFoundError, ValueError, KeyError) as error:
        name = Path(getattr(error, "filename", None) or "a JSON file").name
        raise CheckpointError(
            f"the run or its evaluation is incomplete: {name}",
            code="run-incomplete",
            next_step="finish `medvlp pretrain` and `medvlp evaluate`",
        ) from None


def _refuse_other_model(results: list[dict[str, Any]], digest: str) -> None:
    """An evaluation speaks for the model it was made with, and for no other."""
    others = {
        card["model_digest"]
        for result in results
        if isinstance(card := result.get("card"), dict) and "model_digest" in card
    } - {digest}
    if others:
        raise GateError(
            "the evaluation is of another model",
            code="evaluation-mismatch",
            got=", ".join(sorted(str(other)[:12] for other in others)),
            limit=digest[:12],
            next_step="evaluate this run",
        )


def _register(config: ReleaseConfig, *, run: Path, bundle: Path, manifest: str, model: str) -> str:
    """Log the bundle to the run's MLflow store, make a model version, point the alias at it."""
    if not (run / TRACKING_FILE).exists():
        raise CheckpointError(
            "the run is not tracked, so its bundle cannot be registered", code="run-untracked"
        )
    from mlflow.exceptions import MlflowException

    run_id = read_tracking(run)["run_id"]
    mlflow = client(tracking_uri(run))
    mlflow.log_artifacts(run_id, str(bundle), "bundle")
    try:
        mlflow.create_registered_model(config.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = mlflow.create_model_version(
        config.name,
        source=f"runs:/{run_id}/bundle",
        run_id=run_id,
        tags={"manifest_sha256": manifest, "model_digest": model},
    )
    mlflow.set_registered_model_alias(config.name, config.alias, version.version)
    return str(version.version)


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    target.mkdir()
    for name in names:
        try:
            shutil.copyfile(source / name, target / name)
        except FileNotFoundError:
            raise CheckpointError(
                f"{name} is missing", code="run-incomplete", next_step="finish the step before"
            ) from None
