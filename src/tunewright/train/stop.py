"""Turn the first SIGINT or SIGTERM into a request to finish the step, save and leave."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """Context manager around a run; `requested` is read by the loop at each step boundary.

    A second SIGINT raises KeyboardInterrupt at once. Handlers are restored at exit.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.signal_name = signal.Signals(number).name
