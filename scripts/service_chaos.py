"""Break the service FAULTS times while clients use it, and judge that: `make service-chaos FAULTS=1000`.

Half of the faults on SQLite and half on PostgreSQL, unless one is named. Exit code 1 for any violation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from service_chaos_harness import ChaosPlan, run_service_chaos
from service_takeover_run import run_takeovers
from service_takeovers import TAKEOVER_LEASES

SHOWN = 30


def main() -> int:
    """Run, print and, with --json, write what came of it."""
    parser = argparse.ArgumentParser(description="Break the service while clients use it.")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=("both", "sqlite", "postgres"), default="both")
    parser.add_argument("--lease-seconds", type=float, default=2.0)
    parser.add_argument("--light", type=float, default=0.15, help="seconds a step; 0 trains for real")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--pause", type=float, default=2.0, help="most seconds between two faults")
    parser.add_argument("--folder", type=Path, help="work in this new folder and leave it")
    parser.add_argument("--takeovers", type=int, default=0, help="instead, kill so many workers that train")
    arguments = parser.parse_args()
    if arguments.takeovers:
        return measure_takeovers(arguments.takeovers, arguments.lease_seconds, arguments.json)
    names = ("sqlite", "postgres") if arguments.database == "both" else (arguments.database,)
    runs = []
    for number, name in enumerate(names):
        folder = (
            arguments.folder / name
            if arguments.folder
            else Path(tempfile.mkdtemp(prefix="tunewright-service-chaos-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        share = arguments.faults // len(names) + (arguments.faults % len(names) if number == 0 else 0)
        plan = ChaosPlan(
            share,
            seed=arguments.seed + number,
            postgres=name == "postgres",
            lease_seconds=arguments.lease_seconds,
            light=arguments.light,
            pause=(0.2, arguments.pause),
        )
        result = run_service_chaos(folder, plan, say)
        runs.append(result.summary())
        say(json.dumps({**runs[-1], "violations": runs[-1]["violations"][:SHOWN]}, indent=1))
        if result.violations:
            say(f"VIOLATIONS; the history is {folder / 'history.jsonl'}")
        elif not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)
        if arguments.json:
            text = json.dumps({"seed": arguments.seed, "runs": runs}, indent=1) + "\n"
            arguments.json.write_text(text, encoding="utf-8")
    return 1 if any(run["violations"] for run in runs) else 0


def measure_takeovers(count: int, lease_seconds: float, json_path: Path | None) -> int:
    """Kill `count` workers that train while as many wait; 1 when a takeover lasted over 1.5 leases."""
    with tempfile.TemporaryDirectory(prefix="tunewright-service-chaos-") as folder:
        found = run_takeovers(Path(folder), count, lease_seconds, say)
    seconds = sorted(round(takeover.seconds, 2) for takeover in found)
    result = {"lease_seconds": lease_seconds, "kills": count, "takeover_seconds": seconds}
    say(json.dumps(result))
    if json_path:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if len(seconds) == count and seconds[-1] <= TAKEOVER_LEASES * lease_seconds else 1


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
