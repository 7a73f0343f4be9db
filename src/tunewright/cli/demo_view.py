"""What the demo prints: a short report that reads the same in a terminal and in a pipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tunewright.assets.files import DATE_SAMPLES
from tunewright.cli.program import program_name

SHOWN_ROWS = 8
PLOT_WIDTH, PLOT_HEIGHT = 60, 8
BAR_WIDTH = 40
EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Answered:
    """One held-out question with the answers of both models."""

    question: str
    expected: str
    base: str
    tuned: str

    @property
    def base_right(self) -> bool:
        return self.base == self.expected

    @property
    def tuned_right(self) -> bool:
        return self.tuned == self.expected


class DemoView:
    """The report on stdout; progress of the training goes to stderr as in every run."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def open(self, rows: Sequence[tuple[str, str]], eval_seed: int, samples: Sequence[object]) -> None:
        """Say what is going to be learnt, from what, and how it is tested."""
        question, answer = rows[0]
        self._title("builtin:tiny learns to write dates in ISO form")
        self._print(f"  task       {question}  →  {answer}")
        self._print(f"  training   {len(samples):,} bundled examples, LoRA adapter, the base stays frozen")
        self._print(f"  test       {len(rows)} other dates (seed {eval_seed}); only the exact answer counts")

    def base_score(self, rows: Sequence[tuple[str, str]], answers: Sequence[str], seconds: float) -> None:
        """Score of the base model; a line on what it says instead."""
        right = sum(answer == expected for (_, expected), answer in zip(rows, answers, strict=True))
        self._title("1/3  before")
        self._print(f"  {right} of {len(rows)} right ({seconds:.1f} s). The base has never seen a date:")
        self._print(f"  {rows[0][0]}  →  {shown(answers[0], 40)}")
        self._title("2/3  training (the same code as `tunewright train`)")

    def stopped(self, folder: Path) -> None:
        """The training was interrupted."""
        self._print(
            f"\n  stopped; go on with: {shlex.join([program_name(), 'train', '--resume', str(folder)])}"
        )

    def close(
        self, answered: Sequence[Answered], losses: Sequence[float], seconds: float, export: Path
    ) -> None:
        """Answers side by side, the loss curve, both scores, and what to try next."""
        self._title("3/3  after")
        self._table(answered[:SHOWN_ROWS])
        self._title("training loss by step")
        for line in plot(losses):
            self._print(f"  {line}")
        self._title(f"exact match on {len(answered)} held-out dates")
        self._score("base", sum(row.base_right for row in answered), len(answered), "red")
        self._score("tuned", sum(row.tuned_right for row in answered), len(answered), "green")
        self._print(f"\n  {seconds:.0f} seconds in all")
        self._title("try next")
        for line in next_commands(answered[0].question, export):
            self._print(f"  {line}")

    def _table(self, rows: Sequence[Answered]) -> None:
        width = max(len(row.question) for row in rows)
        self._print(f"  {'question':<{width}}  {'base':<18}  tuned", "dim")
        for row in rows:
            line = Text(f"  {row.question:<{width}}  ")
            line.append(
                f"{_mark(row.base_right)} {shown(row.base, 16):<16}", "green" if row.base_right else "red"
            )
            line.append("  ")
            line.append(
                f"{_mark(row.tuned_right)} {shown(row.tuned, 16)}", "green" if row.tuned_right else "red"
            )
            if not row.tuned_right:
                line.append(f"  (right: {row.expected})", "dim")
            self._console.print(line)

    def _score(self, name: str, right: int, total: int, style: str) -> None:
        filled = round(BAR_WIDTH * right / total)
        line = Text(f"  {name:<6} {right / total:>4.0%}  ")
        line.append("█" * filled, style).append("░" * (BAR_WIDTH - filled), "dim")
        self._console.print(line)

    def _title(self, text: str) -> None:
        self._print(f"\n{text}", "bold")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))
        self._console.file.flush()


def plot(values: Sequence[float], width: int = PLOT_WIDTH, height: int = PLOT_HEIGHT) -> list[str]:
    """A curve as lines of text: each column is the mean of an equal stretch, the foot of the plot is 0."""
    if not values:
        return []
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(means) or 1.0
    levels = [max(1, round(mean / top * height * 8)) for mean in means]
    lines: list[str] = []
    for row in range(height - 1, -1, -1):
        label = f"{top:5.2f}" if row == height - 1 else f"{0:5.2f}" if row == 0 else " " * 5
        bars = "".join(EIGHTHS[min(8, max(0, level - 8 * row))] for level in levels)
        lines.append(f"{label} │{bars}".rstrip())
    end = str(len(values))
    return [*lines, f"{'step':>5} └{'1' + end.rjust(count - 1) if count > len(end) else end}"]


def shown(answer: str, width: int) -> str:
    """An answer on one line of at most `width` characters; `(nothing)` for an empty one."""
    text = "".join(c if c.isprintable() else "·" for c in answer) or "(nothing)"
    return text if len(text) <= width else text[: width - 1] + "…"


def next_commands(question: str, export: Path) -> list[str]:
    """Three commands that go on from here, each under a line that says what it does."""
    program = program_name()
    return [
        "# ask the tuned model yourself",
        shlex.join([program, "generate", str(export), "--prompt", question]),
        "# see which tokens of a row are trained",
        shlex.join(
            [program, "data", "show", str(_from_here(DATE_SAMPLES)), "--row", "1", "--model", "builtin:tiny"]
        ),
        "# train on rows of your own",
        r"printf 'preset: demo\ndata: {train: YOUR_ROWS.jsonl}\n' > run.yaml && "
        + f"{program} train run.yaml",
    ]


def _from_here(path: Path) -> Path:
    """The shorter spelling of a path below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _mark(right: bool) -> str:
    return "✓" if right else "✗"
