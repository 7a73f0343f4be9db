"""Train on a file larger than the memory it may take: `make large`, or `python scripts/large_data.py --help`.

Writes a JSONL file of chat rows, trains the bundled model on it by the real command, stops it by SIGTERM in
the middle and resumes it. The same run on a few rows tells what the model alone takes. Exits with 1 when
memory or the time to resume is above its bar, or when a loss differs from the uninterrupted run. Needs /proc
(Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ExitCode
from tunewright.trackers.jsonl import read_events

MEMORY_BAR_BYTES = 500 * 10**6
RESUME_BAR_SECONDS = 5.0
FEW_ROWS = 200
STEPS = 24
CUT_AT = 12
POLL_SECONDS = 0.01
VARIANTS = 4096
BLOCK_ROWS = 8192
WORDS = (
    "the",
    "order",
    "was",
    "late",
    "and",
    "our",
    "team",
    "will",
    "send",
    "a",
    "new",
    "one",
    "by",
    "friday",
)

CONFIG = """model: builtin:tiny
data: {{train: {file}, eval: {share}, seq_len: 512, overlong: truncate}}
adapter: {{rank: 4, dropout: 0.1}}
train: {{epochs: 1, max_steps: {steps}, batch_size: 2, learning_rate: 1e-3}}
checkpoint: {{every_steps: 4, export_every: never}}
evaluate: {{every_steps: 1000}}
"""


@dataclass(frozen=True)
class Finished:
    """A process that ended. first_step_seconds: from its start until its first step was in the event log;
    first_step_cpu_seconds: processor time by then, which other processes on the machine do not change."""

    exit_code: int
    seconds: float
    first_step_seconds: float
    first_step_cpu_seconds: float
    peak_bytes: int


def main() -> int:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bytes", type=float, default=2e9, help="size of the data file (default 2e9)")
    parser.add_argument("--held-out", type=int, default=20, help="rows held out (default 20)")
    parser.add_argument("--folder", type=Path, help="where the file and the runs lie for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-data-", dir=options.folder) as name:
        return measure(Path(name), int(options.bytes), options.held_out)


def measure(folder: Path, size: int, held_out: int) -> int:
    """Write the files, run everything, print the table; 1 when a bar is missed."""
    started = time.monotonic()
    rows = write_rows(folder / "large.jsonl", size)
    written = (folder / "large.jsonl").stat().st_size
    few = write_rows(folder / "few.jsonl", 0)
    say(f"wrote {written:,} bytes, {rows:,} rows, in {time.monotonic() - started:.1f} s")
    for file, count in (("large", rows), ("few", few)):
        text = CONFIG.format(file=f"{file}.jsonl", share=min(held_out / count, 0.5), steps=STEPS)
        (folder / f"{file}.yaml").write_text(text)
    whole = train(folder, "large", "whole")
    runs = {"large, first start": whole}
    for file in ("large", "few"):
        runs[f"{file}, stopped"] = train(folder, file, f"{file}-cut", stop_at=CUT_AT)
        runs[f"{file}, resumed"] = train(folder, file, f"{file}-cut", resume=True)
    say(f"{'run':<20} {'exit':>4} {'seconds':>8} {'to first step':>14} {'of CPU':>8} {'peak memory':>14}")
    for name, run in runs.items():
        say(
            f"{name:<20} {run.exit_code:>4} {run.seconds:>7.1f}s {run.first_step_seconds:>13.2f}s"
            f" {run.first_step_cpu_seconds:>7.2f}s {run.peak_bytes / 1e6:>11,.1f} MB"
        )
    return judge(folder, runs)


def judge(folder: Path, runs: dict[str, Finished]) -> int:
    """Compare with the bars; 1 when one is missed."""
    large = [run for name, run in runs.items() if name.startswith("large")]
    few = [run for name, run in runs.items() if name.startswith("few")]
    memory = max(run.peak_bytes for run in large) - max(run.peak_bytes for run in few)
    resumed, small = runs["large, resumed"], runs["few, resumed"]
    resume = resumed.first_step_seconds - small.first_step_seconds
    resume_cpu = resumed.first_step_cpu_seconds - small.first_step_cpu_seconds
    expected, found = losses(folder / "whole"), losses(folder / "large-cut")
    codes = [run.exit_code for run in runs.values()]
    ended = [ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.DONE]
    checks = [
        (
            memory < MEMORY_BAR_BYTES,
            f"memory above the model: {memory / 1e6:,.1f} MB, bar {MEMORY_BAR_BYTES / 1e6:,.0f}",
        ),
        (
            resume < RESUME_BAR_SECONDS,
            f"resume beyond a small run: {resume:.2f} s (CPU {resume_cpu:.2f} s), bar {RESUME_BAR_SECONDS:g}",
        ),
        (
            found == expected and len(found) == STEPS,
            f"losses of {len(found)} steps equal the uninterrupted run's",
        ),
        (codes == ended, "processes ended as they should"),
    ]
    for passed, check in checks:
        say(f"{'pass' if passed else 'FAIL'}  {check}")
    return 0 if all(passed for passed, _ in checks) else 1


def train(folder: Path, file: str, run: str, *, stop_at: int = 0, resume: bool = False) -> Finished:
    """Run the command; watch its memory and its events; send SIGTERM once it has done `stop_at` steps."""
    code = "from tunewright.cli.main import main; main()"
    arguments = ["train", f"{file}.yaml", "--out", run, *(["--resume"] if resume else [])]
    seen = attempts(folder / run)
    started = time.monotonic()
    with (folder / f"{run}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env={**os.environ, "TUNEWRIGHT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        peak, first, first_cpu = 0, 0.0, 0.0
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            done = [event["step"] for event in steps(folder / run) if event["attempt"] > seen]
            if done and not first:
                first, first_cpu = time.monotonic() - started, cpu_seconds(process.pid)
            if stop_at and done and max(done) >= stop_at:
                process.send_signal(signal.SIGTERM)
                stop_at = 0
            time.sleep(POLL_SECONDS)
    if process.returncode not in (ExitCode.DONE, ExitCode.PREEMPTED):
        say((folder / f"{run}.log").read_text())
    return Finished(process.returncode, time.monotonic() - started, first, first_cpu, peak)


def steps(run: Path) -> Iterator[dict[str, Any]]:
    """Step events of a run folder; none before it has any."""
    path = run / "events.jsonl"
    return (event for event in read_events(path) if event["type"] == "step") if path.exists() else iter(())


def attempts(run: Path) -> int:
    """How many processes trained here before."""
    return max((int(str(event["attempt"])) for event in steps(run)), default=0)


def losses(run: Path) -> dict[object, object]:
    """Loss by step, the highest attempt of each."""
    return {event["step"]: event["loss"] for event in steps(run)}


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 once it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def peak_memory(pid: int) -> int:
    """Largest resident memory that a process has had, in bytes; 0 once it is gone."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found.group(1)) * 1024 if found else 0
    return 0


