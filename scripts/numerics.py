"""Measure every equality on every family of test models and print the table: `make numerics`.

The measures and their tolerances are those that tests/numerics asserts (tests/equality_table.py). Exit code 1
when one does not hold. `--json FILE` also writes the figures with versions, device and commit.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from equality_table import EQUALITIES, Equality
from families import FAMILIES, make_family
from tunewright.engines.torch.device import detect_device
from tunewright.errors import TunewrightError

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "numpy")
NAME_WIDTH = max(len(equality.name) for equality in EQUALITIES)


def main() -> int:
    """Print row by row as it is measured, then the reasons."""
    arguments = parse_arguments()
    silence_libraries()
    torch.set_num_threads(1)
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    say("largest relative difference".ljust(NAME_WIDTH), *(f"{name:>8}" for name in arguments.families))
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: make_family(name, Path(temporary) / name) for name in arguments.families}
        for number, equality in enumerate(EQUALITIES):
            if arguments.only not in equality.name:
                continue
            measured = {
                name: measure(equality, folder, Path(temporary) / f"scratch-{number}-{name}")
                for name, folder in folders.items()
            }
            rows.append(describe(equality, measured))
            say_row(equality, measured)
    say("\nwhy a difference may be so large")
    for equality in EQUALITIES:
        say(f"{equality.name:<{NAME_WIDTH}}  {equality.tolerance:>6.0e}  {equality.reason}")
    if arguments.json:
        result = {**environment(), "seconds": round(time.monotonic() - started, 1), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = [row["name"] for row in rows if not row["holds"]]
    say(f"\n{len(rows) - len(failed)} of {len(rows)} equalities hold on {len(arguments.families)} families")
    return 1 if failed or not rows else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds this text")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    return parser.parse_args()


def silence_libraries() -> None:
    """TRL, PEFT and the loaders warn of their own deprecations and draw progress bars."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def measure(equality: Equality, folder: Path, scratch: Path) -> float:
    """The difference; not-a-number, with the reason on stderr, when it could not be measured."""
    scratch.mkdir()
    try:
        return equality.measure(folder, scratch)
    except (AssertionError, RuntimeError, TunewrightError) as error:
        sys.stderr.write(f"{equality.name}, {folder.name}: {type(error).__name__} {error}\n")
        return float("nan")


def say_row(equality: Equality, measured: Mapping[str, float]) -> None:
    cells = [f"{x:.1e}" if equality.holds(x) else f"!{x:.1e}" for x in measured.values()]
    verdict = "ok" if all(map(equality.holds, measured.values())) else "FAIL"
    say(f"{equality.name:<{NAME_WIDTH}}", *(f"{cell:>8}" for cell in cells), f" {verdict}")


def say(*parts: str) -> None:
    sys.stdout.write(" ".join(parts) + "\n")
    sys.stdout.flush()


def describe(equality: Equality, measured: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": equality.name,
        "tolerance": equality.tolerance,
        "at_least": equality.at_least,
        "reason": equality.reason,
        "differences": {name: None if x != x else float(f"{x:.3g}") for name, x in measured.items()},
        "holds": all(map(equality.holds, measured.values())),
    }


def environment() -> dict[str, Any]:
    """Where the figures are from."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_files": len(git("status", "--porcelain", "--", "src", "tests", "scripts").splitlines()),
        "date": time.strftime("%Y-%m-%d"),
        "device": detect_device("cpu").name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def git(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    command: Sequence[str] = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
