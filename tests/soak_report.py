"""What a soak run says about itself: figures from its events and from samples of its processes.

Pure functions of what was written down, so that a report can be made again from the files.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

Event = dict[str, Any]

LEAST_EFFECTIVE = 0.95
MOST_CHECKPOINT_COST = 0.02
LEAST_STEP_SECONDS = 0.5
# Samples of an attempt that say anything about a slope.
LEAST_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process and its run folder. time: seconds since the epoch; log_bytes: of events.jsonl,
    which grows by design and is not in disk_bytes."""

    attempt: int
    time: float
    rss_bytes: int
    handles: int
    threads: int
    disk_bytes: int
    log_bytes: int


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt. how: `killed`, `stopped` at the end of the soak, or `ended` by itself, with its code."""

    attempt: int
    started: float
    ended: float
    how: str


@dataclass(frozen=True, slots=True)
class Slope:
    """Mean of the slopes within each attempt, per hour, and its standard error: attempts are independent,
    samples of one attempt are not."""

    per_hour: float
    standard_error: float
    attempts: int

    @property
    def flat(self) -> bool:
        """No growth that is larger than noise."""
        return self.attempts > 0 and self.per_hour <= 2 * self.standard_error


@dataclass(frozen=True, slots=True)
class SoakReport:
    """Seconds and shares of a whole soak. inflation_seconds: what steps took longer while a save was in
    flight, in all. lost_steps: done, killed before they were saved, and done again."""

    wall_seconds: float
    attempts: int
    kills: int
    useful_steps: int
    lost_steps: int
    median_step_seconds: float
    effective: float
    checkpoints: int
    stall_seconds: float
    inflation_seconds: float
    checkpoint_cost: float
    first_step_median_seconds: float
    first_step_most_seconds: float
    rss_median_bytes: float
    rss_slope: Slope
    handles: tuple[int, int]
    threads: tuple[int, int]
    disk_bytes: tuple[int, int]
    ended_badly: tuple[str, ...]

    def failures(self) -> list[str]:
        """What is not as it must be, one line each."""
        growing = {"handles": self.handles, "threads": self.threads, "disk": self.disk_bytes}
        checks = {
            f"effective training time {self.effective:.1%} is below {LEAST_EFFECTIVE:.0%}": self.effective
            < LEAST_EFFECTIVE,
            f"checkpoint cost {self.checkpoint_cost:.2%} is above {MOST_CHECKPOINT_COST:.0%}": (
                self.checkpoint_cost > MOST_CHECKPOINT_COST
            ),
            f"a step of {self.median_step_seconds:.2f} s is too short to count": self.median_step_seconds
            < LEAST_STEP_SECONDS,
            "memory grows, or there are too few samples to tell": not self.rss_slope.flat,
            **{
                f"{name} grow from {low} to {high}": high > 1.1 * low + 1
                for name, (low, high) in growing.items()
            },
        }
        return [text for text, failed in checks.items() if failed] + list(self.ended_badly)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {**asdict(self), "failures": self.failures()}


def build_report(
    events: Sequence[Event], samples: Sequence[Sample], spans: Sequence[Span], *, warm_up: float
) -> SoakReport:
    """All figures. warm_up: seconds of each attempt that are left out of what must be flat."""
    steps = [event for event in events if event["type"] == "step"]
    saves = [event for event in events if event["type"] == "checkpoint"]
    starts = {span.attempt: span.started for span in spans}
    warm = [sample for sample in samples if sample.time - starts[sample.attempt] >= warm_up]
    wall = spans[-1].ended - spans[0].started
    useful = len({event["step"] for event in steps})
    median = statistics.median(event["step_seconds"] for event in steps)
    stall = sum(event["stall_seconds"] for event in saves)
    inflation = max(0.0, save_inflation(steps, saves))
    firsts = first_step_seconds(steps, spans)
    return SoakReport(
        wall_seconds=wall,
        attempts=len(spans),
        kills=sum(span.how == "killed" for span in spans),
        useful_steps=useful,
        lost_steps=len(steps) - useful,
        median_step_seconds=median,
        effective=useful * median / wall,
        checkpoints=len(saves),
        stall_seconds=stall,
        inflation_seconds=inflation,
        checkpoint_cost=(stall + inflation) / wall,
        first_step_median_seconds=statistics.median(firsts) if firsts else math.nan,
        first_step_most_seconds=max(firsts, default=math.nan),
        rss_median_bytes=statistics.median(s.rss_bytes for s in samples) if samples else math.nan,
        rss_slope=slope_within_attempts(warm, lambda sample: sample.rss_bytes),
        handles=early_and_late(warm, lambda sample: sample.handles),
        threads=early_and_late(warm, lambda sample: sample.threads),
        disk_bytes=early_and_late(warm, lambda sample: sample.disk_bytes),
        ended_badly=tuple(f"attempt {s.attempt} {s.how}" for s in spans if s.how.startswith("ended with")),
    )


def save_inflation(steps: Sequence[Event], saves: Sequence[Event]) -> float:
    """Seconds that steps took longer in all because a save was in flight: median against median.

    A step counts as overlapped when it ran between its checkpoint's step and the event that says it is done.
    """
    ended = {(event["attempt"], event["step"]): _seconds(event) for event in steps}
    flights = [
        (save["attempt"], ended[save["attempt"], save["step"]], _seconds(save))
        for save in saves
        if (save["attempt"], save["step"]) in ended
    ]
    overlapped, others = [], []
    for event in steps:
        stop = _seconds(event)
        start = stop - event["step_seconds"]
        during = any(
            event["attempt"] == attempt and start < done and stop > begun + 0.001
            for attempt, begun, done in flights
        )
        (overlapped if during else others).append(event["step_seconds"])
    if not overlapped or not others:
        return 0.0
    return (statistics.median(overlapped) - statistics.median(others)) * len(overlapped)


def first_step_seconds(steps: Iterable[Event], spans: Sequence[Span]) -> list[float]:
    """From the start of each process but the first to its first finished step."""
    times = sorted(_seconds(event) for event in steps)
    found = []
    for span in spans[1:]:
        later = next((time for time in times if time > span.started), None)
        if later is not None and later <= span.ended:
            found.append(later - span.started)
    return found


def slope_within_attempts(samples: Sequence[Sample], value: Callable[[Sample], float]) -> Slope:
    """Least-squares slope of each attempt with enough samples; their mean and its standard error."""
    slopes = []
    for attempt in sorted({sample.attempt for sample in samples}):
        own = [sample for sample in samples if sample.attempt == attempt]
        if len(own) >= LEAST_SAMPLES:
            line = statistics.linear_regression([s.time for s in own], [value(s) for s in own])
            slopes.append(3600 * line.slope)
    if len(slopes) < 2:
        return Slope(slopes[0] if slopes else math.nan, math.nan, 0)
    error = statistics.stdev(slopes) / math.sqrt(len(slopes))
    return Slope(statistics.fmean(slopes), error, len(slopes))


def early_and_late(samples: Sequence[Sample], value: Callable[[Sample], int]) -> tuple[int, int]:
    """The largest value in the first and in the second half of the soak."""
    half = len(samples) // 2
    if half == 0:
        return 0, 0
    return max(value(s) for s in samples[:half]), max(value(s) for s in samples[half:])


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
