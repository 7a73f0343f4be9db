"""Train for hours with a SIGKILL every few minutes and measure what that costs: `make soak HOURS=1`.

Every 5 seconds memory, handles, threads and disk use go to samples.jsonl in the folder. Prints the figures
and writes them to result.json. Exit code 1 when less than 95 % of the time trained, checkpoints cost more
than 2 %, or something grows. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from attempts import Attempt, start_fresh
from soak_report import Sample, SoakReport, Span, build_report
from tunewright.trackers.jsonl import read_events, read_steps

SAMPLE_SECONDS = 5.0
AIMED_STEP_SECONDS = 0.7
TRIAL_BATCH = 16
SAVE_EVERY = 10
# Within the first minute, so that the memory of an evaluation is there before memory is watched.
EVALUATE_EVERY = 80
ROWS = 4000
WARM_UP_SECONDS = 60.0


def main() -> int:
    """Calibrate, soak, report."""
    parser = argparse.ArgumentParser(description="Train for hours with a kill every few minutes.")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--kill-minutes", type=float, default=5.0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch-size", type=int, help="rows a step; by a trial run when left out")
    parser.add_argument(
        "--folder", type=Path, help="where everything goes; a new temporary folder by default"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder or Path(tempfile.mkdtemp(prefix="tunewright-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.json")
    batch_size = arguments.batch_size or find_batch_size(folder, arguments.engine)
    steps = int(arguments.hours * 3600 / AIMED_STEP_SECONDS * 4)
    config = write_config(folder / "run.yaml", arguments.engine, batch_size, steps)
    say(f"batch of {batch_size} rows; everything is in {folder}")
    kill_seconds = arguments.kill_minutes * 60
    samples, spans = soak(config, folder, seconds=arguments.hours * 3600, kill_seconds=kill_seconds)
    events = list(read_events(folder / "run/events.jsonl"))
    report = build_report(events, samples, spans, warm_up=min(WARM_UP_SECONDS, kill_seconds / 3))
    result = {"batch_size": batch_size, "kill_seconds": kill_seconds, **report.to_json()}
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_report(report)
    return 1 if report.failures() else 0


def write_rows(path: Path) -> None:
    """Rows of a few dozen tokens."""
    rows = [
        {"instruction": f"What is {number} plus {number % 97}?", "output": f"It is {number + number % 97}."}
        for number in range(ROWS)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_config(path: Path, engine: str, batch_size: int, steps: int) -> Path:
    """A run of the bundled model that is never done before the soak is."""
    settings = {
        "engine": engine,
        "model": "builtin:tiny",
        "device": "cpu",
        "adapter": {"rank": 16, "dropout": 0.05},
        "data": {"train": "rows.json", "eval": 0.01, "seq_len": 512},
        "train": {"epochs": 1e6, "max_steps": steps, "batch_size": batch_size, "micro_batch_size": 1},
        "checkpoint": {"every_steps": SAVE_EVERY, "export_every": "never"},
        "evaluate": {"every_steps": EVALUATE_EVERY},
    }
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return path


def find_batch_size(folder: Path, engine: str) -> int:
    """The batch whose step takes AIMED_STEP_SECONDS on this machine, by the quickest of a few trial steps."""
    config = write_config(folder / "trial.yaml", engine, TRIAL_BATCH, 8)
    attempt = start_fresh(["train", str(config), "--out", str(folder / "trial")], folder / "scratch")
    if code := attempt.wait():
        raise SystemExit(f"the trial run ended with {code}: {attempt.last_words()}")
    steps = read_steps(folder / "trial/events.jsonl")
    quickest = min(event["step_seconds"] for event in steps.values())
    return max(1, round(TRIAL_BATCH * AIMED_STEP_SECONDS / quickest))


def soak(
    config: Path, folder: Path, *, seconds: float, kill_seconds: float
) -> tuple[list[Sample], list[Span]]:
    """Start, sample, kill, start again, until the time is over; the last attempt is asked to stop."""
    run = folder / "run"
    samples: list[Sample] = []
    spans: list[Span] = []
    end = time.time() + seconds
    while time.time() < end:
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        arguments = ["train", str(config), "--out", str(run), *resume]
        attempt, started = start_fresh(arguments, folder / "scratch"), time.time()
        number = len(spans) + 1
        until = min(started + kill_seconds, end)
        samples += sample_until(until, attempt, number, run, folder / "samples.jsonl")
        how = end_attempt(attempt, kill=until < end)
        spans.append(Span(number, started, time.time(), how))
        say(f"attempt {number}: {how} after {time.time() - started:.0f} s, {newest_step(run)} steps done")
        if how.startswith("ended"):
            break
    return samples, spans


def sample_until(until: float, attempt: Attempt, number: int, run: Path, log: Path) -> list[Sample]:
    """Look at the process every SAMPLE_SECONDS, until a time or until it ends."""
    samples: list[Sample] = []
    with log.open("a", encoding="utf-8") as file:
        while attempt.code() is None and (left := until - time.time()) > 0:
            time.sleep(min(SAMPLE_SECONDS, left))
            try:
                sample = look(attempt.pid, number, run)
            except (FileNotFoundError, ProcessLookupError):
                continue  # a process, or a temporary file, that has gone meanwhile
            samples.append(sample)
            file.write(json.dumps(asdict(sample)) + "\n")
            file.flush()
    return samples


def look(pid: int, attempt: int, run: Path) -> Sample:
    """One sample. Raises OSError when the process is gone."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    if "VmRSS" not in status:
        raise ProcessLookupError(pid)  # it has ended and was not waited for yet
    log = run / "events.jsonl"
    log_bytes = log.stat().st_size if log.exists() else 0
    disk_bytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) - log_bytes
    return Sample(
        attempt=attempt,
        time=time.time(),
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        handles=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
        disk_bytes=disk_bytes,
        log_bytes=log_bytes,
    )


