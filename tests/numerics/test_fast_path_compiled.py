"""The compiled fast layers: minutes of compiling on a busy machine, so `make slow` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from engine_equalities import DOCUMENTS, HALVES, same_state, train
from tunewright.engines.torch.engine import TorchEngine, build_engine

FolderOf = Callable[[str], Path]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def build(folder: Path, kernels: str, precision: str, **changes: object) -> TorchEngine:
    engine = build_engine(
        build_spec(folder, kernels=kernels, dtype=precision, precision=precision, **changes)
    )
    assert engine.facts.path == kernels
    return engine


@pytest.mark.parametrize("family", ["qwen3", "gemma"])
def test_twenty_losses_equal_the_plain_path(family: str, family_folder: FolderOf) -> None:
    found = []
    for kernels in ("plain", "compiled"):
        engine = build(family_folder(family), kernels, "fp32")
        losses = []
        for step in range(20):
            # Rows of several widths: one compiled function serves all.
            documents = draw_documents([5 + step % 3, 41, 2, 17], seed=step)
            engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
            sums = engine.optim_step(lr=5e-3, skip_above=None).read().sums
            losses.append(sums.loss / sums.weight)
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_resumed_run_equals_an_undisturbed_one(family_folder: FolderOf) -> None:
    folder = family_folder("qwen2")
    whole, second = (build(folder, "compiled", "bf16", deterministic=True) for _ in range(2))
    train(whole, HALVES, DOCUMENTS)
    second.restore(whole.snapshot())
    assert train(second, HALVES, DOCUMENTS) == train(whole, HALVES, DOCUMENTS)
    assert same_state(second.snapshot(), whole.snapshot())


_WITHOUT_COMPILER = """
import sys
from pathlib import Path
from engine_cases import build_spec
from tunewright.engines.torch.engine import build_engine
print(build_engine(build_spec(Path(sys.argv[1]), kernels="compiled")).facts.path)
"""


def test_without_a_compiler_it_is_fast_and_says_so(family_folder: FolderOf, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "CXX": "/nowhere/g++",
        "PYTHONPATH": str(tests),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", _WITHOUT_COMPILER, str(family_folder("llama"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("fast: not compiled, ")
