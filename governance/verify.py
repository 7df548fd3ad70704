"""`medvlp verify`: is this bundle what was released, and does it still give the same scores?

Runs offline and on CPU: reads the bundle and nothing else.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from governance.manifest import check_manifest
from medvlp import audit
from medvlp.errors import IntegrityError


def verify_bundle(bundle: Path) -> dict[str, Any]:
    """Check digests and the audit chain, then reproduce the reference scores.

    Raises:
        IntegrityError: A file is changed, missing or extra (named), the audit log is broken, or
            a reference score differs by more than the bundle's tolerance.
    """
    manifest = check_manifest(bundle)
    entries = audit.verify(bundle / "audit.jsonl", anchor=manifest["audit_head"])
    # Nothing may be fetched while verifying; the libraries read these when they are imported.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    from governance.reference import largest_difference, read_cases, score_cases
    from medvlp.knowledge.prompts import PromptSet
    from medvlp.models.checkpoint import load_encoder

    encoder = load_encoder(bundle / "model")
    if encoder.digest != manifest["model_digest"]:
        raise IntegrityError("the model is not the released one", code="model-digest-mismatch")
    prompts = PromptSet.model_validate(json.loads((bundle / "prompts.json").read_text()))
    contract = json.loads((bundle / "preprocessing.json").read_text())
    if encoder.preprocess.model_dump(mode="json") != contract:
        raise IntegrityError(
            "the model's preprocessing is not the bundle's contract", code="contract-mismatch"
        )
    cases, expected = read_cases(bundle / "reference")
    difference = largest_difference(expected["scores"], score_cases(cases, encoder, prompts))
    if not difference <= expected["tolerance"]:
        raise IntegrityError(
            "the reference scores are not reproduced",
            code="reference-mismatch",
            got=f"{difference:.2e}",
            limit=f"{expected['tolerance']:.0e}",
            next_step="compare library versions with the model card",
        )
    return {
        "verified": True,
        "name": manifest["name"],
        "model_digest": manifest["model_digest"],
        "files": len(manifest["files"]),
        "audit_entries": entries,
        "reference_cases": len(cases),
        "largest_difference": difference,
    }
