"""`train.deterministic`: equal runs, refused operations, and a process that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.engines.torch.determinism import only_deterministic
from tunewright.engines.torch.engine import TorchEngine, build_engine
from tunewright.errors import EngineError
from tunewright.types import StepStats

# 600 tokens x 64 wide: above 32768 elements torch spreads an operation over its threads.
DOCUMENTS = draw_documents([600, 17, 9, 30])
BATCHES = [lay_out([DOCUMENTS[:2]]), lay_out([DOCUMENTS[2:]])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("gemma2", tmp_path_factory.mktemp("determinism") / "gemma2")


# Two threads spin for each other where every core is taken; the command line does it in each test run.
@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def run(folder: Path, out: Path) -> tuple[list[StepStats], dict[str, bytes]]:
    """Two steps of dropout, packing and accumulation: what was measured, and the bytes of the adapter."""
    engine = build_engine(build_spec(folder, deterministic=True, adapter={"dropout": 0.2}))
    stats = []
    for _ in range(2):
        engine.forward_backward(BATCHES, denominator=total_weight(DOCUMENTS))
        stats.append(engine.optim_step(lr=1e-2, skip_above=None).read())
    engine.export(out, merge=False)
    return stats, {path.name: path.read_bytes() for path in out.iterdir() if path.name.startswith("adapter")}


def test_two_runs_are_equal_bit_for_bit(folder: Path, tmp_path: Path, threads: int) -> None:
    outputs = [tmp_path / name for name in ("one", "two")]
    for output in outputs:
        output.mkdir()
    first, second = run(folder, outputs[0]), run(folder, outputs[1])
    assert "adapter_model.safetensors" in first[1]
    assert first == second


def hook_a_refused_operation(engine: TorchEngine) -> None:
    """`put_` without accumulation is one of the few that torch refuses on a CPU too."""

    def put(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        first = torch.zeros(1, dtype=torch.int64)
        return output.clone().put_(first, output.flatten()[:1])

    head = engine._model.get_output_embeddings()
    assert head is not None
    head.register_forward_hook(put)


def test_an_operation_that_does_not_repeat_is_named(folder: Path) -> None:
    engine = build_engine(build_spec(folder, deterministic=True))
    hook_a_refused_operation(engine)
    with pytest.raises(EngineError, match=r"train\.deterministic.*put_") as caught:
        engine.forward_backward(BATCHES, denominator=1.0)
    assert caught.value.code == "engine.not-deterministic"
    with pytest.raises(EngineError, match="put_"):
        engine.evaluate(BATCHES[0])
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_same_operation_is_fine_where_nobody_asked(folder: Path) -> None:
    engine = build_engine(build_spec(folder))
    hook_a_refused_operation(engine)
    engine.forward_backward(BATCHES, denominator=1.0)


def test_the_switch_is_on_inside_the_calls_only(folder: Path) -> None:
    engine = build_engine(build_spec(folder, deterministic=True))
    seen: list[bool] = []
    head = engine._model.get_output_embeddings()
    assert head is not None
    head.register_forward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    head.register_full_backward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    engine.forward_backward(BATCHES[:1], denominator=1.0)
    engine.evaluate(BATCHES[0])
    assert seen == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_mode_of_the_process_comes_back(mode: int) -> None:
    torch.set_deterministic_debug_mode(mode)
    try:
        with only_deterministic(on=True):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == mode
        with only_deterministic(on=False):
            assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(0)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), only_deterministic(on=True):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_cublas_without_workspace_is_named() -> None:
    text = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
        "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it "
        "uses CuBLAS and you have CUDA >= 10.2."
    )
    with pytest.raises(EngineError, match="got CuBLAS"), only_deterministic(on=True):
        raise RuntimeError(text)
