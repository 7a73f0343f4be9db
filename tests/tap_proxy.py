"""A TCP proxy that breaks connections when it is told to, and notes what was asked and answered over it.

It reads heads and the beginnings of answers only.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_ATTEMPT = re.compile(rb"\r\nx-attempt: (\d+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
BODY_BYTES = 300
HEAD_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Call:
    """One call. t0: when it began to come. t: when the first of its answer came from the server. code: its
    status; 0 when the connection ended without one. body: how the answer begins."""

    t0: float
    t: float
    method: str
    path: str
    attempt: int
    code: int
    body: bytes


class TapProxy:
    """Forwards connections to `port` of this machine, from now until `close`."""

    def __init__(self, port: int, note: Callable[[Call], None]) -> None:
        self._port = port
        self._note = note
        self._refuse_until = 0.0
        self._hold_until = 0.0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections that are open."""
        for each in list(self._open):
            _break(each)

    def refuse(self, seconds: float) -> None:
        """Break all connections and take none for a while."""
        self._refuse_until = time.time() + seconds
        self.cut()

    def hold(self, seconds: float) -> None:
        """Let requests through and no answers, for a while; then break the connections, answers and all."""
        self._hold_until = time.time() + seconds

        def end() -> None:
            time.sleep(seconds)
            self.cut()

        threading.Thread(target=end, daemon=True).start()

    def close(self) -> None:
        """Break everything for good."""
        self._refuse_until = float("inf")
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if time.time() < self._refuse_until:
                    raise OSError
                far = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                far.settimeout(None)
            except OSError:
                _break(near)
                near.close()
                continue
            self._open |= {near, far}
            talk = _Talk(self._note)
            both = (
                threading.Thread(target=self._forward, args=(near, far, talk.ask), daemon=True),
                threading.Thread(target=self._answer, args=(near, far, talk), daemon=True),
            )
            self._threads = [thread for thread in self._threads if thread.is_alive()] + [*both]
            for thread in both:
                thread.start()

    def _forward(self, source: socket.socket, target: socket.socket, see: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                see(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _answer(self, near: socket.socket, far: socket.socket, talk: _Talk) -> None:
        def see(data: bytes) -> None:
            talk.answer(data)
            while (left := self._hold_until - time.time()) > 0:
                time.sleep(left)

        self._forward(far, near, see)
        talk.end()
        self._open -= {near, far}
        near.close()
        far.close()


class _Talk:
    """The calls of one connection, one after the other."""

    def __init__(self, note: Callable[[Call], None]) -> None:
        self._note = note
        self._clear()

    def _clear(self) -> None:
        self._start = self._answered = 0.0
        self._asked, self._told = b"", b""
        self._is_noted = False

    def ask(self, data: bytes) -> None:
        if self._told:
            self.end()
        if not self._asked:
            self._start = time.time()
        if b"\r\n\r\n" not in self._asked:
            self._asked += data

    def answer(self, data: bytes) -> None:
        if not self._told:
            self._answered = time.time()
        if len(self._told) < HEAD_BYTES:
            self._told += data
        head, end, body = self._told.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + end)
        if end and len(body) >= min(int(length[1]) if length else 0, BODY_BYTES):
            self._tell(head, body)

    def end(self) -> None:
        """The call is over: another one begins, or the connection ends."""
        head, _, body = self._told.partition(b"\r\n\r\n")
        self._tell(head, body)
        self._clear()

    def _tell(self, head: bytes, body: bytes) -> None:
        if self._is_noted or not self._asked:
            return
        self._is_noted = True
        method, path = (*self._asked.split(b" ", 2), b"", b"")[:2]
        attempt = _ATTEMPT.search(self._asked)
        self._note(
            Call(
                self._start,
                self._answered or time.time(),
                method.decode(errors="replace"),
                path.decode(errors="replace"),
                int(attempt[1]) if attempt else 0,
                int(head[9:12]) if head[9:12].isdigit() else 0,
                body[:BODY_BYTES],
            )
        )


def _break(each: socket.socket) -> None:
    with suppress(OSError):
        # Time 0 to linger: what is not sent yet is thrown away, as it is when a machine falls over.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        each.shutdown(socket.SHUT_RDWR)
