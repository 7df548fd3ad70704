from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.checkpoint import load_encoder, save_model
from medvlp.models.config import ModelConfig
from medvlp.models.interpolation import interpolate, read_ends, start_state, write_between
from medvlp.models.tokens import TextTokenizer
from medvlp.models.vlp import VLP

SEED = 7


def save_run(folder: Path, model: VLP, tokenizer: TextTokenizer, seed: int = SEED) -> Path:
    """A run folder as `medvlp pretrain` leaves it."""
    save_model(folder, model, tokenizer, {"dataset": "d", "seed": seed})
    tree = {"model": model.config.model_dump(mode="json"), "trainer": {"seed": seed}}
    (folder / "config.json").write_text(json.dumps({"config": tree, "dataset": "d"}))
    (folder / "run.json").write_text(
        json.dumps({"run": str(folder), "steps": 3, "dataset": "d", "mlflow_run_id": "m"})
    )
    return folder


def trained(model: VLP, amount: float = 0.1) -> VLP:
    """As after some steps: every weight moved, counters too."""
    torch.manual_seed(11)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(amount * torch.randn_like(value))
            else:
                value.add_(3)
    return model


@pytest.fixture
def run(tmp_path: Path, tiny: ModelConfig, tokenizer: TextTokenizer) -> Path:
    torch.manual_seed(SEED)
    return save_run(tmp_path / "run", trained(VLP(tiny, len(tokenizer))), tokenizer)


@pytest.fixture
def base(tmp_path: Path, tiny: ModelConfig, tokenizer: TextTokenizer) -> Path:
    torch.manual_seed(1)
    return save_run(tmp_path / "base", VLP(tiny, len(tokenizer)), tokenizer, seed=1)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(0, 5), st.sampled_from([torch.float32, torch.float16]))
def test_every_number_is_the_float64_mean(alpha: float, seed: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(3, 2, generator=generator).to(dtype), "b": torch.zeros(0)}
    tuned = {"w": torch.randn(3, 2, generator=generator).to(dtype), "b": torch.zeros(0)}
    state, _ = interpolate(base, tuned, alpha)
    assert state["w"].dtype == dtype
    for i in range(3):
        for j in range(2):
            a, b = float(base["w"][i, j]), float(tuned["w"][i, j])
            expected = torch.tensor((1 - alpha) * a + alpha * b, dtype=torch.float64).to(dtype)
            assert state["w"][i, j] == expected


def test_the_ends_are_exact_to_the_bit():
    base = {"w": torch.tensor([-0.0, 1e-45, 3.4e38, 0.1])}
    tuned = {"w": torch.tensor([1.0, 1e38, -3.4e38, 0.3])}
    for alpha, end in ((0, base), (1, tuned), (0.0, base), (1.0, tuned)):
        state, _ = interpolate(base, tuned, alpha)
        assert state["w"].numpy().tobytes() == end["w"].numpy().tobytes()
        assert state["w"].data_ptr() != end["w"].data_ptr()
    between, _ = interpolate(base, tuned, 0.5)
    assert torch.isfinite(between["w"]).all()


def test_counters_are_never_mixed():
    base = {"n": torch.tensor(0), "same": torch.tensor(4), "flag": torch.tensor(False)}
    tuned = {"n": torch.tensor(7), "same": torch.tensor(4), "flag": torch.tensor(True)}
    for alpha in (0.0, 0.5, 1.0):
        state, counters = interpolate(base, tuned, alpha)
        assert state == tuned
        assert counters == ["n", "flag"]


@pytest.mark.parametrize(
    "other",
    [{}, {"w": torch.zeros(2), "more": torch.zeros(1)}, {"w": torch.zeros(3)},
     {"w": torch.zeros(2).double()}, {"w": torch.zeros(2, dtype=torch.long)}],
    ids=["missing", "extra", "other shape", "other type", "integers"],
)  # fmt: skip
def test_states_of_two_kinds_are_refused(other: dict[str, Tensor]):
    state = {"w": torch.zeros(2)}
    for pair in ((state, other), (other, state)):
        with pytest.raises(CheckpointError) as refused:
            interpolate(*pair, 0.5)
        assert refused.value.code == "checkpoint-keys"


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_nothing_lies_beyond_the_ends(alpha: float):
    with pytest.raises(ConfigError) as refused:
        interpolate({}, {}, alpha)
    assert refused.value.code == "alpha-range"


def test_the_ends_of_two_runs_are_the_runs(run: Path, base: Path, tmp_path: Path, visuals):
    for alpha, end in ((0.0, base), (1.0, run)):
        write_between(read_ends(run, base), alpha, tmp_path / "out")
        ours, theirs = load_encoder(tmp_path / "out"), load_encoder(end)
        assert ours.digest == theirs.digest or alpha == 0.0
        for name, value in weights(end).items():
            if value.is_floating_point():
                assert torch.equal(weights(tmp_path / "out")[name], value), name
        assert torch.equal(ours.visuals(visuals), theirs.visuals(visuals))
        assert torch.equal(ours.texts(["No nodule."]), theirs.texts(["No nodule."]))


