"""Kill a run at random moments and prove that it ends as if nothing had happened: `make chaos KILLS=100`.

Exit code 1 when a state did not load, an attempt failed, or a loss, an evaluation or a file differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from chaos_harness import ChaosResult, run_chaos

SHOWN = 20


def main() -> int:
    """Run, print the table, keep the folders only when something differs."""
    parser = argparse.ArgumentParser(
        description="Kill a run at random moments and compare it with one left alone."
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tunewright-chaos-"))
    result = run_chaos(folder, kills=arguments.kills, seed=arguments.seed, engine=arguments.engine, say=say)
    print_table(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    good = result.kills == arguments.kills and not result.faults and not result.differences
    say("equal to the undisturbed run" if good else f"NOT equal; the folders are in {folder}")
    if good:
        remove(folder)
    return 0 if good else 1


def print_table(result: ChaosResult) -> None:
    """What was killed where, and what came of it."""
    rows = [
        *((f"kills {where}", count) for where, count in sorted(result.landed.items())),
        ("kills in all", result.kills),
        ("of them fresh interpreters", result.fresh),
        ("steps compared", result.steps),
        ("evaluations compared", result.evaluations),
        ("steps done twice or more", result.replayed_steps),
        ("states checked after a kill", result.states_checked),
        ("states or attempts that failed", len(result.faults)),
        ("differences", len(result.differences)),
        ("seconds", round(result.seconds)),
    ]
    for name, value in rows:
        say(f"{name:<36}{value:>8}")
    say(f"adapter sha256  {result.adapter_sha256}")
    for line in (*result.faults, *result.differences)[:SHOWN]:
        say(line)


def remove(folder: Path) -> None:
    """Remove the scratch folder."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
