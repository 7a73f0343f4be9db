"""The MLX engine beside `mlx_lm.lora` on one machine: real tokens a second and peak memory.

Three runs on the same rows, model, LoRA and batch of 8, each in a process of its own, in turn, ROUNDS times:
ours (`tunewright train`, engine mlx), theirs as shipped, and theirs with its rows sorted by length in the
file (its own sort compares how many keys a row has, so rows stay in the order of the file). Every run sees
every row once. Padding is never counted. Prints the medians, writes benchmarks/mlx_lora.json, and ends with
1 when a bar is missed.

Seconds are those of the clock on a GPU. On a CPU they are processor seconds of the child, which runs in one
thread: what else the machine does then moves the result far less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
BATCH = 8
RANK = 8
SCALE = 20.0
"""The factor on the update that mlx-lm takes by default; here alpha = SCALE x RANK."""
WARM_UP = 5
"""Steps left out: both build their kernels in the first ones."""
BARS = {"speed_as_shipped": 2.0, "speed_sorted": 1.0, "memory": 1.0}
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "small", "models")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process showed."""

    tokens: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.cpu_seconds if _on_cpu() else self.wall_seconds)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a step was first seen in the child's log."""

    wall_seconds: float
    cpu_seconds: float


def main() -> int:
    """Measure, print, write; 1 when a bar is missed."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_model(folder / "model")
        _write_rows(folder, BATCH * options.steps)
        samples: dict[str, list[Sample]] = {"ours": [], "theirs": [], "theirs_sorted": []}
        for turn in range(options.rounds):
            samples["ours"].append(_ours(folder, turn))
            samples["theirs"].append(_theirs(folder, "shuffled", options.steps, turn))
            samples["theirs_sorted"].append(_theirs(folder, "sorted", options.steps, turn))
            # After each round, so that a long measurement that is stopped has not been for nothing.
            result = _summary(samples, options)
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            sys.stderr.write(f"round {turn + 1} of {options.rounds} done\n")
    _print(result)
    return 0 if all(result["met"].values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps a run, 8 rows each")
    parser.add_argument("--json", type=Path, default=HERE / "mlx_lora.json", help="where the result goes")
    return parser.parse_args()


def _write_model(folder: Path) -> None:
    """A random Llama of 2.4 million weights in fp32, with the tokenizer of builtin:tiny."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunewright.assets.files import TINY_MODEL

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=257, pad_token_id=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((TINY_MODEL / name).read_bytes())


def _write_rows(folder: Path, count: int) -> None:
    """Texts whose lengths in tokens are log-normal: median 80, nine tenths within 29 to 220, at most 500."""
    draw = np.random.Generator(np.random.Philox(0))
    lengths = np.clip(np.exp(draw.normal(np.log(80), 0.79, count)), 8, 500).astype(int)
    rows = [{"text": _text(draw, length)} for length in lengths]
    for name, ordered in (("shuffled", rows), ("sorted", sorted(rows, key=lambda row: len(row["text"])))):
        (folder / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in ordered)
        (folder / name / "train.jsonl").write_text(text, encoding="utf-8")


def _text(draw: np.random.Generator, length: int) -> str:
    """Words of exactly `length` characters, each a token of this tokenizer."""
    words = " ".join(draw.choice(_WORDS, size=length))
    return words[: length - 1] + "."


def _ours(folder: Path, turn: int) -> Sample:
    run_file = folder / "run.yaml"
    run_file.write_text(
        f"""engine: mlx
model: {{name: {folder / "model"}, dtype: fp32}}
data: {{train: [{{path: {folder / "shuffled" / "train.jsonl"}, format: text}}], eval: 0, seq_len: 512}}
adapter: {{rank: {RANK}, alpha: {SCALE * RANK}}}
train: {{epochs: 1, batch_size: {BATCH}, learning_rate: 1e-4, schedule: constant, precision: fp32}}
checkpoint: {{every_steps: 100000, export_every: never}}
""",
        encoding="utf-8",
    )
    out = folder / f"ours-{turn}"
    code = "from tunewright.cli.main import main; main()"
    log = out / "events.jsonl"
    peak, moments = _run([sys.executable, "-c", code, "train", str(run_file), "--out", str(out)], log)
    # A row of n tokens has n - 1 labels.
    tokens = [event["loss_tokens"] + BATCH for event in _reports(log)]
    # The loop reads a step's numbers when the next step is computed: the line before shows when it was done.
    return _sample(sum(tokens[WARM_UP:]), moments[WARM_UP - 2], moments[-1], peak)


