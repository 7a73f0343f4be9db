"""What a process holds after it has freed much, in processes of their own: the setting is for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from families import make_family

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")

SCRIPT = """
import sys
from tunewright.engines.torch.heap import keep_freed_memory
from tunewright.host_memory import resident_bytes
done = keep_freed_memory() if sys.argv[1] == "keep" else None
before = resident_bytes()
block = b"x" * (100 << 20)
held = resident_bytes() - before
del block
print(done, held >> 20, (resident_bytes() - before) >> 20)
"""

ENGINES = """
import sys
from pathlib import Path
from engine_cases import build_spec
from tunewright.engines.torch.engine import build_engine
from tunewright.host_memory import resident_bytes
for changes in ({}, {"kernels": "fast", "checkpointed_layers": 1}, {"kernels": "fast"}):
    engine = build_engine(build_spec(Path(sys.argv[1]), **changes))
    before = resident_bytes()
    block = b"x" * (100 << 20)
    del block
    print(engine.facts.kernels, (resident_bytes() - before) >> 20)
"""


def _measure(how: str, **environment: str) -> tuple[str, int, int]:
    """Whether the setting was made, MiB while a block of 100 lives, MiB after it was freed."""
    told, held, left = _run(SCRIPT, how, **environment).split()
    return told, int(held), int(left)


def _run(script: str, argument: str, **environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        env={**plain, **environment}, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return done.stdout


def test_freed_memory_stays_with_the_process() -> None:
    told, held, left = _measure("keep")
    assert told == "True"
    assert 90 < left <= held


def test_without_it_freed_memory_goes_back() -> None:
    _, held, left = _measure("leave")
    assert left < 10 < 90 < held


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}],
)
def test_what_the_environment_says_wins(environment: dict[str, str]) -> None:
    told, held, left = _measure("keep", **environment)
    assert told == "False"
    assert left < 10 < 90 < held


def test_an_engine_keeps_it_for_fast_layers_that_recompute_nothing(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path / "llama")
    told = _run(ENGINES, str(folder), PYTHONPATH=os.pathsep.join(sys.path)).splitlines()
    kernels, left = zip(*(line.split() for line in told), strict=True)
    assert kernels == ("plain", "fast", "fast")
    assert [int(size) > 90 for size in left] == [False, False, True]
