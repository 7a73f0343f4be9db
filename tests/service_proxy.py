"""A TCP proxy between client and server that holds back what a test tells it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress


class FaultProxy:
    """Forwards connections to `port`. hold_answers and hold_requests: how many of the next connections have
    what comes from the server, or goes to it, held back until `let_go`."""

    def __init__(self, port: int) -> None:
        self.hold_answers = 0
        self.hold_requests = 0
        self.connections = 0
        self._is_cut = False
        self._port = port
        self._free = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def let_go(self) -> None:
        """Deliver what was held back, in the order in which it came, and what comes from now on."""
        self._free.set()

    def cut(self) -> None:
        """Break every connection, and each that is made before `mend`."""
        self._is_cut = True
        for each in self._open[1:]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def close(self) -> None:
        self._free.set()
        for each in self._open:
            with suppress(OSError):
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._is_cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._open += [near, far]
            holds_request, holds_answer = self.hold_requests > 0, self.hold_answers > 0
            self.hold_requests -= holds_request
            self.hold_answers -= holds_answer
            for source, target, holds in ((near, far, holds_request), (far, near, holds_answer)):
                threading.Thread(target=self._forward, args=(source, target, holds), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, holds: bool) -> None:
        with suppress(OSError):
            if holds:
                # Read on meanwhile, so that a caller that hangs up is a caller that hung up.
                held: list[bytes] = []
                while not self._free.is_set() and (data := source.recv(65536)):
                    held.append(data)
                self._free.wait()
                target.sendall(b"".join(held))
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def fault_proxy(url: str) -> Generator[FaultProxy]:
    """A proxy in front of a server of this machine."""
    proxy = FaultProxy(int(url.rpartition(":")[2]))
    try:
        yield proxy
    finally:
        proxy.close()
