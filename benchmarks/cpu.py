"""Training on a CPU beside TRL + PEFT: real tokens a second, CPU seconds, memory, losses. `make bench`.

Every program runs in a process of its own that waits while the others work; in each of ROUNDS rounds each
takes a turn of some steps, in an order that changes direction from round to round. All train the same LoRA
on the same weights and documents with AdamW, with padding never counted. Prints the medians and the ratios,
writes cpu.json after each round, and ends with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from children import Child, Failed, run_child, write_model_apart
from cpu_result import LOSS_STEPS, Measured, print_result, summarize
from measure import Report
from real_rows import write_rows

HERE = Path(__file__).resolve().parent
DOCUMENTS = 1000
BATCH = 8
"""Documents of a step that pads, TRL's default."""
CHILD_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: a script, how many of its steps are warm-up, and how many a turn has."""

    label: str
    script: str
    arguments: tuple[str, ...]
    warm_up: int
    turn: int


_PACKED = ("--packed", "--batch", "2")
PROGRAMS = {
    "trl_defaults": Program(
        "TRL + PEFT as shipped: padded batches of 8, gradient checkpointing, bf16 autocast",
        "trl_peer.py", ("--checkpointing", "--batch", str(BATCH)), 1, 2,
    ),
    "trl_packed": Program(
        "TRL + PEFT, packed (bfd, 2 rows of 1,024), no checkpointing", "trl_peer.py", _PACKED, 2, 4
    ),
    "trl_packed_held": Program(
        "the same, glibc keeping freed memory", "trl_peer.py", (*_PACKED, "--held"), 2, 4
    ),
    "trl_packed_bf16": Program(
        "the same, frozen weights in bf16", "trl_peer.py", (*_PACKED, "--held", "--dtype", "bfloat16"), 2, 4
    ),
    "ours_plain": Program("Tunewright, plain path", "ours.py", ("--spec", '{"kernels": "plain"}'), 4, 8),
    "ours": Program("Tunewright, fast path", "ours.py", ("--spec", '{"kernels": "fast"}'), 4, 8),
    "trl_bf16": Program(
        "TRL + PEFT, packed (bfd, 2 rows of 1,024), frozen weights in bf16",
        "trl_peer.py", (*_PACKED, "--dtype", "bfloat16"), 2, 4,
    ),
    "trl_bf16_held": Program(
        "the same, glibc keeping freed memory",
        "trl_peer.py", (*_PACKED, "--dtype", "bfloat16", "--held"), 2, 4,
    ),
    "ours_auto": Program("Tunewright, kernels: auto", "ours.py", ("--spec", '{"kernels": "auto"}'), 4, 8),
}  # fmt: skip
REAL_PROGRAMS = ("trl_bf16", "trl_bf16_held", "ours_auto")
"""What is measured of a real model, whose weights and rows are read and not drawn."""
# Steps of BATCH documents in the order in which TRL as shipped takes them.
LOSS_PROGRAMS = {
    "fp32": ("--dtype", "fp32", "--precision", "fp32", "--spec", '{"kernels": "plain"}'),
    "ours_plain": ("--spec", '{"kernels": "plain"}'),
    "ours": ("--spec", '{"kernels": "fast"}'),
}


def main() -> int:
    """Measure, print, write; 1 when a bar is missed or a process failed."""
    options = _options()
    started = perf_counter()
    measured = Measured(
        options.model, {name: PROGRAMS[name].label for name in options.programs}, options.threads
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            if options.real:
                folder = options.real
                options.texts = Path(scratch) / "rows.npz"
                write_rows(folder, options.data, options.texts, count=DOCUMENTS, longest=1024)
            else:
                # In bf16, as models are published: every program starts from the very same numbers.
                write_model_apart(options.model, folder, dtype="bfloat16", device="cpu")
                measured.losses = _loss_reports(options, folder)
            _play_rounds(options, folder, measured, started)
    except Failed as failed:
        sys.stderr.write(f"error: {failed}\n")
        return 1
    result = _write(options, measured, started)
    print_result(result)
    return 0 if result["met"] and all(result["met"].values()) else 1


def _play_rounds(options: argparse.Namespace, folder: Path, measured: Measured, started: float) -> None:
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name in options.programs:
            _say(f"{perf_counter() - started:4.0f} s  starting {name}")
            program = PROGRAMS[name]
            turns = ["--warm-up", str(program.warm_up), "--turn", str(program.turn)]
            arguments = [*_arguments(name, program, folder, options), *turns]
            child = Child(program.script, arguments, threads=options.threads, seconds=CHILD_SECONDS)
            children[name] = stack.enter_context(child)
            child.wait_until_ready()
            child.play()
        longest = 0.0
        for number in range(options.rounds):
            begun = perf_counter()
            if begun - started + longest > options.minutes * 60:
                _say(f"no time for another round within {options.minutes:g} minutes")
                break
            for name in options.programs if number % 2 == 0 else reversed(options.programs):
                measured.turns[name].append(children[name].play())
            longest = max(longest, perf_counter() - begun)
            _write(options, measured, started)
            _say(f"{perf_counter() - started:4.0f} s  round {number + 1} of {options.rounds} done")
        for name, child in children.items():
            measured.reports[name] = child.finish()


def _loss_reports(options: argparse.Namespace, folder: Path) -> dict[str, Report]:
    """Steps of the same documents in fp32 and in bf16."""
    reports = {}
    for name, arguments in LOSS_PROGRAMS.items():
        program = Program(name, "ours.py", arguments, 0, 0)
        steps = ["--batch", str(BATCH), "--steps", str(LOSS_STEPS)]
        reports[name] = run_child(
            program.script,
            [*_arguments(name, program, folder, options), *steps],
            threads=options.threads,
            seconds=CHILD_SECONDS,
        )
    return reports


def _arguments(name: str, program: Program, folder: Path, options: argparse.Namespace) -> list[str]:
    common = ["--name", name, "--model", options.model, "--folder", str(folder), "--longest", "1024"]
    rows = ["--texts", str(options.texts)] if options.real else ["--documents", str(DOCUMENTS)]
    return [*common, *rows, *program.arguments]


def _write(options: argparse.Namespace, measured: Measured, started: float) -> dict:
    result = summarize(measured, seconds=perf_counter() - started)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each program; fewer than 5 meet no bar"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="no round is begun that would end after these"
    )
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, metavar="NAME", help="instead of all")
    parser.add_argument("--model", default="qwen2-55m", help="tiny to try the command out")
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="SmolLM2-135M, as make real-model builds it"
    )
    parser.add_argument(
        "--data", type=Path, help="Alpaca rows for --real, instead of this repository's pages"
    )
    parser.add_argument("--json", type=Path, help="where the result goes")
    options = parser.parse_args()
    if options.real:
        options.model = "smollm2-135m"
    random_programs = [name for name in PROGRAMS if name not in REAL_PROGRAMS]
    options.programs = options.programs or (list(REAL_PROGRAMS) if options.real else random_programs)
    options.json = options.json or HERE / ("cpu_real.json" if options.real else "cpu.json")
    return options


if __name__ == "__main__":
    sys.exit(main())