def write_rows(path: Path, size: int) -> int:
    """Write at least `size` bytes and FEW_ROWS chat rows; the same size gives the same bytes."""
    tails = list(make_tails(random.Random(7)))
    count = written = 0
    with path.open("wb") as file:
        while written < size or count < FEW_ROWS:
            stop = count + (BLOCK_ROWS if size else FEW_ROWS)
            # Numbers make every row different; the stride spreads the variants.
            block = "".join(
                f'{{"messages": [{{"role": "user", "content": "Case {row}: {tails[row * 2741 % VARIANTS]}'
                for row in range(count, stop)
            ).encode()
            written += file.write(block)
            count = stop
    return count


def make_tails(draw: random.Random) -> Iterator[str]:
    """Rest of a row after its number: one to three turns, a few words up to some hundred."""
    for _ in range(VARIANTS):
        turns: list[str] = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            texts = [draw.choices(WORDS, k=int(draw.lognormvariate(mean, 0.9)) + 2) for mean in (2.5, 3.4)]
            turns += (json.dumps(" ".join(text))[1:-1] for text in texts)
        lines: list[str] = [turns[0]]
        for number, text in enumerate(turns[1:], start=1):
            role = "assistant" if number % 2 else "user"
            lines.append(f'"}}, {{"role": "{role}", "content": "{text}')
        yield "".join(lines) + '"}]}\n'


if __name__ == "__main__":
    sys.exit(main())
