"""Training on one GPU beside TRL + PEFT, in 8 minutes: `PYTHONPATH=src python benchmarks/gpu.py`.

Needs torch, transformers and the small packages of tunewright's core; for the peer trl, peft and datasets;
for nf4 bitsandbytes. Liger and a flash-attention package are used for the peer when they are there. Each
case is a process of its own with its own time-out. gpu.json is written after each; a case whose model does
not start, or for which no time is left, is named with the reason. Ends with 1 when a bar is missed or could
not be judged. `--model tiny --device cpu` tries everything but the device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from children import HERE, Failed, run_child, write_model_apart
from gpu_cases import Case, gpu_cases
from gpu_result import GpuResult
from workload import SHAPES

DOCUMENTS = {"conversations": 3000, "full": 200}
SHARED_MEMORY = Path("/dev/shm")
ROOM = 1.2
"""Of the weights: shards are written beside one another, and the file system wants some."""
LEAST_SECONDS = 20.0
"""A case is not begun with less time than this."""


def main() -> int:
    """Measure, print, write; 1 when a bar is missed or not judged."""
    options = _options()
    started = perf_counter()
    cases = {name: case for name, case in gpu_cases().items() if name in options.cases}
    result = GpuResult(options.device, _measure_peak(options.device))
    with _model_folders(options) as folders:
        for name, case in cases.items():
            left = options.minutes * 60 - (perf_counter() - started)
            shown = _fit(case, options)
            try:
                if left < LEAST_SECONDS:
                    raise Failed("no time was left")
                folder = folders.folder_of(shown.model, seconds=left)
                left = options.minutes * 60 - (perf_counter() - started)
                arguments = _arguments(name, shown, folder, options)
                result.add(name, shown, run_child(
                    shown.script, arguments, threads=os.cpu_count() or 1,
                    seconds=max(1.0, min(left, shown.seconds)),
                ))  # fmt: skip
            except (Failed, OSError) as failed:
                result.leave_out(name, shown, _last_line(str(failed)))
            result.write(options.json, perf_counter() - started)
            result.print_case(name)
    result.print_bars()
    return 0 if result.all_met() else 1


def _arguments(name: str, case: Case, folder: Path, options: argparse.Namespace) -> list[str]:
    documents = str(DOCUMENTS[case.arguments[case.arguments.index("--rows") + 1]])
    return [
        "--name", name, "--model", case.model, "--folder", str(folder), "--device", options.device,
        "--documents", documents, "--steps", str(case.warm_up + case.steps),
        "--warm-up", str(case.warm_up), *case.arguments,
    ]  # fmt: skip


def _fit(case: Case, options: argparse.Namespace) -> Case:
    """The case as it is, or with --model tiny small enough for any machine."""
    if options.model != "tiny":
        return case
    small = {"4096": "64", "16384": "256", "8192": "128"}
    arguments = tuple(small.get(argument, argument) for argument in case.arguments)
    return replace(
        case, model="tiny", arguments=arguments, warm_up=min(case.warm_up, 1), steps=3, seconds=250
    )


class _Models:
    """Model folders by name, each written when first asked for and kept while there is room for the next."""

    def __init__(self, root: Path, device: str) -> None:
        self._root, self._device = root, device

    def folder_of(self, name: str, *, seconds: float) -> Path:
        """The folder of a model, written within `seconds`. Raises Failed and OSError."""
        folder = self._root / name
        if not folder.exists():
            for other in self._root.iterdir():
                if shutil.disk_usage(self._root).free < ROOM * weight_bytes(name):
                    shutil.rmtree(other)
            whole = folder.with_name(f"{name}.part")
            write_model_apart(name, whole, dtype="bfloat16", device=self._device, seconds=seconds)
            whole.rename(folder)
        return folder


def weight_bytes(name: str) -> int:
    """Of a model in bf16, embedding and head counted apart."""
    shape = SHAPES[name]
    linear = shape.layers * sum(a * b for a, b in shape.linear_sizes)
    return 2 * (linear + 2 * shape.hidden_size * shape.vocabulary)


@contextmanager
def _model_folders(options: argparse.Namespace) -> Iterator[_Models]:
    """In shared memory where it has room: models are read once a case, and disks are slow beside it."""
    largest = max(weight_bytes(gpu_case.model) for gpu_case in gpu_cases().values())
    roomy = SHARED_MEMORY.exists() and shutil.disk_usage(SHARED_MEMORY).free > ROOM * largest
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if roomy else None) as folder:
        yield _Models(Path(folder), options.device)


def _measure_peak(device: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "matmul.py"), device], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {_last_line(done.stderr)}\nhint: this benchmark needs a CUDA device")
    return json.loads(done.stdout)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:300]


def _options() -> argparse.Namespace:
    names = list(gpu_cases())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="no case is begun or goes on after these")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--model", choices=("real", "tiny"), default="real")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, default=HERE / "gpu.json", help="where the result goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