def _theirs(folder: Path, rows: str, steps: int, turn: int) -> Sample:
    record = folder / f"{rows}-{turn}.jsonl"
    peak, moments = _run(
        [
            sys.executable, str(HERE / "mlx_lora_peer.py"), "--record", str(record), "--train",
            "--model", str(folder / "model"), "--data", str(folder / rows), "--num-layers", "-1",
            "--batch-size", str(BATCH), "--iters", str(steps), "--steps-per-report", "1",
            "--max-seq-length", "512", "--learning-rate", "1e-4",
            "--adapter-path", str(folder / f"{rows}-{turn}"),
        ],
        record,
    )  # fmt: skip
    reports = _reports(record)
    tokens = reports[-1]["tokens"] - reports[WARM_UP - 1]["tokens"]
    return _sample(tokens, moments[WARM_UP - 1], moments[-1], peak)


def _reports(log: Path) -> list[dict[str, Any]]:
    """The complete lines of a log that tell of a step."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    reports = [json.loads(line) for line in lines if line.endswith("\n")]
    return [report for report in reports if report.get("type", "step") == "step"]


def _sample(tokens: int, first: Moment, last: Moment, peak_bytes: int) -> Sample:
    wall, cpu = last.wall_seconds - first.wall_seconds, last.cpu_seconds - first.cpu_seconds
    return Sample(tokens, wall, cpu, peak_bytes)


def _run(command: Sequence[str], log: Path) -> tuple[int, list[Moment]]:
    """Run to the end, quietly; returns the peak of resident bytes, and when each step came into the log."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        moments, status, usage = _watch(child.pid, log)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{output.read().decode(errors='replace')[-4000:]}")
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), moments


def _watch(child: int, log: Path) -> tuple[list[Moment], int, Any]:
    """Wait for a child, and note its times whenever its log has grown by a step."""
    process = psutil.Process(child)
    moments: list[Moment] = []
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        count = len(_reports(log))
        if ended:
            cpu = usage.ru_utime + usage.ru_stime
        elif count > len(moments):
            times = process.cpu_times()
            cpu = times.user + times.system
        else:
            sleep(0.02)
            continue
        moments += [Moment(perf_counter(), cpu)] * (count - len(moments))
        if ended:
            return moments, status, usage


def _on_cpu() -> bool:
    import mlx.core as mx

    return mx.default_device() == mx.cpu


def _summary(samples: dict[str, list[Sample]], options: argparse.Namespace) -> dict[str, Any]:
    speed = {name: median(one.tokens_per_second for one in runs) for name, runs in samples.items()}
    memory = {name: median(one.peak_bytes for one in runs) for name, runs in samples.items()}
    ratios = {
        "speed_as_shipped": speed["ours"] / speed["theirs"],
        "speed_sorted": speed["ours"] / speed["theirs_sorted"],
        "memory": memory["ours"] / min(memory["theirs"], memory["theirs_sorted"]),
    }
    met = {
        name: value <= BARS[name] if name == "memory" else value >= BARS[name]
        for name, value in ratios.items()
    }
    return {
        "seconds": "processor" if _on_cpu() else "clock",
        "tokens_per_second": speed,
        "peak_bytes": memory,
        "ratios": ratios,
        "bars": BARS,
        "met": met,
        "steps": options.steps,
        "warm_up_steps": WARM_UP,
        "batch": BATCH,
        "rounds": {name: [asdict(one) for one in runs] for name, runs in samples.items()},
        "device": _device(),
        "versions": {name: version(name) for name in ("mlx", "mlx-lm", "tunewright")},
        "commit": _commit(),
    }


def _device() -> str:
    import mlx.core as mx

    info = mx.device_info()
    return f"{info.get('device_name') or platform.machine()}, {platform.platform()}, {os.cpu_count()} cores"


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _print(result: dict[str, Any]) -> None:
    _say(f"{'':24}{'tokens/s':>10}{'peak MiB':>10}")
    for name, label in (
        ("ours", "tunewright, mlx"),
        ("theirs", "mlx_lm.lora as shipped"),
        ("theirs_sorted", "mlx_lm.lora, sorted"),
    ):
        peak = result["peak_bytes"][name] / 2**20
        _say(f"{label:24}{result['tokens_per_second'][name]:>10,.0f}{peak:>10,.0f}")
    for name, label, sign in (
        ("speed_as_shipped", "speed against as shipped", "at least"),
        ("speed_sorted", "speed against sorted", "at least"),
        ("memory", "memory against the lower", "at most"),
    ):
        verdict = "met" if result["met"][name] else "MISSED"
        _say(f"{label:28}{result['ratios'][name]:>6.2f} x   ({sign} {BARS[name]:g}: {verdict})")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
