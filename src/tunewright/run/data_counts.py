"""What became of the rows, as `train` tells it: lines for a person and one event."""

from __future__ import annotations

from typing import Any

from tunewright.data.report import DataReport
from tunewright.run.wording import counted
from tunewright.trackers.protocol import Emit

_COUNTS = (
    "loading", "rows_read", "rows_checked", "rows_kept", "rows_cut", "rows_split", "rows_dropped", "rows_bad",
    "train_rows", "eval_rows", "examples", "tokens", "trained_tokens", "zero_label_rows",
    "missing_end_of_turn", "content_dropped", "duplicate_rows",
)  # fmt: skip


def count_lines(report: DataReport) -> list[str]:
    """A line for each kind of thing that was found in the data, as `data check` has it, with its first
    places; before them one that says how much was looked at, where that is not all."""
    lines = [
        f"{found.severity}: {found.what}: {found.count:,} ({found.places()})" for found in report.findings
    ]
    if report.loading == "memory" or not report.rows_read:
        return lines
    looked = f"{report.rows_checked:,} of {counted(report.rows_read, 'row')} read"
    return [f"data       {looked} looked at so far, {report.rows_kept:,} kept whole", *lines]


def emit_counts(emit: Emit, step: int, report: DataReport, *, at_end: bool) -> None:
    """The event `data`: all counts of the report and its findings. at_end: after the last step, for rows that
    are read when their turn comes."""
    findings = [
        {"code": f.code, "severity": f.severity, "what": f.what, "count": f.count, "where": list(f.where)}
        for f in report.findings
    ]
    counts: dict[str, Any] = {name: getattr(report, name) for name in _COUNTS}
    emit("data", step, **counts, findings=findings, message="; ".join(count_lines(report)), at_end=at_end)
