"""Predicted against measured peak memory of training on a CPU: `python benchmarks/memory.py [NAME …]`.

Each configuration runs in a fresh process through the real engine: build, one optimizer step, a copy of the
state as a checkpoint takes it, and one more step while the copy is held. Measured is the
highest resident set above that of the process after its imports. Exit code 1 when a prediction is off by more
than TOLERANCE, or a process fails or takes longer than SECONDS. Two processes of one thread run at a time;
each result is printed and written when it is there.

The C library keeps freed memory below a threshold that it raises by itself, which makes the resident set of
the same run differ by tens of percent. MALLOC_MMAP_THRESHOLD_ fixes it, so that what is freed is returned and
the resident set is what is live. `--default-heap` measures without it, to show what the heap adds, and judges
nothing.
"""

# B rows, T tokens of a row

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from tunewright.config.schema import AdapterConfig
from tunewright.data.collate import build_batch
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.registry import build_engine
from tunewright.models.arch import build_arch
from tunewright.models.footprint import count_trained
from tunewright.models.known import implied_shapes
from tunewright.run.memory import Facts, MemoryNeed, need_memory
from tunewright.types import Batch, Example, SourceRef

TOLERANCE = 0.10
SECONDS = 600
AT_A_TIME = 2
HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
RESULT = Path(__file__).with_suffix(".json")
MIB = 2**20

_SHAPE = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}
_BIG_VOCABULARY = {
    **_SHAPE,
    "vocab_size": 151936,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "tie_word_embeddings": True,
}
_DEEP = {
    **_SHAPE,
    "vocab_size": 50000,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "tie_word_embeddings": True,
}
SHAPES = {"plain": _SHAPE, "big-vocabulary": _BIG_VOCABULARY, "deep": _DEEP}


@dataclass(frozen=True)
class Case:
    """One configuration. label_share: of the tokens, those that are trained. checkpointed: share
    of the layers that recompute."""

    tokens: int
    kind: str = "lora"
    precision: str = "fp32"
    checkpointed: float = 0.0
    dropout: float = 0.0
    shape: str = "plain"
    document: int = 512
    label_share: float = 0.6
    quantization: str = "none"
    kernels: str = "plain"


CASES = {
    "full, 256 tokens": Case(256, "none"),
    "full, 2,048 tokens": Case(2048, "none"),
    "LoRA, 256 tokens": Case(256),
    "LoRA, 2,048 tokens": Case(2048),
    "LoRA checkpointed, 2,048 tokens": Case(2048, checkpointed=1.0),
    "LoRA, 8,192 tokens": Case(8192),
    "LoRA checkpointed, 8,192 tokens": Case(8192, checkpointed=1.0),
    "LoRA, big vocabulary, 2,048 tokens": Case(2048, shape="big-vocabulary"),
    "full, big vocabulary, 2,048 tokens": Case(2048, "none", shape="big-vocabulary"),
    "LoRA with dropout, 2,048 tokens": Case(2048, dropout=0.05),
    "LoRA, deep, 4,096 tokens": Case(4096, shape="deep", document=1024, label_share=0.3),
    "LoRA checkpointed, deep, 4,096 tokens": Case(4096, checkpointed=1.0, shape="deep", document=4096),
    "LoRA in bf16, 2,048 tokens": Case(2048, precision="bf16"),
    "LoRA in bf16, fast layers, 2,048 tokens": Case(2048, precision="bf16", kernels="fast"),
    "LoRA in bf16, fast layers, 8,192 tokens": Case(8192, precision="bf16", kernels="fast"),
    "LoRA in bf16, fast and checkpointed, 2,048 tokens": Case(
        2048, precision="bf16", checkpointed=1.0, kernels="fast"
    ),
    "LoRA, half the layers checkpointed, 8,192 tokens": Case(8192, checkpointed=0.5),
    "QLoRA, 256 tokens": Case(256, quantization="nf4"),
    "QLoRA, 2,048 tokens": Case(2048, quantization="nf4"),
}


