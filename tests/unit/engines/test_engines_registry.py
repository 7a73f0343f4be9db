import sys

import pytest

from tunewright.engines.registry import ENGINES, detect_device, resolve_engine
from tunewright.errors import EngineError


def test_auto_is_torch():
    assert resolve_engine("auto") == "torch"
    assert resolve_engine("torch") == "torch"


def test_unknown_engine_names_the_known_ones():
    with pytest.raises(EngineError, match="torch") as caught:
        resolve_engine("jax")
    assert caught.value.code == "engine.unknown"


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tunewright.engines.torch.device", raising=False)
    with pytest.raises(EngineError, match=r"tunewright\[torch\]") as caught:
        detect_device("torch", "cpu")
    assert caught.value.code == "engine.not-installed"


def test_other_missing_modules_are_our_own_fault(monkeypatch):
    monkeypatch.setitem(ENGINES, "torch", "tunewright.engines.absent")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        detect_device("torch", "cpu")


def test_cpu_facts():
    facts = detect_device("auto", "cpu")
    assert facts.device == "cpu"
    assert facts.name
    assert facts.memory_bytes > 2**28
    assert facts.dtypes[0] == "fp32"
    assert "fp16" not in facts.dtypes
