import platform
import sys
from typing import get_args

import pytest

from tunewright.config.schema import RunConfig
from tunewright.engines.registry import ENGINES, detect_device, resolve_engine
from tunewright.errors import EngineError


@pytest.mark.parametrize(
    ("system", "machine", "installed", "engine"),
    [
        ("Darwin", "arm64", True, "mlx"),
        ("Darwin", "arm64", False, "torch"),
        ("Darwin", "x86_64", True, "torch"),
        ("Linux", "aarch64", True, "torch"),
    ],
)
def test_auto_is_mlx_on_apple_silicon_only(system, machine, installed, engine, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if not installed:
        monkeypatch.setitem(sys.modules, "mlx", None)
    assert resolve_engine("auto") == engine
    assert resolve_engine("torch") == "torch"


def test_the_run_file_names_these_engines():
    named = get_args(RunConfig.model_fields["engine"].annotation)
    assert set(named) == {"auto", *ENGINES}


def test_unknown_engine_names_the_known_ones():
    with pytest.raises(EngineError, match="torch") as caught:
        resolve_engine("jax")
    assert caught.value.code == "engine.unknown"


@pytest.mark.parametrize(("engine", "library"), [("torch", "torch"), ("mlx", "mlx"), ("mlx", "mlx_lm")])
def test_missing_library_names_the_extra(engine, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineError, match=rf"needs {library}[\s\S]*tunewright\[{engine}\]") as caught:
        detect_device(engine, "cpu")
    assert caught.value.code == "engine.not-installed"


def test_other_missing_modules_are_our_own_fault(monkeypatch):
    monkeypatch.setitem(ENGINES, "torch", "tunewright.engines.absent")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        detect_device("torch", "cpu")


def test_cpu_facts():
    facts = detect_device("torch", "cpu")
    assert facts.device == "cpu"
    assert facts.name
    assert facts.memory_bytes > 2**28
    assert facts.dtypes[0] == "fp32"
    assert "fp16" not in facts.dtypes
