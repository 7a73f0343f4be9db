"""From turns and reports of the CPU benchmark to figures, ratios and verdicts."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from measure import Report, Turn
from origin import describe_origin
from workload import SHAPES

RANK = 16
LOSS_STEPS = 6
LEAST_ROUNDS = 5
# ratio: (of, against, what it is of, bar, whether the bar is the least or the most)
# The last five are of a real model.
BARS = {
    "speed against TRL packed": ("ours", "trl_packed", "tokens_per_second", 4.0, "least"),
    "speed against TRL packed, heap held": ("ours", "trl_packed_held", "tokens_per_second", 3.3, "least"),
    "speed against TRL as shipped": ("ours", "trl_defaults", "tokens_per_second", 11.0, "least"),
    "the same per CPU second, packed": ("ours", "trl_packed", "tokens_per_cpu_second", 4.0, "least"),
    "the same per CPU second, heap held": ("ours", "trl_packed_held", "tokens_per_cpu_second", 3.3, "least"),
    "the same per CPU second, as shipped": ("ours", "trl_defaults", "tokens_per_cpu_second", 11.0, "least"),
    "memory against TRL packed": ("ours", "trl_packed", "peak_bytes", 0.36, "most"),
    "speed against bf16 weights": ("ours_auto", "trl_bf16", "tokens_per_second", 3.5, "least"),
    "speed against bf16 weights, heap held": (
        "ours_auto",
        "trl_bf16_held",
        "tokens_per_second",
        3.2,
        "least",
    ),
    "the same per CPU second, bf16 weights": (
        "ours_auto",
        "trl_bf16",
        "tokens_per_cpu_second",
        3.5,
        "least",
    ),
    "the same per CPU second, bf16, heap held": (
        "ours_auto",
        "trl_bf16_held",
        "tokens_per_cpu_second",
        3.2,
        "least",
    ),
    "memory against bf16 weights": ("ours_auto", "trl_bf16", "peak_bytes", 0.6, "most"),
}
LOSS_BAR = 1e-3
# Two programs in bf16 round in different places; what the other must not do is train on something else.
PEER_LOSS_BAR = 5e-3


@dataclass
class Measured:
    """What the run has seen so far."""

    model: str
    labels: dict[str, str]
    threads: int
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    losses: dict[str, Report] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.turns = {name: [] for name in self.labels}


def summarize(measured: Measured, *, seconds: float) -> dict[str, Any]:
    """The result file. Bars are judged once every process has reported."""
    programs = {name: _program(name, measured) for name in measured.labels}
    losses = _loss_gaps(measured)
    complete = bool(measured.reports)
    ratios = {
        title: programs[of][what] / programs[against][what]
        for title, (of, against, what, _, _) in BARS.items()
        if complete and {of, against} <= programs.keys()
    }
    rounds = min(map(len, measured.turns.values()))
    met = {f"{LEAST_ROUNDS} rounds": rounds >= LEAST_ROUNDS, **_met(ratios), **losses.get("met", {})}
    if auto := measured.reports.get("ours_auto"):
        met["auto takes the fast path"] = auto.details["path"] == "fast"
    ours = [r for r in (*measured.losses.values(), *measured.reports.values()) if "device" in r.details]
    device = ours[0].details["device"] if ours else "unknown"
    return {
        "benchmark": "cpu",
        "model": measured.model,
        "threads": measured.threads,
        "rounds": rounds,
        "seconds": round(seconds),
        "programs": programs,
        "ratios": ratios,
        "bars": {title: [bar, kind] for title, (*_, bar, kind) in BARS.items()},
        "losses": losses,
        "met": met if complete else {},
        "origin": describe_origin(device),
    }


def _program(name: str, measured: Measured) -> dict[str, Any]:
    turns = measured.turns[name]
    found: dict[str, Any] = {"label": measured.labels[name], "turns": [asdict(turn) for turn in turns]}
    if turns:
        found["tokens_per_second"] = median(turn.tokens / turn.wall_seconds for turn in turns)
        found["tokens_per_cpu_second"] = median(turn.tokens / turn.cpu_seconds for turn in turns)
    if report := measured.reports.get(name):
        works = [step.work for step in report.steps]
        tokens, labels = sum(work.tokens for work in works), sum(work.labels for work in works)
        flops = SHAPES[measured.model].flops(tokens, labels, sum(work.squares for work in works), RANK)
        found |= {
            "peak_bytes": report.peak_bytes,
            # Equal work: these two differ only by which documents fell into the turns.
            "megaflops_per_token": flops / tokens / 1e6,
            "label_share": labels / tokens,
            "details": report.details,
        }
    return found


def _loss_gaps(measured: Measured) -> dict[str, Any]:
    """Largest relative differences to the fp32 run, step by step over the same documents."""
    losses = {name: [step.loss for step in report.steps] for name, report in measured.losses.items()}
    if "trl_defaults" in measured.reports:
        losses["trl_defaults"] = [step.loss for step in measured.reports["trl_defaults"].steps[:LOSS_STEPS]]
    if "fp32" not in losses:
        return {}
    truth = losses.pop("fp32")
    gaps = {
        name: max(abs(a - b) / b for a, b in zip(values, truth, strict=True))
        for name, values in losses.items()
    }
    bars = {name: PEER_LOSS_BAR if name.startswith("trl") else LOSS_BAR for name in gaps}
    return {
        "fp32": truth,
        **losses,
        "gaps": gaps,
        "bars": bars,
        "met": {f"losses of {name} beside fp32": gaps[name] <= bars[name] for name in gaps},
    }


def _met(ratios: dict[str, float]) -> dict[str, bool]:
    return {
        title: ratio >= BARS[title][3] if BARS[title][4] == "least" else ratio <= BARS[title][3]
        for title, ratio in ratios.items()
    }


def print_result(result: dict[str, Any]) -> None:
    """The tables of a person."""
    _say(f"{'':82}{'tokens/s':>10}{'per CPU s':>11}{'peak MiB':>10}{'MFLOP/token':>13}")
    for program in result["programs"].values():
        figures = (program["tokens_per_second"], program["tokens_per_cpu_second"])
        peak = program["peak_bytes"] / 2**20
        work = program["megaflops_per_token"]
        _say(f"{program['label']:82}{figures[0]:>10,.0f}{figures[1]:>11,.0f}{peak:>10,.0f}{work:>13,.1f}")
    for title, ratio in result["ratios"].items():
        bar, kind = result["bars"][title]
        verdict = "met" if result["met"][title] else "MISSED"
        _say(f"{title:44}{ratio:>7.2f} x   (at {kind} {bar:g}: {verdict})")
    for name, gap in result["losses"].get("gaps", {}).items():
        bar = result["losses"]["bars"][name]
        verdict = "met" if gap <= bar else "MISSED"
        _say(f"{f'losses of {name} beside fp32':44}{gap:>9.1e}   (at most {bar:g}: {verdict})")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
