"""The model server: a child process of `tunewright serve` that loads models and answers.

Usage: python -m tunewright.inference.serving DEVICE MODEL_BYTES. It reads requests from its standard input
and writes events to its standard output, a JSON object a line; nobody else can reach either. It ends with its
standard input, that is, with the server.

    {"do": "answer", "id", "name", "base", "folder", …}  request.Ask     {"do": "cancel", "id"}
    {"do": "forget", "name"}                                             {"do": "ping", "id"}
    {"event": "accepted", "id", "prompt_tokens", "echo"}  once, before any text; nothing else before it
    {"event": "text", "id", "answer", "text", "entries", …}  with finish, tokens and calls when it is the last
    {"event": "done", "id"}  or  {"event": "error", "id", "message", "code", "where"}  is the last of an id
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import IO, Any

from tunewright.host_cpu import limit_spinning
from tunewright.inference.serving.attempt import error_event
from tunewright.inference.serving.limits import limit_process
from tunewright.inference.serving.loop import Event, Loop
from tunewright.inference.serving.reader import Reader
from tunewright.inference.serving.request import read_ask
from tunewright.inference.serving.shelf import Shelf

CACHE_SHARE = 0.5
"""Key-value caches may take half of what the models may, in addition."""


def main(arguments: Sequence[str]) -> None:
    """Answer until standard input ends."""
    limit_spinning(os.environ)
    device, budget = arguments[0], int(arguments[1])
    # A library that prints must not write between the events.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    limit_process(device, int(budget * (1 + CACHE_SHARE)))
    outlet = Outlet(out)
    shelf = Shelf(budget, device)
    loop = Loop(shelf, outlet.send, cache_bytes=int(budget * CACHE_SHARE))
    reader = Reader(loop.add, lambda job_id, error: outlet.send([error_event(job_id, error)]))
    threading.Thread(target=loop.run, daemon=True).start()
    listen(sys.stdin, loop, reader, outlet)
    # Threads of libraries must not keep a process that nobody talks to any more.
    os._exit(0)


class Outlet:
    """Writes events; from any thread."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, events: Iterable[Event]) -> None:
        """Write events in one go."""
        text = "".join(f"{json.dumps(event)}\n" for event in events)
        with self._lock:
            try:
                self._out.write(text)
                self._out.flush()
            except OSError:
                # The server is gone.
                os._exit(0)


def listen(lines: Iterable[str], loop: Loop, reader: Reader, outlet: Outlet) -> None:
    """Do what each line says."""
    for line in lines:
        order: dict[str, Any] = json.loads(line)
        match order.pop("do"):
            case "answer":
                reader.put(read_ask(order))
            case "cancel":
                if not reader.cancel(order["id"]):
                    loop.cancel(order["id"])
            case "forget":
                loop.forget(order["name"])
            case _:
                outlet.send([{"event": "done", "id": order["id"]}])


if __name__ == "__main__":
    main(sys.argv[1:])
