"""The model card: written from evidence; what nobody provided is printed as "not provided"."""

from __future__ import annotations

from typing import Any

from governance.config import NOT_PROVIDED, CardConfig


def write_card(
    card: CardConfig,
    *,
    name: str,
    model: dict[str, Any],
    run: dict[str, Any],
    results: list[dict[str, Any]],
) -> str:
    """The card as Markdown.

    Args:
        card: What people said.
        name: Registered model name.
        model: `model.json` of the run.
        run: `run.json` of the run.
        results: `results` of the evaluation's `metrics.json`.
    """
    parts = [
        f"# Model card: {_escape(name)}",
        _escape(card.summary),
        "## Use",
        _facts(
            {
                "Intended use": card.intended_use,
                "Intended users": card.intended_users,
                "Out of scope": card.out_of_scope,
                "Developer": card.developer,
                "Contact": card.contact,
                "Licence": card.licence,
            }
        ),
        "## Training",
        _facts(
            {
                "Dataset digest": run.get("dataset"),
                "Steps": run.get("steps"),
                "Seconds": run.get("seconds"),
                "Seed": run.get("seed"),
                "Final loss": run.get("loss"),
                "Code version": model.get("code_version"),
            }
        ),
        "## Evaluation",
        _results(results),
        "## Risks and ethics",
        _facts({"Known risks": card.risks, "Ethics review": card.ethics}),
        "## Evidence",
        "Every number above is in `evaluation/metrics.json` with its metric card; pictures are in "
        "`evaluation/report.html`. `medvlp verify` checks this bundle offline.",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(facts: dict[str, Any]) -> str:
    rows = ["| | |", "|---|---|"]
    for name, value in facts.items():
        shown = NOT_PROVIDED if value in (None, "") else _number(value)
        rows.append(f"| {name} | {_escape(shown)} |")
    return "\n".join(rows)


def _results(results: list[dict[str, Any]]) -> str:
    if not results:
        return NOT_PROVIDED
    rows = [
        "| task | metric | value | 95 % interval | n | beside it |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        if result["value"] is None:
            continue
        low, high = result["low"], result["high"]
        interval = NOT_PROVIDED if low is None or high is None else f"{low:.3f} to {high:.3f}"
        beside = ", ".join(
            f"{name} {_number(_value(value))}"
            for name, value in (result.get("baselines") or {}).items()
            if _value(value) is not None
        )
        rows.append(
            f"| {_escape(result['task'])} | {_escape(result['metric'])} | {result['value']:.3f} "
            f"| {interval} | {result['n']} | {_escape(beside) or '-'} |"
        )
    return "\n".join(rows)


def _value(baseline: Any) -> Any:
    """A baseline is a number, or an object with its own interval."""
    return baseline.get("value") if isinstance(baseline, dict) else baseline


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    """Text of people must stay text: no table breaks, no markup."""
    for character in "\\`*_{}[]<>#|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
