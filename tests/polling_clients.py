"""Many clients that watch a job over kept connections, and an endpoint that costs nothing to compare it with.

Processes of their own, so that what they cost is theirs: `python polling_clients.py poll` takes a Load as
JSON on its standard input and prints a Watched; `… static` takes bodies by the end of their path, prints its
port and answers until its standard input ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

LATE_SECONDS = 30.0
_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Load:
    """clients: the requests of each, as they stand on the wire, sent in turn. every: seconds between two
    requests of a client; their phases are spread. seconds: how long. keeps: the connection, over all
    requests; else each has its own."""

    host: str
    port: int
    clients: Sequence[Sequence[str]]
    every: float
    seconds: float
    keeps: bool = True


@dataclass(slots=True)
class Watched:
    """seconds: from the start of a request to the end of its answer, of each. errors: what went wrong, an
    answer other than 200 included. connections: how many were made."""

    seconds: list[float]
    errors: list[str]
    connections: int


async def watch(load: Load) -> Watched:
    """Let all clients poll, each at its own moments."""
    found = Watched([], [], 0)
    start = time.monotonic()
    draw = random.Random(0)
    firsts = [start + draw.uniform(0, load.every) for _ in load.clients]
    await asyncio.gather(
        *(_one(load, requests, first, found) for requests, first in zip(load.clients, firsts, strict=True))
    )
    return found


async def _one(load: Load, requests: Sequence[str], first: float, found: Watched) -> None:
    end, due = first + load.seconds, first
    line: _Line | None = None
    turn = itertools.cycle(request.encode() for request in requests)
    try:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            if line is None:
                line = await asyncio.open_connection(load.host, load.port)
                found.connections += 1
            line[1].write(next(turn))
            status = await asyncio.wait_for(_read_answer(line[0]), LATE_SECONDS)
            found.seconds.append(time.monotonic() - asked)
            if status != "200":
                found.errors.append(f"status {status}")
            if not load.keeps:
                line = _close(line)
            due += load.every
    except (OSError, EOFError, TimeoutError) as error:
        found.errors.append(repr(error))
    finally:
        _close(line)


def _close(line: _Line | None) -> None:
    if line is not None:
        line[1].close()


async def _read_answer(reader: asyncio.StreamReader) -> str:
    """Read one answer to its end; gives its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    length = next(line for line in lines if line.lower().startswith("content-length:"))
    await reader.readexactly(int(length.partition(":")[2]))
    return first.split(" ")[1]


class Static(asyncio.Protocol):
    """Answers from memory, by the end of the path; `bodies` needs one for the end ''."""

    def __init__(self, bodies: Mapping[str, str]) -> None:
        self._answers = {end: _answer(body.encode()) for end, body in bodies.items()}
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
            answer = next(self._answers[end] for end in self._answers if path.endswith(end))
            self._transport.write(answer)  # pyright: ignore[reportAttributeAccessIssue]


def _answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve_static(bodies: Mapping[str, str]) -> None:
    """Answer until standard input ends; the port is printed."""
    # The longest end first: every path ends with ''.
    bodies = dict(sorted(bodies.items(), key=lambda item: -len(item[0])))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Static(bodies), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    if sys.argv[1] == "static":
        asyncio.run(serve_static(json.loads(sys.stdin.readline())))
    else:
        given = Load(**json.loads(sys.stdin.readline()))
        sys.stdout.write(json.dumps(asdict(asyncio.run(watch(given)))) + "\n")
