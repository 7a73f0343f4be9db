"""Train one step on every type that transformers lists as a causal language model: `make families`.

A tiny random model of each goes through the whole program, packed and one document a row, and its first loss
is compared with transformers' own (tests/causal_walk.py). Writes benchmarks/families.json and the page
docs/reference/families.md. Exit code 1 when a type ended otherwise than by the right loss or a refusal by
name.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from families_page import families_page

from causal_types import causal_types
from causal_walk import Layout, Outcome, walk_type

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "families.json"
PAGE = ROOT / "docs" / "reference" / "families.md"
LIBRARIES = ("torch", "transformers", "peft")
# Of one type. The first of a process also imports everything.
SECONDS = 180.0
_WORKER = "--worker"


def main() -> int:
    """Walk over the types, print what became of each, and write the figures and the page."""
    arguments = parse_arguments()
    types = arguments.types or causal_types()
    if arguments.worker:
        return walk_here(types)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in walk(types):
        outcomes.append(outcome)
        sys.stdout.write(f"{outcome.model_type:<28} {describe(outcome)}\n")
        sys.stdout.flush()
    wrong = [outcome.model_type for outcome in outcomes if not outcome.is_right]
    sys.stdout.write(
        f"\n{len(outcomes) - len(wrong)} of {len(outcomes)} types are right or refused by name, "
        f"{time.monotonic() - started:.0f} s; wrong: {', '.join(wrong) or 'none'}\n"
    )
    if not arguments.types:
        result = {
            "date": time.strftime("%Y-%m-%d"),
            "versions": {name: version(name) for name in LIBRARIES},
            "types": [outcome.to_json() for outcome in outcomes],
        }
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(families_page(result), encoding="utf-8")
    return 1 if wrong else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="only these, and nothing is written")
    parser.add_argument(_WORKER, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def walk(types: Sequence[str]) -> Iterator[Outcome]:
    """Outcomes in order, from a process that is started anew when a type ends it or takes too long."""
    left = list(types)
    while left:
        for outcome in _walk_in_process(left):
            left.remove(outcome.model_type)
            yield outcome


def _walk_in_process(types: Sequence[str]) -> Iterator[Outcome]:
    command = [sys.executable, __file__, _WORKER, *types]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert worker.stdout is not None
    try:
        for model_type in types:
            ready, _, _ = select.select([worker.stdout], [], [], SECONDS)
            line = worker.stdout.readline() if ready else ""
            if not line:
                late = f"took more than {SECONDS:.0f} s"
                end = f"the process ended with {worker.wait()}" if ready else late
                yield Outcome(model_type, layouts={"packed": Layout(crashed=end)})
                return
            yield Outcome.of(json.loads(line))
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def walk_here(types: Sequence[str]) -> int:
    """The process: an outcome a line on stdout, and nothing else."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for model_type in types:
        with (
            tempfile.TemporaryDirectory(prefix="families-") as scratch,
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            os.environ["TUNEWRIGHT_CACHE"] = str(Path(scratch) / "cache")
            outcome = walk_type(model_type, Path(scratch))
        sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
        sys.stdout.flush()
    return 0


def describe(outcome: Outcome) -> str:
    """One line for a person."""
    if outcome.not_built:
        return f"not built: {outcome.not_built}"
    return "; ".join(f"{name}: {describe_layout(one)}" for name, one in outcome.layouts.items())


def describe_layout(one: Layout) -> str:
    if one.crashed:
        return f"CRASHED {one.crashed}"
    if one.difference is None:
        return f"refused, {one.refused}"
    return f"{one.difference:.1e} ({one.attention})"


if __name__ == "__main__":
    sys.exit(main())
