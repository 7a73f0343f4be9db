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
    """One model server. Methods are thread-safe; listeners are called on the loop that they came with."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._listeners: dict[str, tuple[asyncio.AbstractEventLoop, Listener]] = {}
        self._started = self._not_before = 0.0
        self._pause = RESTART_SECONDS

    @property
    def in_flight(self) -> int:
        """Requests that are not over."""
        return len(self._listeners)

    @property
    def pid(self) -> int | None:
        """Of the child, while one runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def resting_seconds(self) -> float:
        """How long until a child that died at once is started again; 0 when one can be asked."""
        return max(0.0, self._not_before - time.monotonic())

    def ask(self, line: Mapping[str, Any], loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        """Send a request; its events go to `listener` on `loop`."""
        with self._lock:
            process = self._running()
            self._listeners[line["id"]] = (loop, listener)
            self._write(process, line)

    def close(self, request_id: str, *, cancel: bool) -> None:
        """Hear no more of a request, and have it given up if it is not over."""
        with self._lock:
            known = self._listeners.pop(request_id, None)
            if cancel and known is not None and self._process is not None:
                self._write(self._process, {"do": "cancel", "id": request_id})

    def forget(self, name: str) -> None:
        """Free what a deleted model takes."""
        with self._lock:
            if self._process is not None:
                self._write(self._process, {"do": "forget", "name": name})

    def stop(self) -> None:
        """End the child, and with it all requests. The next request starts another one."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if process.stdin:
                process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        return self._process

    def _start(self) -> subprocess.Popen[str]:
        arguments = [self._settings.device, str(self._settings.budget)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tunewright.inference.serving", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_of_child(),
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        self._started = time.monotonic()
        threading.Thread(target=self._listen, args=(process, process.stdout), daemon=True).start()
        return process

    def _write(self, process: subprocess.Popen[str], line: Mapping[str, Any]) -> None:
        # A child that just died hears nothing; its end is told by the thread that listens.
        with suppress(OSError, ValueError):
            if process.stdin:
                process.stdin.write(json.dumps(line) + "\n")
                process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str], out: IO[str]) -> None:
        with out, suppress(OSError, ValueError):
            for text in out:
                event: Event = json.loads(text)
                self._hand_on(event["id"], event)
        code = process.wait()
        if process.stdin:
            # Not flushed: what a dead child was to be told is gone with it.
            with suppress(OSError):
                process.stdin.close()
        with self._lock:
            if self._process is process:
                self._process = None
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
