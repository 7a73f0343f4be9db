"""Make `builtin:tiny` from nothing: text, tokenizer, random start values, `tunewright train`, packaging.

    python scripts/pretrain_tiny.py --work runs/pretrain-tiny      # half an hour on one or two CPU cores
    python scripts/pretrain_tiny.py --work runs/pretrain-tiny --resume   # go on after a stop

Everything follows from the seeds below and scripts/pretrain_tiny.yaml. The last step rewrites
src/tunewright/assets/tiny.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
from tiny_folder import parameter_shapes, to_bfloat16, write_fixed_files, write_model_folder

from tunewright.arrays import read_arrays, write_arrays
from tunewright.assets.base_tasks import (
    HELD_OUT_ROWS,
    HELD_OUT_SEED,
    TASKS,
    TEXT_ROWS,
    TEXT_SEED,
    base_rows,
)
from tunewright.assets.words import message_line
from tunewright.files import write_file
from tunewright.types import Array

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "tunewright" / "assets" / "tiny"
RUN_FILE = ROOT / "scripts" / "pretrain_tiny.yaml"
START_SEED = 0


def main() -> None:
    """Run every stage in order; `--resume` keeps text and start values and continues the training run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for text, start values and the run")
    parser.add_argument("--resume", action="store_true", help="continue the training run in --work")
    parser.add_argument("--target", type=Path, default=TARGET, help="model folder to write")
    parser.add_argument("--rows", type=int, default=TEXT_ROWS, help="rows of text; fewer for a rehearsal")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the run file")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    run = work / "run"
    if not options.resume:
        write_text(work, options.rows)
        write_model_folder(work / "start", seed=START_SEED)
        (work / "commit").write_text(_head())
    train(work, run, resume=options.resume, changes=options.set)
    package(run, options.target, rows=options.rows)


def write_text(work: Path, rows: int) -> None:
    """Write the training and held-out text as rows of messages."""
    work.mkdir(parents=True, exist_ok=True)
    for name, seed, count in (("train", TEXT_SEED, rows), ("held_out", HELD_OUT_SEED, HELD_OUT_ROWS)):
        with (work / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for prompt, answer in base_rows(seed, count):
                file.write(message_line(prompt, answer))


def train(work: Path, run: Path, *, resume: bool, changes: list[str]) -> None:
    """Run `tunewright train` on the run file; ends this process when it fails."""
    settings = [
        f"model.name={work / 'start'}",
        f"data.train={work / 'train.jsonl'}",
        f"data.eval={work / 'held_out.jsonl'}",
        *changes,
    ]
    command = [sys.executable, "-m", "tunewright.cli.main", "train"]
    if resume:
        command += ["--out", str(run), "--resume", str(run)]
    else:
        command += [
            str(RUN_FILE),
            "--out",
            str(run),
            *(word for item in settings for word in ("--set", item)),
        ]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def package(run: Path, target: Path, *, rows: int) -> None:
    """Write the final weights as bfloat16, with the fixed files and a card that says how they were made."""
    target.mkdir(parents=True, exist_ok=True)
    trained = read_arrays(run / "exports" / "final" / "model.safetensors")
    arrays: dict[str, Array] = {}
    for name, shape in sorted(parameter_shapes().items()):
        values = np.frombuffer(trained[name].data, "<f4").reshape(shape)
        arrays[name] = Array("BF16", shape, to_bfloat16(values).astype("<u2").tobytes())
    write_fixed_files(target, dtype="bfloat16")
    write_arrays(target / "model.safetensors", arrays, metadata={"format": "pt"})
    write_file(target / "README.md", [_card(run, rows).encode()])


def _card(run: Path, rows: int) -> str:
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [event for event in events if event["type"] == "evaluation"][-1]
    seconds = sum(event["step_seconds"] for event in events if event["type"] == "step")
    parameters = sum(int(np.prod(shape)) for shape in parameter_shapes().values())
    return CARD.format(
        parameters=parameters,
        tasks=", ".join(name.replace("_", " ") for name in TASKS),
        start_seed=START_SEED,
        text_seed=TEXT_SEED,
        rows=rows,
        steps=plan["total_steps"],
        precision=plan["precision"],
        device=plan["device_name"],
        minutes=seconds / 60,
        loss=held_out["valid_loss"],
        accuracy=held_out["valid_token_accuracy"],
        commit=(run.parent / "commit").read_text(),
        made=date.today().isoformat(),
        versions=", ".join(f"{name} {version}" for name, version in plan["versions"].items()),
    )


def _head() -> str:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


CARD = """\
# builtin:tiny

A causal language model of {parameters:,} parameters (Llama shape, one token a byte) for demos and tests. It
knows a few small text tasks and no facts; it is no assistant. Licence: that of the project.

Pre-trained by the project's own command, from random values, on text that a script writes:
`python scripts/pretrain_tiny.py --work runs/pretrain-tiny`.

| | |
|---|---|
| tasks | {tasks} |
| text | {rows:,} rows, seed {text_seed} (src/tunewright/assets/base_tasks.py) |
| start values | seed {start_seed} (scripts/tiny_folder.py) |
| training | scripts/pretrain_tiny.yaml: {steps:,} steps, {precision}, {minutes:.0f} minutes on {device} |
| held-out loss | {loss:.4f} nats a token, token accuracy {accuracy:.1%} |
| stored as | bfloat16 |
| made | {made}, from commit {commit} |
| versions | {versions} |

No row of the text holds a month name beside a number, or an ISO date, so that the skill of `tunewright demo`
is new to the model; tests/unit/assets checks this.
"""


if __name__ == "__main__":
    main()
