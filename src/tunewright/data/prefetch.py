"""Build the next steps while the device is busy with this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from threading import Condition, Thread
from types import TracebackType

from tunewright.types import StepBatch

_LOOK_SECONDS = 0.2


def prefetched(
    steps: Iterator[StepBatch], depth: int = 2, look: Callable[[], bool] | None = None
) -> Generator[StepBatch]:
    """The same steps in the same order, built ahead by one background thread.

    depth: steps that are ready or being built at any time. look: called a few times a second while a step is
    waited for, as a pipe may stay silent for long; True ends the wait, and with it the steps. What `steps`
    raises is raised here, after the steps before it. Closing the generator lets the thread end after the step
    it is building; nothing waits for it, not even the interpreter at its exit.
    """
    ahead = _Ahead(depth)
    try:
        Thread(target=_produce, args=(steps, ahead), name="prefetch", daemon=True).start()
    except RuntimeError:
        # A process at its memory limit has no room for a thread's stack. In turn is slower, and goes on.
        yield from steps
        return
    try:
        while (step := ahead.take(look)) is not None:
            yield step
    finally:
        ahead.close()


def _produce(steps: Iterator[StepBatch], ahead: _Ahead) -> None:
    with ahead:
        while ahead.has_room():
            step = next(steps, None)
            if step is None:
                return
            ahead.put(step)


class _Ahead:
    """Steps between the two threads. As a context of the producer it hands over how the steps ended."""

    def __init__(self, depth: int) -> None:
        self._changed = Condition()
        self._ready: deque[StepBatch] = deque()
        self._depth = depth
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    def has_room(self) -> bool:
        """Wait until one more step may be built; False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed

    def put(self, step: StepBatch) -> None:
        with self._changed:
            self._ready.append(step)
            self._changed.notify_all()

    def take(self, look: Callable[[], bool] | None) -> StepBatch | None:
        """Wait for the next step; None at the end. Raises what the producer raised."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._ready or self._ended, _LOOK_SECONDS):
                if look is not None and look():
                    return None
            if self._ready:
                step = self._ready.popleft()
                self._changed.notify_all()
                return step
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()
        return True