def test_the_middle_is_a_float64_loop(run: Path, base: Path, tmp_path: Path):
    summary = write_between(read_ends(run, base), 0.5, tmp_path / "out")
    first, second, mixed = weights(base), weights(run), weights(tmp_path / "out")
    assert mixed.keys() == first.keys()
    moved = 0
    for name, value in mixed.items():
        if not value.is_floating_point():
            assert torch.equal(value, second[name])
            assert name in summary["interpolation"]["counters_of_tuned"]
            continue
        pairs = zip(first[name].flatten().tolist(), second[name].flatten().tolist(), strict=True)
        for got, (a, b) in zip(value.flatten(), pairs, strict=True):
            assert got == torch.tensor(0.5 * a + 0.5 * b, dtype=torch.float64).float(), name
        moved += not torch.equal(value, first[name])
    assert moved > 10
    # Statistics of batch norm among them.
    assert "visual_norm.running_var" in mixed


def test_what_is_written_says_where_it_came_from(run: Path, base: Path, tmp_path: Path):
    ends = read_ends(run, base)
    write_between(ends, 0.25, tmp_path / "out")
    model, summary = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("model.json", "run.json")
    )
    for tree in (model, summary):
        assert tree["interpolation"]["alpha"] == 0.25
        assert tree["interpolation"]["base"] == load_encoder(base).digest
        assert tree["interpolation"]["tuned"] == load_encoder(run).digest
        assert tree["dataset"] == "d"
    assert model["seed"] == SEED
    assert summary["steps"] == 3
    assert summary["mlflow_run_id"] is None
    assert summary["weights_sha256"] == model["sha256"]["model.safetensors"]
    assert (tmp_path / "out" / "config.json").read_text() == (run / "config.json").read_text()


def test_a_run_that_learned_nothing_is_its_start(tiny, tokenizer, tmp_path: Path):
    torch.manual_seed(SEED)
    ends = read_ends(save_run(tmp_path / "run", VLP(tiny, len(tokenizer)), tokenizer), None)
    assert ends.base.digest == ends.tuned.digest
    assert ends.base_is_start


def test_the_digest_of_an_end_is_that_of_its_folder(run: Path, tmp_path: Path):
    ends = read_ends(run, None)
    write_between(ends, 1.0, tmp_path / "one")
    assert load_encoder(tmp_path / "one").digest == load_encoder(run).digest
    state = ends.base.state
    write_between(ends, 0.0, tmp_path / "zero")
    for name, value in weights(tmp_path / "zero").items():
        if value.is_floating_point():
            assert torch.equal(value, state[name])
    counters = [name for name, value in state.items() if not value.is_floating_point()]
    assert counters  # taken from the run, so that the digest is not the start's
    assert load_encoder(tmp_path / "zero").digest != ends.base.digest


def test_a_start_is_built_from_config_and_seed(run: Path, tiny: ModelConfig, tokenizer):
    torch.manual_seed(SEED)
    expected = VLP(tiny, len(tokenizer)).state_dict()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    state = start_state(run, tiny, len(tokenizer))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


@pytest.mark.parametrize("text", [None, "{", '{"config": {"model": {"embed_dim": 0}}}'])
def test_a_start_that_cannot_be_built_says_what_to_do(run: Path, text: str | None):
    path = run / "config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CheckpointError, match="base run") as refused:
        read_ends(run, None)
    assert refused.value.code == "start-lost"


def test_a_start_of_another_config_is_refused(run: Path):
    tree = json.loads((run / "config.json").read_text())
    tree["config"]["model"]["embed_dim"] = 16
    (run / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError) as refused:
        read_ends(run, None)
    assert refused.value.code == "ends-differ"


def other_config(tiny: ModelConfig) -> ModelConfig:
    pixels = tiny.preprocess.model_copy(update={"standardise": "fixed"})
    return tiny.model_copy(update={"preprocess": pixels})


def test_runs_of_another_config_are_refused(run: Path, tiny, tokenizer, tmp_path: Path):
    """Also where every weight would fit."""
    other = save_run(tmp_path / "other", VLP(other_config(tiny), len(tokenizer)), tokenizer)
    with pytest.raises(CheckpointError, match=r"model\.preprocess\.standardise") as refused:
        read_ends(run, other)
    assert refused.value.code == "ends-differ"


def test_runs_of_another_vocabulary_are_refused(run: Path, tiny, tokenizer, tmp_path: Path):
    """Also where it has as many entries."""
    text = tokenizer.to_json().replace('"nodule"', '"module"')
    swapped = TextTokenizer(Tokenizer.from_str(text), 24)
    assert len(swapped) == len(tokenizer)
    other = save_run(tmp_path / "other", VLP(tiny, len(tokenizer)), swapped)
    with pytest.raises(CheckpointError) as refused:
        read_ends(run, other)
    assert refused.value.code == "ends-differ"


def test_places_of_weights_may_differ(run: Path, tiny, tokenizer, tmp_path: Path):
    torch.manual_seed(2)
    other = save_run(tmp_path / "other", VLP(tiny, len(tokenizer)), tokenizer)
    tree = json.loads((other / "model.json").read_text())
    tree["model"]["frames"]["weights"] = {"folder": "/elsewhere"}
    (other / "model.json").write_text(json.dumps(tree))
    assert read_ends(run, other) is not None  # not refused
