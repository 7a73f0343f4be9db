"""Where the time of a step goes on the device: kernels by kind, the largest, and the time without any."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

# The first kind that fits counts: a flash kernel is built from matrix products as well. Names are those of
# CUDA kernels and, on a CPU, of operators.
KINDS = {
    "attention": re.compile(r"flash|fmha|attention|sdpa|attn|_attend", re.IGNORECASE),
    "4-bit weights": re.compile(r"dequant|quantize_4bit|bitsandbytes", re.IGNORECASE),
    "matrix products": re.compile(
        r"gemm|nvjet|xmma|cutlass|matmul|splitk|_mm_|aten::(add|b|baddb)?mm_?$|mkldnn", re.IGNORECASE
    ),
    "copies": re.compile(r"memcpy|memset|aten::(copy_|zero_|fill_|clone|contiguous)$", re.IGNORECASE),
}
REST = "elementwise and other"
TOP = 15

Span = tuple[str, float, float]
"""Name, start and end of one kernel, µs."""


class StepProfile:
    """Profiles the last `count` steps, which come after the first `after`. With 0 it does nothing."""

    def __init__(self, device: str, after: int, count: int) -> None:
        self._device, self._after, self._count = device, after, count
        self._profiler: Any = None

    def before_step(self, number: int) -> None:
        """Tell that step `number`, counted from 0, is about to start."""
        if not self._count or number != self._after:
            return
        import torch
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self._device == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        # To watch the host as well would slow it down and show on a GPU as idle time.
        self._profiler = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
        self._profiler.start()

    def table(self) -> dict[str, Any] | None:
        """What was seen; None when no step was profiled. Ends the profile."""
        if self._profiler is None:
            return None
        import torch

        if self._device == "cuda":
            torch.cuda.synchronize()
        self._profiler.stop()
        return summarize(_spans(self._profiler, self._device))


def summarize(spans: Iterable[Span]) -> dict[str, Any]:
    """Shares of the time from the first kernel to the end of the last, by kind, idle time among them, and the
    kernels that took most of it. Shares of kernels that ran side by side may add up to more than 1."""
    spans = sorted(spans, key=lambda span: span[1])
    if not spans:
        return {"seconds": 0.0, "shares": {}, "top": []}
    whole = max(end for _, _, end in spans) - spans[0][1]
    by_name: dict[str, list[float]] = defaultdict(list)
    by_kind: dict[str, float] = defaultdict(float)
    for name, start, end in spans:
        by_name[name].append(end - start)
        by_kind[kind_of(name)] += end - start
    shares = {kind: by_kind[kind] / whole for kind in (*KINDS, REST) if kind in by_kind}
    largest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:TOP]
    return {
        "seconds": whole / 1e6,
        "shares": {**shares, "idle": 1 - _covered(spans) / whole},
        "top": [
            {"name": name[:100], "kind": kind_of(name), "share": sum(times) / whole, "calls": len(times)}
            for name, times in largest
        ],
    }


def kind_of(name: str) -> str:
    """The kind of a kernel by its name."""
    return next((kind for kind, pattern in KINDS.items() if pattern.search(name)), REST)


def _covered(spans: Iterable[Span]) -> float:
    """Time in which at least one kernel ran. spans: by start."""
    covered, until = 0.0, float("-inf")
    for _, start, end in spans:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _spans(profiler: Any, device: str) -> list[Span]:
    events = profiler.events()
    if device == "cuda":
        # Annotated ranges are shown on the device as well, and would count the gaps between kernels.
        kernels = [e for e in events if e.device_type.name == "CUDA" and not e.is_user_annotation]
        return [(event.name, event.time_range.start, event.time_range.end) for event in kernels]
    # Operators call operators: what an operator does itself is taken as if it did it first.
    starts = [(event.name, event.time_range.start, event.self_cpu_time_total) for event in events]
    return [(name, start, start + own) for name, start, own in starts]
