from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveFloat

from medvlp.config import Config, load_config
from medvlp.errors import ConfigError


class Optim(Config):
    lr: PositiveFloat = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)


class Demo(Config):
    optim: Optim = Optim()
    names: tuple[str, ...] = ()
    sources: tuple[Optim, ...] = ()


def test_no_file_gives_the_defaults() -> None:
    assert load_config(Demo, None) == Demo()


def test_file_then_overrides_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("optim: {lr: 0.1}\nnames: [a, b]\n")
    config = load_config(Demo, path, ["optim.lr=0.2", "optim.lr=0.3", "names.1=c"])
    assert config.optim.lr == 0.3
    assert config.names == ("a", "c")


def test_bare_exponent_is_a_number_although_yaml_reads_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("optim: {lr: 1e-4}\n")
    assert load_config(Demo, path).optim.lr == 1e-4
    assert load_config(Demo, None, ["optim.lr=3e-5"]).optim.lr == 3e-5


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_any_number_survives_an_override(value: float) -> None:
    assert load_config(Demo, None, [f"optim.lr={value!r}"]).optim.lr == value


def test_override_reaches_into_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("sources: [{lr: 1}, {lr: 2}]\n")
    config = load_config(Demo, path, ["sources.1.lr=7"])
    assert [source.lr for source in config.sources] == [1, 7]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("optim: {lrr: 1}", "config-invalid"),
        ("- a\n- b", "config-not-mapping"),
        ("a: [", "config-not-yaml"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Demo, path)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_named_and_its_value_is_not_echoed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Demo, None, ["optim.lrr=SECRET"])
    assert "optim.lrr" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("item", ["optim.lr", "=3", "optim.lr=["])
def test_a_malformed_override_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="override-syntax"):
        load_config(Demo, None, [item])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config-unreadable"):
        load_config(Demo, tmp_path / "none.yaml")


def test_values_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Demo().optim = Optim()  # type: ignore[misc]
