"""The model server as the API process sees it: a child behind two pipes, started when it is first needed.

It loads torch and foreign tokenizers so that this process need not. Requests go down one pipe and events come
up the other, each with the id of its request; nobody else can reach either. The child ends with its standard
input, however this process ends. When it dies, requests in the making are told so and the next one starts it
anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from tunewright.service.child_environment import environment_of_child
from tunewright.service.inference.settings import InferenceSettings

Event = dict[str, Any]
Listener = Callable[[Event], None]

LOST: Event = {"event": "lost"}
RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STOP_SECONDS = 5.0
log = logging.getLogger("tunewright.service")


class ModelProcess:
    """One model server. Methods are thread-safe. None waits for the child but `stop`, so that the event loop
    may call them; `ask` may start it, which takes a moment. Listeners are called on the loop that they came
    with."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._listeners: dict[str, tuple[asyncio.AbstractEventLoop, Listener]] = {}
        self._started = self._not_before = 0.0
        self._pause = RESTART_SECONDS

    @property
    def in_flight(self) -> int:
        """Requests that are not over, or that a child which hears nothing was not told yet."""
        child = self._child
        return max(len(self._listeners), child.untold if child is not None else 0)

    @property
    def pid(self) -> int | None:
        """Of the child, while one runs."""
        child = self._child
        return child.process.pid if child is not None and child.process.poll() is None else None

    def resting_seconds(self) -> float:
        """How long until a child that died at once is started again; 0 when one can be asked."""
        return max(0.0, self._not_before - time.monotonic())

    def ask(self, line: Mapping[str, Any], loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        """Send a request; its events go to `listener` on `loop`."""
        with self._lock:
            child = self._running()
            self._listeners[line["id"]] = (loop, listener)
            child.tell(line)

    def close(self, request_id: str, *, cancel: bool) -> None:
        """Hear no more of a request, and have it given up if it is not over."""
        with self._lock:
            known = self._listeners.pop(request_id, None)
            if cancel and known is not None and self._child is not None:
                self._child.tell({"do": "cancel", "id": request_id})

    def forget(self, name: str) -> None:
        """Free what a deleted model takes."""
        with self._lock:
            if self._child is not None:
                self._child.tell({"do": "forget", "name": name})

    def stop(self) -> None:
        """End the child, and with it all requests. The next request starts another one."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        child.hang_up()
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(STOP_SECONDS)
        child.process.kill()
        child.process.wait()

    def _running(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:
            self._child = _Child(self._settings)
            self._started = time.monotonic()
            threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()
        return self._child

    def _listen(self, child: _Child) -> None:
        with child.out as out, suppress(OSError, ValueError):
            for text in out:
                event: Event = json.loads(text)
                self._hand_on(event["id"], event)
        code = child.process.wait()
        child.hang_up()
        with self._lock:
            if self._child is child:
                self._child = None
                self._rest()
                log.warning("the model server ended with code %s; the next request starts another one", code)
            # A later child may have requests already; they are told too, and their clients ask again.
            lost = list(self._listeners)
        for request_id in lost:
            self._hand_on(request_id, LOST)

    def _rest(self) -> None:
        quick = time.monotonic() - self._started < LONGEST_RESTART_SECONDS
        self._pause = min(2 * self._pause, LONGEST_RESTART_SECONDS) if quick else RESTART_SECONDS
        self._not_before = time.monotonic() + self._pause

    def _hand_on(self, request_id: str, event: Event) -> None:
        known = self._listeners.get(request_id)
        if known is None:
            return
        loop, listener = known
        # The loop of a server that is ending takes nothing any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(listener, event)


class _Child:
    """A process and what it is yet to be told. A thread of its own tells it: a full pipe makes the one who
    writes wait, and a call of a device can keep the child from reading for minutes."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunewright.inference.serving", settings.device, str(settings.budget)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_of_child(),
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("both are pipes")
        self.out: IO[str] = self.process.stdout
        self._pipe: IO[str] = self.process.stdin
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._tell_all, daemon=True).start()

    @property
    def untold(self) -> int:
        """How many lines wait."""
        return self._lines.qsize()

    def tell(self, line: Mapping[str, Any]) -> None:
        """Send a line behind those that wait. One that has died hears nothing, which `_listen` notices."""
        self._lines.put(json.dumps(line) + "\n")

    def hang_up(self) -> None:
        """End the child's input once all is told, which ends the child."""
        self._lines.put(None)

    def _tell_all(self) -> None:
        # Closing writes what is left, which fails as well once the child is dead.
        with suppress(OSError), self._pipe:
            while (line := self._lines.get()) is not None:
                self._pipe.write(line)
                self._pipe.flush()
