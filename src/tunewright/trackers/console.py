"""The run as a person sees it: a live view on a terminal, plain lines elsewhere. Driven by events alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tunewright.trackers.protocol import Event
from tunewright.trackers.reports import Reports

BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 48
PLAIN_SECONDS = 10.0
SMOOTHING = 0.9


class ConsoleTracker:
    """Progress, time left, loss, real tokens/s and a loss curve on stderr. report_every: steps whose figures
    are told as one; None tells each step in the live view, and a plain line every ten seconds."""

    def __init__(
        self, total_steps: int, console: Console | None = None, *, report_every: int | None = None
    ) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self._reports = Reports(report_every or 1)
        self._losses: list[float] = []
        self._smoothed: float | None = None
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._view = LiveView(self._console, total_steps) if live else None
        self._plain = PlainLines(total_steps, self._line, PLAIN_SECONDS if report_every is None else 0.0)

    def emit(self, event: Event) -> None:
        """Show one event."""
        if report := self._reports.take(event):
            self._report(report)
        if self._view and event["type"] == "step":
            self._view.move_to(event["step"])
        if self._view and event["type"] == "resumed":
            self._view.move_to(event["from_step"])
        if event["type"] in LINES:
            self._line(LINES[event["type"]](event))

    def close(self) -> None:
        """Leave the last state of the view on the screen."""
        if self._view:
            self._view.stop()

    def _report(self, event: Event) -> None:
        loss = event["loss"]
        if loss is not None:
            before = loss if self._smoothed is None else self._smoothed
            self._smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
            self._losses.append(loss)
        if self._view:
            self._view.update(event, self._smoothed, self._losses)
        else:
            self._plain.update(event)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)


class PlainLines:
    """One aligned line for the first report, the last one, and each that comes `seconds` after a line."""

    def __init__(self, total_steps: int, write: Callable[[str], None], seconds: float) -> None:
        self._total = total_steps
        self._write = write
        self._seconds = seconds
        self._last = -seconds

    def update(self, event: Event) -> None:
        now = monotonic()
        if now - self._last < self._seconds and event["step"] != self._total:
            return
        self._last = now
        width = len(str(self._total))
        self._write(f"step {event['step']:>{width}}/{self._total}  {step_text(event)}")


class LiveView:
    """Progress bar, figures and loss curve, redrawn in place."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("train", total=total_steps)
        self._live = Live(self._progress, console=console, refresh_per_second=4)
        self._live.start()

    def move_to(self, step: int) -> None:
        """Show at once where the run stands."""
        self._progress.update(self._task, completed=step)

    def update(self, event: Event, smoothed: float | None, losses: list[float]) -> None:
        figures = Text(step_text(event))
        curve = Text(f"loss {sparkline(losses)} {_number(smoothed)} smoothed")
        self._live.update(Group(self._progress, figures, curve))

    def stop(self) -> None:
        self._live.stop()


def step_text(event: Event) -> str:
    """The figures of a step on one line."""
    return (
        f"epoch {event['epoch']:.2f}  loss {_number(event['loss'])}  "
        f"accuracy {event['token_accuracy']:6.1%}  lr {event['learning_rate']:.2e}  "
        f"grad {_number(event['gradient_norm'])}  {event['tokens_per_second']:>7,.0f} tokens/s  "
        f"{event['gpu_memory_used']:,.0f} MiB"
    )


def sparkline(values: list[float], width: int = CURVE_WIDTH) -> str:
    """The values as a row of bars: means of equal stretches, scaled from their lowest to their highest."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[min(int((mean - low) / span * len(BARS)), len(BARS) - 1)] for mean in means)


def size_text(size: float) -> str:
    """Bytes as a person reads them, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _number(value: float | None) -> str:
    return "  none" if value is None else f"{value:6.4g}"


def _evaluation_line(event: Event) -> str:
    figures = {
        key: event[key] for key in ("valid_loss", "perplexity", "valid_token_accuracy") if key in event
    }
    text = "  ".join(f"{key} {_number(value).strip()}" for key, value in figures.items())
    return f"evaluated step {event['step']}: {text} ({event['seconds']:.1f} s)"


def _checkpoint_line(event: Event) -> str:
    return f"saved checkpoint: {event['path']} ({size_text(event['bytes'])}, {event['seconds']:.1f} s)"


def _export_line(event: Event) -> str:
    line = f"exported {event['kind']}: {event['path']}"
    if "quantization_difference" not in event:
        return line
    difference = event["quantization_difference"]
    return (
        f"{line} (on the original base: a token differs by up to {difference:.2g} nats from what was trained)"
    )


def _amendments(event: Event) -> str:
    changes = ", ".join(f"{key} {value}" for key, value in event["changes"].items())
    return f"{changes} ({event['reason']})" if "reason" in event else changes


def _rehearsed_line(event: Event) -> str:
    taken = "fits now" if event["bytes"] is None else f"took {event['bytes'] / 2**30:.2f} GiB"
    planned = f"{event['planned_bytes'] / 2**30:.2f} planned"
    batch = f"{event['rows']} x {event['tokens']:,} tokens"
    return f"tried the longest micro-batch, {batch}: {taken}, {planned} ({event['seconds']:.1f} s)"


LINES: dict[str, Callable[[Event], str]] = {
    "rehearsed": _rehearsed_line,
    "evaluation": _evaluation_line,
    "checkpoint": _checkpoint_line,
    "export": _export_line,
    "warning": lambda event: f"warning: {event['message']}",
    "amended": lambda event: f"amended: {_amendments(event)}",
    "rolled_back": lambda event: (
        f"went back from step {event['from_step']} to {event['step']}: {event['reason']}; "
        f"{event['rows'][1] - event['rows'][0]:,} rows are passed over"
    ),
    "resumed": lambda event: f"resumed at step {event['from_step']}",
}
