"""What a run of clients that poll says about itself: figures from what was measured in each phase."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BARS = {"errors": 0, "api_cpu_share": 0.10, "api_mib": 150, "ready_seconds": 2.0}
"""Most that may be measured."""


@dataclass(slots=True)
class Phase:
    """All turns of one kind. cpu_seconds: of the API process. latencies: seconds of each poll. step_seconds:
    of the trainer."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    step_seconds: list[float] = field(default_factory=list[float])

    @property
    def cpu_share(self) -> float:
        """Of one CPU."""
        return self.cpu_seconds / self.wall_seconds


def report_polls(phases: Mapping[str, Phase]) -> dict[str, Any]:
    """The figures of all turns: `polled`, `static` where the clients asked another process, `quiet` without
    them. What the API does for the worker is in its CPU time of all three."""
    polled, static = phases["polled"], phases["static"]
    milliseconds = sorted(1000 * seconds for seconds in polled.latencies)
    extra_seconds = (polled.cpu_share - static.cpu_share) * polled.wall_seconds
    medians = {kind: _median(phase.step_seconds) for kind, phase in phases.items()}
    return {
        "requests": len(milliseconds),
        "errors": len(polled.errors) + len(static.errors),
        "faults": sorted({*polled.errors, *static.errors})[:5],
        "requests_per_second": len(milliseconds) / polled.wall_seconds,
        "latency_ms": {"p50": _part(milliseconds, 0.5), "p99": _part(milliseconds, 0.99)},
        "api_cpu_share": polled.cpu_share,
        "api_cpu_share_without_polls": static.cpu_share,
        "cpu_ms_a_poll": 1000 * extra_seconds / len(milliseconds),
        "steps": {kind: len(phase.step_seconds) for kind, phase in phases.items()},
        "step_seconds": medians,
        "step_ratio_to_static": _ratio(medians["polled"], medians["static"]),
        "step_ratio_to_quiet": _ratio(medians["polled"], medians["quiet"]),
    }


def find_met(result: Mapping[str, Any]) -> dict[str, bool]:
    """Bar → whether it was met."""
    return {name: result[name] <= bar for name, bar in BARS.items()}


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[round(part * (len(ordered) - 1))]


def _ratio(first: float | None, second: float | None) -> float | None:
    return first / second if first and second else None
