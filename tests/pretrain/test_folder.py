from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvlp.errors import CheckpointError
from pretrain.folder import RunFolder, read_history


def refused(call) -> CheckpointError:
    with pytest.raises(CheckpointError) as error:
        call()
    return error.value


def begun(folder: Path, config) -> RunFolder:
    run = RunFolder(folder)
    run.claim(config, "d", resume=False)
    run.checkpoint.parent.mkdir()
    run.checkpoint.write_bytes(b"x")
    return run


def test_a_finished_run_is_never_overwritten(tmp_path: Path, smoke):
    run = begun(tmp_path, smoke())
    run.write("run.json", {})
    for resume in (True, False):
        error = refused(lambda resume=resume: run.claim(smoke(), "d", resume=resume))
        assert error.code == "run-exists"


def test_an_unfinished_run_goes_on_only_when_asked(tmp_path: Path, smoke):
    run = begun(tmp_path, smoke())
    assert run.claim(smoke(), "d", resume=True)
    assert not run.claim(smoke(), "d", resume=False)
    assert not run.checkpoint.exists()
    assert not run.claim(smoke(), "d", resume=True)


def test_a_run_older_than_a_setting_goes_on_while_that_has_its_default(tmp_path, smoke):
    run = begun(tmp_path, smoke())
    tree = json.loads((run.path / "config.json").read_text())
    del tree["config"]["data"]["caption_noise"]
    run.write("config.json", tree)
    error = refused(lambda: run.claim(smoke("data.caption_noise=0.3"), "d", resume=True))
    assert error.code == "run-changed"
    assert run.claim(smoke(), "d", resume=True)


@pytest.mark.parametrize(
    ("overrides", "digest", "named"),
    [(["optim.lr=3e-4"], "d", "config.optim.lr"), ([], "e", "dataset")],
)
def test_another_config_or_dataset_cannot_be_resumed(tmp_path, smoke, overrides, digest, named):
    run = begun(tmp_path, smoke())
    error = refused(lambda: run.claim(smoke(*overrides), digest, resume=True))
    assert error.code == "run-changed"
    assert named in str(error)


def test_what_does_not_change_learning_may_change(tmp_path: Path, smoke):
    run = begun(tmp_path, smoke())
    other = smoke("trainer.log_every=7", "trainer.checkpoint_every=9", "data.cache_mb=1")
    assert run.claim(other, "d", resume=True)


def test_history_goes_on_where_the_checkpoint_is(tmp_path: Path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / "history.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    with RunFolder(tmp_path).history(2) as file:
        file.write(json.dumps({"step": 3, "loss": 9.0}) + "\n")
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3]
    assert read_history(tmp_path)[-1]["loss"] == 9.0
