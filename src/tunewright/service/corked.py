"""Writes that go out together: head and body of an answer in one call of the system, not in three."""

from __future__ import annotations

import asyncio
from typing import Any, cast


class Corked:
    """A transport that keeps what is written until the event loop comes round, then sends it at once. All
    else is as in the transport that it stands for.

    A call of the system that sends takes longer than making the answer, and wakes the other side each time.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send this soon, after what was written before."""
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def corked(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> asyncio.Transport:
    """The same transport, corked."""
    return cast(asyncio.Transport, Corked(transport, loop))
