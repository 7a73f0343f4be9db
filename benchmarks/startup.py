"""What a run of `tunewright train` spends beside training: starting, waiting for data. Writes startup.json.

Runs the command as a user does, from JSONL through the tokenizer, and reads the run's own events. Start-up is
the time from the call to the first step less that of loading the model, which a process of its own measures.
`starts` runs follow one another; the first makes the cache of tokenised rows and the others find it, and the
median of those counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import Any

from children import HERE, Failed, environment, write_model_apart
from origin import describe_origin
from workload import draw_documents

from tunewright.assets.files import TINY_MODEL

ROWS = 600
BARS = {"startup_seconds": 5.0, "data_share": 0.01}
_RUN = [sys.executable, "-c", "from tunewright.cli.main import main; main()"]
# Reading alone, without imports: what any program would have to do before it trains.
_LOAD = """
import sys, time, torch, transformers
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
started = time.perf_counter()
Qwen2ForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
print(time.perf_counter() - started)
"""


def main() -> int:
    """Measure, print, write; 1 when a bar is missed."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_model(folder / "model", options.model)
        _write_rows(folder / "rows.jsonl")
        runs = [_run(folder, number, options.steps) for number in range(options.starts)]
        load_seconds = float(_last_line([sys.executable, "-c", _LOAD, str(folder / "model")]))
    warm = runs[1:] or runs
    result = {
        "benchmark": "startup",
        "model": options.model,
        "rows": ROWS,
        "load_seconds": load_seconds,
        "startup_seconds": median(run["ready_seconds"] for run in warm) - load_seconds,
        "first_startup_seconds": runs[0]["ready_seconds"] - load_seconds,
        "data_share": median(run["data_share"] for run in runs),
        "runs": runs,
        "bars": BARS,
        "origin": describe_origin("cpu"),
    }
    result["met"] = {name: result[name] <= bar for name, bar in BARS.items()}
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, bar in BARS.items():
        verdict = "met" if result["met"][name] else "MISSED"
        sys.stdout.write(f"{name:20}{result[name]:>10.4f}   (at most {bar:g}: {verdict})\n")
    return 0 if all(result["met"].values()) else 1


def _run(folder: Path, number: int, steps: int) -> dict[str, Any]:
    """Seconds to the first step, and the share of step time spent waiting for data."""
    run_file = folder / "run.yaml"
    run_file.write_text(
        f"model: {{name: {folder / 'model'}, dtype: bf16}}\n"
        f"data: {{train: [{{path: {folder / 'rows.jsonl'}, format: text}}], eval: 0, seq_len: 1024}}\n"
        f"train: {{max_steps: {steps}, batch_size: 8, precision: bf16}}\n",
        encoding="utf-8",
    )
    out = folder / f"run-{number}"
    called, clock, before = time(), perf_counter(), _children_cpu_seconds()
    _last_line([*_RUN, "train", str(run_file), "--out", str(out), "--set", "device=cpu"], folder)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    taken = [event for event in events if event["type"] == "step"]
    started = next(event["time"] for event in events if event["type"] == "run_started")
    return {
        "ready_seconds": datetime.fromisoformat(started).timestamp() - called,
        "whole_seconds": perf_counter() - clock,
        "whole_cpu_seconds": _children_cpu_seconds() - before,
        "data_share": sum(s["data_seconds"] for s in taken[1:]) / sum(s["step_seconds"] for s in taken[1:]),
        "steps": len(taken),
    }


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write_model(folder: Path, name: str) -> None:
    """Random weights with the tokenizer of builtin:tiny."""
    write_model_apart(name, folder, dtype="bfloat16", device="cpu")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((TINY_MODEL / file).read_bytes())


def _write_rows(path: Path) -> None:
    """Texts of realistic lengths; one character is one token of this tokenizer."""
    documents = draw_documents("conversations", ROWS, longest=1000, vocabulary=26)
    texts = ["".join(chr(ord("a") + int(token) % 26) for token in d.tokens_T) for d in documents]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def _last_line(command: list[str], cache: Path | None = None) -> str:
    given = environment(min(2, os.cpu_count() or 1))
    if cache is not None:
        given["TUNEWRIGHT_CACHE"] = str(cache / "cache")
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip()[-2000:])
    return (done.stdout.strip().splitlines() or [""])[-1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--starts", type=int, default=4, help="runs")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--model", default="qwen2-55m")
    parser.add_argument("--json", type=Path, default=HERE / "startup.json", help="where the result goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
