import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlp import cli
from medvlp.errors import GateError


def _python(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_names_every_verb_and_loads_no_heavy_library() -> None:
    code = (
        "import sys; from medvlp.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'mlflow', 'monai'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = _python("-c", code)
    assert done.returncode == 0, done.stderr
    for verb in cli.VERBS:
        assert verb in done.stdout


def test_help_takes_less_than_half_a_second() -> None:
    _python("-m", "medvlp.cli", "--help")  # byte-compile once
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert _python("-m", "medvlp.cli", "--help").returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"medvlp {verb}" in capsys.readouterr().out.split("example:")[1]


@pytest.mark.parametrize("argv", [["frobnicate"], ["ingest"], ["verify", "a", "b"], []])
def test_wrong_usage_is_one_line_and_exit_two(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


def test_a_refusal_is_one_line_and_exit_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> cli.Summary:
        raise GateError("no", next_step="do better")

    monkeypatch.setitem(cli.VERBS, "verify", cli.VERBS["verify"]._replace(run=refuse))
    assert cli.main(["verify", "bundle"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "medvlp verify: [gate-refused] no; next: do better\n"


def test_the_summary_is_one_json_line_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        cli.VERBS, "verify", cli.VERBS["verify"]._replace(run=lambda _: {"verified": True})
    )
    assert cli.main(["verify", "bundle"]) == 0
    assert capsys.readouterr().out == '{"verified": true}\n'


def test_a_missing_folder_is_refused_not_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", str(tmp_path / "none")]) == 1
    assert "[bundle-no-manifest]" in capsys.readouterr().err


def test_an_unknown_config_key_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("sourcess: []\n")
    code = cli.main(["ingest", "--config", str(path), "--out", str(tmp_path / "out")])
    assert code == 1
    assert "sourcess" in capsys.readouterr().err
