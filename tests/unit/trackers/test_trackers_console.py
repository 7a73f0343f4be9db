"""What a person sees: a live view on a terminal, plain lines without control characters elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunewright.trackers import console as module
from tunewright.trackers.console import ConsoleTracker, size_text, sparkline
from tunewright.trackers.protocol import STEP_METRICS


def _step(step: int, **fields: float | None) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(STEP_METRICS, 1.0)
    values |= {
        "loss": 4.0 / step,
        "learning_rate": 2e-4,
        "tokens_per_second": 12_345.6,
        "gpu_memory_used": 2048.0,
    }
    return {"type": "step", "step": step, **values, **fields}


def _tracker(
    *, terminal: bool, total: int = 20, report_every: int | None = None
) -> tuple[ConsoleTracker, io.StringIO]:
    out = io.StringIO()
    shown = Console(file=out, force_terminal=terminal, width=120, highlight=False, _environ={"TERM": "xterm"})
    return ConsoleTracker(total, shown, report_every=report_every), out


REHEARSED = {
    "type": "rehearsed",
    "step": 0,
    "rows": 4,
    "tokens": 2048,
    "planned_bytes": 2**30,
    "seconds": 2.0,
}
EVENTS = [
    (
        {**REHEARSED, "bytes": 5 * 2**28},
        "tried the longest micro-batch, 4 x 2,048 tokens: took 1.25 GiB, 1.00 planned (2.0 s)",
    ),
    (
        {**REHEARSED, "bytes": None},
        "tried the longest micro-batch, 4 x 2,048 tokens: fits now, 1.00 planned (2.0 s)",
    ),
    (
        {
            "type": "checkpoint",
            "step": 5,
            "path": "runs/a1/checkpoints/step-000500",
            "bytes": 1.2e9,
            "seconds": 3.41,
        },
        "saved checkpoint: runs/a1/checkpoints/step-000500 (1.2 GB, 3.4 s)",
    ),
    (
        {"type": "evaluation", "step": 5, "valid_loss": 1.25, "perplexity": 3.49, "seconds": 2.0},
        "evaluated step 5: valid_loss 1.25  perplexity 3.49 (2.0 s)",
    ),
    (
        {"type": "export", "step": 5, "path": "runs/a1/exports/final", "kind": "adapter"},
        "exported adapter: runs/a1/",
    ),
    ({"type": "export", "step": 5, "path": "x", "kind": "model"}, "exported model: x"),
    (
        {"type": "export", "step": 5, "path": "x", "kind": "model", "quantization_difference": 0.1234},
        "exported model: x (on the original base: a token differs by up to 0.12 nats from what was trained)",
    ),
    (
        {"type": "warning", "step": 5, "message": "[red]tracker[/red] failed"},
        "warning: [red]tracker[/red] failed",
    ),
    ({"type": "resumed", "step": 5, "from_step": 5}, "resumed at step 5"),
]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("event", "line"), EVENTS)
def test_events_are_told_in_lines(event: dict[str, object], line: str, terminal: bool):
    tracker, out = _tracker(terminal=terminal)
    tracker.emit(event)
    tracker.close()
    assert line in out.getvalue()


def test_long_paths_are_not_wrapped():
    tracker, out = _tracker(terminal=False)
    path = "/long/" * 60
    tracker.emit({"type": "export", "step": 1, "path": path, "kind": "adapter"})
    assert path in out.getvalue()


def test_plain_lines_are_aligned_and_free_of_control_characters(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    tracker, out = _tracker(terminal=False)
    for step in range(1, 21):
        clock[0] += 3.0
        tracker.emit(_step(step))
    tracker.close()
    lines = out.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == [
        "step  1",
        "step  5",
        "step  9",
        "step 13",
        "step 17",
        "step 20",
    ]
    assert len({line.index("accuracy") for line in lines}) == 1
    assert "12,346 tokens/s" in lines[0]
    assert "2,048 MiB" in lines[0]
    assert all(character.isprintable() for line in lines for character in line)


def test_lines_come_by_steps_where_that_is_asked_for():
    tracker, out = _tracker(terminal=False, total=25, report_every=10)
    for step in range(1, 26):
        tracker.emit(_step(step, loss=float(step)))
    tracker.emit({"type": "run_finished", "step": 25, "outcome": "done"})
    tracker.close()
    lines = out.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["step 10", "step 20", "step 25"]
    losses = [line[line.index("loss") :][:11] for line in lines]
    assert losses == ["loss    5.5", "loss   15.5", "loss     23"]


def test_a_live_view_moves_with_each_step_and_its_figures_with_each_report():
    tracker, out = _tracker(terminal=True, report_every=10)
    for step in range(1, 13):
        tracker.emit(_step(step, loss=float(step)))
    tracker.close()
    text = out.getvalue()
    assert "step 12/20" in text
    assert "loss    5.5" in text
    assert "loss     11" not in text


def test_a_loss_that_is_no_number_is_shown_as_such():
    tracker, out = _tracker(terminal=False)
    tracker.emit(_step(1, loss=None, gradient_norm=None))
    assert "loss   none" in out.getvalue()
    assert "grad   none" in out.getvalue()


def test_live_view_shows_progress_figures_and_curve():
    tracker, out = _tracker(terminal=True)
    for step in range(1, 13):
        tracker.emit(_step(step))
    tracker.close()
    text = out.getvalue()
    for part in ("step 12/20", "60 %", "left", "12,346 tokens/s", "lr 2.00e-04", "█", "smoothed"):
        assert part in text


def test_resumed_run_shows_at_once_where_it_stands():
    tracker, out = _tracker(terminal=True, total=1000)
    tracker.emit({"type": "resumed", "step": 900, "from_step": 900})
    tracker.close()
    assert "step 900/1000" in out.getvalue()


def test_dumb_terminal_gets_plain_lines():
    out = io.StringIO()
    shown = Console(file=out, force_terminal=True, width=120, _environ={"TERM": "dumb"})
    tracker = ConsoleTracker(3, shown)
    tracker.emit(_step(1))
    tracker.close()
    assert out.getvalue().startswith("step 1/3")
    assert "\x1b" not in out.getvalue()


def test_sparkline_keeps_shape_and_width():
    assert sparkline([]) == ""
    assert sparkline([1.0]) == "▁"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, 1.0, 2.0, 3.0]) == "▁▃▆█"
    falling = sparkline([1000.0 - value for value in range(1000)], width=8)
    assert falling == "█▇▆▅▄▃▂▁"


def test_sizes_read_well():
    assert [size_text(size) for size in (0, 999, 1500, 2.5e6, 1.2e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "1.2 GB",
        "3000.0 GB",
    ]
