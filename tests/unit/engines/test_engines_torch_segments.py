"""What torch is told of CUDA memory, and when: its own reading of the environment is asked."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tunewright.engines.torch import segments

NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
SCRIPT = """
import torch
from tunewright.engines.torch.device import detect_device
detect_device("auto")
print(torch._C._accelerator_getAllocatorSettings())
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(segments, "os", SimpleNamespace(environ=found))
    return found


@pytest.mark.parametrize(
    ("system", "release", "grows"),
    [
        ("linux", "6.8.0-45-generic", True),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", False),
        ("win32", "11", False),
        ("darwin", "24.0.0", False),
    ],
)
def test_segments_grow_where_drivers_take_them(
    system: str, release: str, grows: bool, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "release", lambda: release)
    segments.use_growing_segments()
    assert environment == ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if grows else {})


@pytest.mark.parametrize("name", NAMES)
def test_what_the_environment_says_wins(name: str, environment: dict[str, str]) -> None:
    environment[name] = "max_split_size_mb:512"
    segments.use_growing_segments()
    assert environment == {name: "max_split_size_mb:512"}


@pytest.mark.skipif(not segments._can_grow(), reason="segments do not grow on this system")
def test_torch_reads_it_though_it_was_imported_before() -> None:
    plain = {name: value for name, value in os.environ.items() if name not in NAMES}
    plain["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=plain, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "expandable_segments:True"
