"""What only a Mac can show, in one command: `make mac-check`. Takes some minutes and needs no network.

Runs the contract suite on Metal and MPS, compares losses with the CPU's, measures speed and memory, and looks
at the automatic choices and the memory cap. Prints a table and writes mac_check.json, a file to send back.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
# Of losses in fp32 over 12 steps: kernels sum in another order. Twice what torch shows between two CPUs.
LOSS_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. values: what was measured, for the file."""

    name: str
    passed: bool
    detail: str
    values: dict[str, Any]


def main() -> int:
    """Run every check, also after one has failed; 1 when one failed or this is no Mac."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--platform-only", action="store_true", help="only say whether this is a Mac")
    parser.add_argument("--json", type=Path, default=Path("mac_check.json"), help="where the result goes")
    options = parser.parse_args()
    if (sys.platform, platform.machine()) != ("darwin", "arm64"):
        sys.stderr.write(
            f"error: make mac-check needs a Mac with Apple silicon, this is {platform.system()} "
            f"on {platform.machine()}\nhint: make test runs the MLX engine on any CPU\n"
        )
        return 1
    if options.platform_only:
        return 0
    checks = [_timed(check) for check in CHECKS]
    result = {"machine": _machine(), "checks": [asdict(check) for check in checks]}
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    failed = [check.name for check in checks if not check.passed]
    _say(f"{len(checks) - len(failed)} of {len(checks)} passed; written: {options.json}")
    return 1 if failed else 0


def check_auto() -> Check:
    """`auto` takes MLX on this machine, and each engine its GPU."""
    code = (
        "import json; from tunewright.engines.registry import detect_device, resolve_engine; "
        "devices = [detect_device(name, 'auto').device for name in ('mlx', 'torch')]; "
        "print(json.dumps([resolve_engine('auto'), *devices]))"
    )
    found = json.loads(_python("-c", code))
    return Check("automatic choices", found == ["mlx", "metal", "mps"], ", ".join(found), {"found": found})


def check_contract(engine: str, device: str) -> Check:
    """The contract suite of one engine on one device."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/contract", "-k", engine]
    done = _run(command, CONTRACT_DEVICE=device)
    lines = done.stdout.strip().splitlines() or ["no output"]
    failed = [line for line in lines if line.startswith("FAILED")]
    return Check(f"contract, {engine} on {device}", done.returncode == 0, lines[-1], {"failed": failed})


def check_losses(engine: str, device: str) -> Check:
    """The same short run on the GPU and on the CPU, and how fast each was."""
    with tempfile.TemporaryDirectory() as folder:
        there, here = (_train(Path(folder), engine, name) for name in (device, "cpu"))
    pairs = zip(there["losses"], here["losses"], strict=True)
    difference = max(abs(a - b) / b for a, b in pairs)
    speeds = " against ".join(f"{one['tokens_per_second']:,.0f}" for one in (there, here))
    detail = f"{difference:.1e} apart; {speeds} tokens/s"
    values = {"difference": difference, device: there, "cpu": here}
    return Check(f"losses, {engine} on {device}", difference <= LOSS_TOLERANCE, detail, values)


def check_memory() -> Check:
    """The engine refuses a pass that would not fit, and the process lives."""
    values = json.loads(_python("scripts/mac_memory.py", "metal"))
    below = values["usable_bytes"] < values["working_set_bytes"]
    passed = below and values["rows_refused"] is not None
    detail = f"cap {values['usable_bytes'] / 2**30:.1f} of {values['working_set_bytes'] / 2**30:.1f} GiB"
    return Check("memory cap", passed, f"{detail}; refused at {values['rows_refused']} rows", values)


def check_peer() -> Check:
    """Speed and memory beside mlx_lm.lora on Metal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        done = _run([sys.executable, "benchmarks/mlx_lora.py", "--json", str(path)])
        if not path.exists():
            return Check("beside mlx_lm.lora", False, _last_line(done), {})
        values = json.loads(path.read_text(encoding="utf-8"))
    ratios = values["ratios"]
    detail = (
        f"{ratios['speed_as_shipped']:.2f} x as shipped, {ratios['speed_sorted']:.2f} x sorted, "
        f"{ratios['memory']:.2f} x memory"
    )
    return Check("beside mlx_lm.lora", done.returncode == 0, detail, values)


def check_demo() -> Check:
    """The whole demo on Metal learns its task."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        done = _run([*_TUNEWRIGHT, "demo", "--engine", "mlx", "--out", str(out)])
        if done.returncode:
            return Check("demo on Metal", False, _last_line(done), {})
        values = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    values.pop("answers")
    detail = f"{values['base_exact']} before, {values['tuned_exact']} after, {values['seconds']} s"
    return Check("demo on Metal", values["tuned_exact"] >= 90, detail, values)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_auto,
    lambda: check_contract("mlx", "metal"),
    lambda: check_contract("torch", "mps"),
    lambda: check_losses("mlx", "metal"),
    lambda: check_losses("torch", "mps"),
    check_memory,
    check_peer,
    check_demo,
)
_TUNEWRIGHT = (sys.executable, "-c", "from tunewright.cli.main import main; main()")


def _train(folder: Path, engine: str, device: str) -> dict[str, Any]:
    """Losses, median speed and peak memory of a short run of the bundled model in fp32."""
    out = folder / device
    settings = (
        f"engine={engine}", f"device={device}", "model=builtin:tiny", "model.dtype=fp32",
        "data.train=src/tunewright/assets/samples/dates.jsonl", "data.eval=0", f"train.max_steps={STEPS}",
        "train.batch_size=32", "train.micro_batch_size=32", "train.precision=fp32",
    )  # fmt: skip
    run_file = folder / "run.yaml"
    run_file.write_text("model: builtin:tiny\ndata: {train: rows.jsonl}\n", encoding="utf-8")
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = _run([*_TUNEWRIGHT, "train", str(run_file), "--out", str(out), *overrides])
    if done.returncode:
        raise RuntimeError(_last_line(done))
    lines = (out / "events.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [event for event in map(json.loads, lines) if event["type"] == "step"]
    return {
        "losses": [step["loss"] for step in steps],
        "tokens_per_second": median(step["tokens_per_second"] for step in steps[2:]),
        "peak_mib": max(step["gpu_memory_used"] for step in steps),
    }


def _timed(check: Callable[[], Check]) -> Check:
    """Run one check and print its line. One that cannot run at all has failed."""
    started = perf_counter()
    try:
        found = check()
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
        found = Check(
            getattr(check, "__name__", "check"), False, f"{type(error).__name__}: {error}"[:200], {}
        )
    seconds = perf_counter() - started
    _say(f"{'ok' if found.passed else 'FAILED':8}{found.name:28}{found.detail}  ({seconds:.0f} s)")
    return found


def _python(*arguments: str) -> str:
    """Last line that a Python child prints."""
    done = _run([sys.executable, *arguments])
    if done.returncode:
        raise RuntimeError(_last_line(done))
    return done.stdout.strip().splitlines()[-1]


def _run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **environment}
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr or done.stdout).strip().splitlines() or ["no output"])[-1]


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    chip, memory = (
        subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False).stdout.strip()
        for key in ("machdep.cpu.brand_string", "hw.memsize")
    )
    commit = _run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    names = ("tunewright", "mlx", "mlx-lm", "torch", "transformers")
    return {
        "chip": chip,
        "memory_bytes": int(memory or 0),
        "macos": platform.mac_ver()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "commit": commit or "unknown",
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
