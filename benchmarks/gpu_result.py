"""From reports of the GPU benchmark to figures and verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from children import Failed
from gpu_cases import BARS, SAME_LOSSES, Bar, Case
from measure import Report
from origin import describe_origin
from workload import SHAPES

RANK = 16
LOSS_BAR = 5e-3
"""Two programs in bf16 round in different places; what they must not do is train on something else."""


class GpuResult:
    """What has been measured so far. peak: what matmul.py printed."""

    def __init__(self, device: str, peak: dict[str, Any]) -> None:
        self._device, self._peak = device, peak
        self._cases: dict[str, dict[str, Any]] = {}
        self._losses: dict[str, list[float]] = {}
        self._seconds = 0.0

    def add(self, name: str, case: Case, report: Report) -> None:
        """Take the report of a case. Raises Failed when it holds no timed step."""
        profiled = report.details.get("profiled_steps", 0)
        steps = report.steps[case.warm_up : len(report.steps) - profiled]
        if not steps:
            raise Failed(f"ended after {len(report.steps)} steps, before the first timed one")
        seconds = sum(step.wall_seconds for step in steps)
        tokens, labels = sum(step.work.tokens for step in steps), sum(step.work.labels for step in steps)
        squares = sum(step.work.squares for step in steps)
        flops = SHAPES[case.model].flops(tokens, labels, squares, RANK)
        self._losses[name] = [step.loss for step in report.steps]
        self._cases[name] = {
            "label": case.label,
            "model": case.model,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / self._peak["peak"],
            "peak_bytes": report.peak_bytes,
            "label_share": labels / tokens,
            "tokens_per_step": tokens / len(steps),
            "steps": len(steps),
            "details": report.details,
        }

    def leave_out(self, name: str, case: Case, reason: str) -> None:
        """A case that gave no figures, and why."""
        self._cases[name] = {"label": case.label, "model": case.model, "left_out": reason}

    def write(self, path: Path, seconds: float) -> None:
        """Write everything so far."""
        self._seconds = seconds
        path.write_text(json.dumps(self.summary(), indent=1) + "\n", encoding="utf-8")

    def summary(self) -> dict[str, Any]:
        """The result file."""
        figures = {bar: self._figure(bar) for bar in BARS}
        bars = {
            bar.title: {"least": bar.least, "figure": figure, "met": (figure or 0) >= bar.least}
            for bar, figure in figures.items()
        }
        return {
            "benchmark": "gpu",
            "seconds": round(self._seconds),
            "matmul": self._peak,
            "cases": self._cases,
            "bars": bars,
            "losses": self._compare_losses(),
            "origin": describe_origin(self._peak["device"]),
        }

    def all_met(self) -> bool:
        """Whether every bar was judged and met."""
        summary = self.summary()
        return all(bar["met"] for bar in summary["bars"].values()) and bool(summary["losses"].get("met"))

    def _figure(self, bar: Bar) -> float | None:
        speeds: dict[str, float] = {
            name: found["tokens_per_second"]
            for name, found in self._cases.items()
            if "tokens_per_second" in found
        }
        if bar.of not in speeds or not bar.against:
            return speeds.get(bar.of)
        others = [speeds[name] for name in bar.against if name in speeds]
        return speeds[bar.of] / max(others) if others else None

    def _compare_losses(self) -> dict[str, Any]:
        ours, theirs = (self._losses.get(name) for name in SAME_LOSSES)
        if ours is None or theirs is None:
            return {}
        gap = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=False))
        met = len(ours) == len(theirs) and gap <= LOSS_BAR
        return {"ours": ours, "trl": theirs, "gap": gap, "bar": LOSS_BAR, "met": met}

    def print_case(self, name: str) -> None:
        """One line, as soon as it is known."""
        case = self._cases[name]
        if "left_out" in case:
            _say(f"{name:24}left out: {case['left_out']}")
            return
        peak = case["peak_bytes"] / 2**30
        _say(
            f"{name:24}{case['tokens_per_second']:>10,.0f} tokens/s  MFU {case['mfu']:4.0%}"
            f"  {peak:6.1f} GiB  {case['details'].get('path', 'peer')}, {case['details']['attention']}"
        )
        for kernel in (case["details"].get("profile") or {}).get("top", []):
            _say(f"    {kernel['share']:6.1%}  {kernel['kind']:24}{kernel['name'][:70]}")

    def print_bars(self) -> None:
        """The verdicts."""
        summary = self.summary()
        for title, bar in summary["bars"].items():
            figure = "not judged" if bar["figure"] is None else f"{bar['figure']:,.2f}"
            _say(f"{title:44}{figure:>12}  (at least {bar['least']:g}: {'met' if bar['met'] else 'MISSED'})")
        if losses := summary["losses"]:
            verdict = "met" if losses["met"] else "MISSED"
            _say(f"{'losses beside TRL':44}{losses['gap']:>12.1e}  (at most {LOSS_BAR:g}: {verdict})")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
