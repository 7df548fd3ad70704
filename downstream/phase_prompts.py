"""The phases of a task and the texts that describe them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from downstream.bootstrap import Floats
from downstream.card import digest
from downstream.config import PhasePrompt, PhaseTask
from downstream.embedder import Embedder
from downstream.interfaces import SampleStore
from downstream.timeline import OUT_OF_BODY, phase_of
from medvlp.errors import ConfigError
from medvlp.types import Sample

_FROM_TRAINING = 24
"""At most this many training texts describe a phase."""


@dataclass(frozen=True, slots=True)
class PhasePrompts:
    """The phases in their order, with the texts of each."""

    phases: tuple[str, ...]
    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Over phases and texts."""
        return digest([self.phases, self.texts])

    def vectors(self, embedder: Embedder) -> Floats:
        """Unit vectors [k, e]: the texts of a phase ensembled."""
        return np.stack([embedder.ensemble(texts) for texts in self.texts])


def phase_prompts(task: PhaseTask, dataset: SampleStore) -> PhasePrompts:
    """The phases of the config, its table or the dataset, in words.

    Raises:
        ConfigError: The table cannot be read, or leaves a phase without a text.
    """
    phases = task.phases
    if not phases and task.table is not None:
        phases = read_phase_table(_resolve(task.table, dataset))
    if not phases:
        phases = _named_by(dataset, task)
    texts = [_texts(task, phase) for phase in phases]
    if task.describe == "training":
        said = _training_texts(dataset, task)
        texts = [own + said.get(p.id, ()) for own, p in zip(texts, phases, strict=True)]
    for phase, own in zip(phases, texts, strict=True):
        if not own:
            raise ConfigError(
                f"phase {phase.id} has no prompt", code="prompt-missing",
                next_step="give it a name or a description, or add a template",
            )  # fmt: skip
    ids, names = [p.id for p in phases], [p.name for p in phases]
    if task.out_of_body == "class":
        ids, names = [*ids, OUT_OF_BODY], [*names, "out of body"]
        texts = [*texts, task.out_of_body_prompts]
    return PhasePrompts(tuple(ids), tuple(names), tuple(texts))


def read_phase_table(path: Path) -> tuple[PhasePrompt, ...]:
    """A YAML list of {id, name, description}.

    Raises:
        ConfigError: `phase-table`, without echoing the file.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(tuple[PhasePrompt, ...]).validate_python(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(
            f"{path.name} is no table of phases", code="phase-table", got=type(error).__name__,
            limit="a YAML list of {id, name, description}",
        ) from None  # fmt: skip


def _resolve(table: Path, dataset: SampleStore) -> Path:
    root = getattr(dataset, "path", None)
    return table if table.is_absolute() or root is None else Path(root) / table


def _named_by(dataset: SampleStore, task: PhaseTask) -> tuple[PhasePrompt, ...]:
    """Every phase that a clip of the asked sources is labelled with; names from the ids.

    In the order in which they begin, on average: the order only arranges tables and colours.
    """
    starts: dict[str, list[float]] = {}
    for sample in dataset.samples:
        phase = phase_of(sample)
        if phase not in (None, OUT_OF_BODY) and _asked(sample, task):
            starts.setdefault(phase, []).append(sample.geometry.start_s or 0.0)
    order = sorted(starts, key=lambda phase: (sum(starts[phase]) / len(starts[phase]), phase))
    return tuple(PhasePrompt(id=i, name=" ".join(i.replace("_", " ").split())) for i in order)


def _texts(task: PhaseTask, phase: PhasePrompt) -> tuple[str, ...]:
    fields = {"name": phase.name, "description": phase.description}
    filled = []
    for template in task.templates:
        text = template
        for name, value in fields.items():
            if "{" + name + "}" in template and not value:
                break
            text = text.replace("{" + name + "}", value)
        else:
            filled.append(text)
    return tuple(dict.fromkeys(filled))


def _training_texts(dataset: SampleStore, task: PhaseTask) -> dict[str, tuple[str, ...]]:
    """What outlines of training lectures say of each phase: its own texts, not the narration."""
    said: dict[str, dict[str, None]] = {}
    for sample in sorted(dataset.samples, key=lambda s: s.key):
        phase = phase_of(sample)
        if phase is not None and sample.split == "train" and _asked(sample, task):
            for text in sample.texts:
                if text.level == "phase":
                    said.setdefault(phase, {})[text.text] = None
    return {phase: tuple(texts)[:_FROM_TRAINING] for phase, texts in said.items()}


def _asked(sample: Sample, task: PhaseTask) -> bool:
    return not task.where.provenance or sample.provenance in task.where.provenance