def end_attempt(attempt: Attempt, *, kill: bool) -> str:
    """Kill or stop the process; how it ended."""
    if attempt.code() is None:
        if kill:
            attempt.kill()
            attempt.wait()
            return "killed"
        attempt.stop()
        attempt.wait(120)
        return "stopped"
    code = attempt.wait()
    return "ended" if code == 0 else f"ended with {code}: {attempt.last_words()}"


def newest_step(run: Path) -> int:
    """The last step in the log, 0 for none."""
    log = run / "events.jsonl"
    return max((event["step"] for event in read_events(log)), default=0) if log.exists() else 0


def print_report(report: SoakReport) -> None:
    """The figures for a person."""
    slope = report.rss_slope
    rows = {
        "wall": f"{report.wall_seconds:.0f} s, {report.attempts} attempts, {report.kills} kills",
        "steps": f"{report.useful_steps} useful, {report.lost_steps} done again",
        "median step": f"{report.median_step_seconds:.3f} s",
        "effective training time": f"{report.effective:.2%}",
        "checkpoints": f"{report.checkpoints}, stalls {report.stall_seconds:.2f} s, slower steps "
        f"{report.inflation_seconds:.2f} s, cost {report.checkpoint_cost:.3%}",
        "start to first resumed step": f"{report.first_step_median_seconds:.1f} s, "
        f"at most {report.first_step_most_seconds:.1f} s",
        "memory": f"{report.rss_median_bytes / 2**20:.0f} MiB, slope {slope.per_hour / 2**20:+.2f} "
        f"± {slope.standard_error / 2**20:.2f} MiB an hour over {slope.attempts} attempts",
        "handles": "most in the first half {}, in the second {}".format(*report.handles),
        "threads": "most in the first half {}, in the second {}".format(*report.threads),
        "disk without the log": "most in the first half {:,}, in the second {:,} bytes".format(
            *report.disk_bytes
        ),
    }
    for name, text in rows.items():
        say(f"{name:<28}{text}")
    for failure in report.failures():
        say(f"FAILED: {failure}")


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