def main() -> int:
    """Run the cases asked for, print the table, write the result file when all ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="part of a configuration's name; default: all"
    )
    parser.add_argument("--default-heap", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        sys.stdout.write(f"{measure(CASES[asked.child[0]], Path(asked.child[1]))}\n")
        return 0
    names = [name for name in CASES if not asked.names or any(part in name for part in asked.names)]
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            _save_model(shape, Path(folder) / name)
        rows = _run_all(names, Path(folder), {} if asked.default_heap else HEAP)
    bad = [row for row in rows if "failed" in row or abs(row["error"]) > TOLERANCE]
    return 1 if bad and not asked.default_heap else 0


def _run_all(names: Sequence[str], folder: Path, heap: dict[str, str]) -> list[dict[str, Any]]:
    """The rows in the order of `names`; the file is written after each when all cases are to run."""
    found: dict[str, dict[str, Any]] = {}
    machine = _machine()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        # The longest first, so that none is left running alone at the end.
        order = sorted(names, key=lambda name: CASES[name].tokens, reverse=True)
        for done in as_completed([pool.submit(_run, name, folder, heap) for name in order]):
            row = done.result()
            found[row["name"]] = row
            sys.stdout.write(f"{_line(row)}\n")
            sys.stdout.flush()
            if heap and len(names) == len(CASES):
                _write_result(machine, [found[name] for name in names if name in found])
    return [found[name] for name in names]


def _write_result(machine: dict[str, object], rows: Sequence[dict[str, Any]]) -> None:
    left = len(CASES) - len(rows)
    result = {**machine, "tolerance": TOLERANCE, "cases_not_run": left, "cases": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _run(name: str, folder: Path, heap: dict[str, str]) -> dict[str, Any]:
    case, need = CASES[name], predict(CASES[name])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **heap}
    command = [sys.executable, __file__, "--child", name, str(folder / case.shape)]
    started = monotonic()
    row: dict[str, Any] = {"name": name, "predicted_mib": round(need.peak / MIB, 1)}
    try:
        answer = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, check=True, text=True, timeout=SECONDS
        )
    except subprocess.SubprocessError as error:
        return {**row, "failed": str(error).partition("]' ")[2]}
    measured = int(answer.stdout.split()[-1])
    return {
        **row, "measured_mib": round(measured / MIB, 1), "error": round(need.peak / measured - 1, 4),
        "seconds": round(monotonic() - started, 1),
        "parts_mib": {part: round(size / MIB, 1) for part, size in need.parts.items()},
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    start = f"{row['name']:53} predicted {row['predicted_mib']:7.0f} MiB  "
    if "failed" in row:
        return f"{start}FAILED: {row['failed']}"
    verdict = "ok" if abs(row["error"]) <= TOLERANCE else "OFF"
    return (
        f"{start}measured {row['measured_mib']:7.0f} MiB  {row['error']:+6.1%}  {verdict}  "
        f"{row['seconds']:.0f} s"
    )


def predict(case: Case) -> MemoryNeed:
    """What the planner says of a case."""
    shape = SHAPES[case.shape]
    arch = build_arch(shape, implied_shapes(shape) or {}, case.shape)
    facts = Facts(
        arch=arch,
        trained=count_trained(arch, _adapter(case)),
        kind="cpu",
        dtype=_dtype(case),
        precision=case.precision,
        quantization=case.quantization,
        dropout=case.dropout > 0,
        seq_len=case.tokens,
        batch_size=1,
        label_share=case.label_share,
        fast_document=case.document if case.kernels == "fast" else 0,
    )
    return need_memory(facts, case.tokens, _checkpointed(case), micro_batches=1)


def measure(case: Case, folder: Path) -> int:
    """Bytes of the highest resident set of this process above that after the imports."""
    import torch

    for module in ("transformers.models.qwen2.modeling_qwen2", "tunewright.engines.torch.engine"):
        import_module(module)
    if case.quantization != "none":
        import_module("tunewright.engines.torch.bitsandbytes_import").functional()
    batch = _draw_batch(case)
    weight = float(batch.weights_BT.sum())
    torch.ones(8, 8) @ torch.ones(8, 8)
    Path("/proc/self/clear_refs").write_text("5")
    baseline = _status_bytes("VmRSS")
    engine = build_engine("torch", _build_spec(case, folder))
    assert engine.facts.kernels == case.kernels, engine.facts.path
    engine.forward_backward([batch], denominator=weight)
    engine.optim_step(lr=1e-4, skip_above=None).read()
    state = engine.snapshot()
    engine.forward_backward([batch], denominator=weight)
    engine.optim_step(lr=1e-4, skip_above=None).read()
    assert state.arrays
    return _status_bytes("VmHWM") - baseline


def _draw_batch(case: Case) -> Batch:
    """One packed row of documents whose first part is a prompt."""
    draw = np.random.default_rng(0)
    documents: list[Example] = []
    for start in range(0, case.tokens, case.document):
        length = min(case.document, case.tokens - start)
        weights_T = np.ones(length, np.float32)
        weights_T[: round(length * (1 - case.label_share))] = 0
        tokens_T = draw.integers(4, SHAPES[case.shape]["vocab_size"], length).astype(np.int32)
        documents.append(Example(tokens_T, weights_T, SourceRef("drawn", 1)))
    return build_batch([documents], 0)


def _build_spec(case: Case, folder: Path) -> EngineSpec:
    return EngineSpec(
        model_folder=folder, model_name=case.shape, device="cpu",
        dtype=_dtype(case), precision=case.precision,
        attention="sdpa", adapter=_adapter(case), adapter_folder=None, optimizer="adamw", weight_decay=0.01,
        betas=(0.9, 0.999), epsilon=1e-8, max_grad_norm=1.0, checkpointed_layers=_checkpointed(case),
        quantization=case.quantization, deterministic=False, seed=0, kernels=case.kernels,
    )  # fmt: skip


def _adapter(case: Case) -> AdapterConfig:
    return AdapterConfig(kind="none") if case.kind == "none" else AdapterConfig(dropout=case.dropout)


def _checkpointed(case: Case) -> int:
    return round(case.checkpointed * SHAPES[case.shape]["num_hidden_layers"])


def _dtype(case: Case) -> str:
    return "fp32" if case.kind == "none" else case.precision


def _save_model(shape: dict[str, object], folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(folder)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not tell {key}")


def _machine() -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    return {
        "commit": commit.strip(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads_of_a_process": 1,
        "processes_at_a_time": AT_A_TIME,
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "heap": HEAP,
    }


if __name__ == "__main__":
    sys.exit(main())
