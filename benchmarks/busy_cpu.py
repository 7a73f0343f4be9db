"""The demo's steps beside one busy core, with libgomp's own spinning and with ours. Writes busy_cpu.json.

A thread of GNU OpenMP spins before it sleeps. Where another program keeps one core busy, the threads that are
waited for get no core, and every barrier costs the whole spin. Runs alternate; medians of ROUNDS.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from origin import describe_origin

from tunewright.host_cpu import cpu_name

HERE = Path(__file__).resolve().parent
ROUNDS, STEPS = 3, 10
# libgomp's own number where no variable is set.
SETTINGS = {"libgomp": "300000", "ours": "5000"}
_DEMO = "from tunewright.cli.main import run; import sys; sys.exit(run(sys.argv[1:]))"


def main() -> None:
    """Measure both settings on idle cores and beside a busy one, and print tokens a second."""
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, spins in SETTINGS.items():
            rates.setdefault(f"{name}, idle", []).append(_tokens_per_second(spins))
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
                try:
                    rates.setdefault(f"{name}, one core busy", []).append(_tokens_per_second(spins))
                finally:
                    busy.kill()
    result = {
        "origin": describe_origin(cpu_name()),
        "rounds": rates,
        "tokens_per_second": {name: median(values) for name, values in rates.items()},
    }
    (HERE / "busy_cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result["tokens_per_second"], indent=1) + "\n")


def _tokens_per_second(spins: str) -> float:
    """Real tokens a second over the second half of a short demo's steps."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-c", _DEMO, "demo", "--steps", str(STEPS)],
            cwd=scratch, env={**os.environ, "GOMP_SPINCOUNT": spins}, check=True, capture_output=True,
        )  # fmt: skip
        (events,) = Path(scratch).glob("runs/*/events.jsonl")
        steps = [json.loads(line) for line in re.findall(r".*\"step\".*", events.read_text())]
    measured = [event["tokens_per_second"] for event in steps if event["type"] == "step"][STEPS // 2 :]
    return median(measured)


if __name__ == "__main__":
    main()
