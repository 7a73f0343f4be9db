"""HTTP connections that do not wait for ever: what uvicorn leaves open to slow callers and to nonsense.

A request whose head does not come within HEAD_SECONDS is refused, and so is a caller who goes on sending long
after the answer. What is no HTTP at all is refused in OpenAI's envelope too.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunewright.service.corked import corked
from tunewright.service.faults import ApiError
from tunewright.service.ids import REQUEST, new_id

HEAD_SECONDS = 4.0
DRAIN_SECONDS = 4.0
"""A client that sends its whole body before it reads finds its refusal when it is done this fast."""
LARGEST_HEAD = 32 * 1024
KEEP_ALIVE_SECONDS = 75
"""Above the pause of a client that polls, which would otherwise make a connection each time."""


def http_config(app: ASGIApp, proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How a server of ours speaks HTTP. proxies: addresses that may say for whom they ask."""
    return uvicorn.Config(
        app,
        http=CarefulProtocol,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # From anybody else a header that names another address is a lie in the audit log.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )


class CarefulProtocol(H11Protocol):
    """uvicorn's protocol with one timer, which runs while the caller owes a head or should have ended."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A caller connects."""
        super().connection_made(corked(transport, self.loop))
        # Else a write waits for the caller's delayed acknowledgement of the one before, 40 ms. asyncio sets
        # it for sockets that name their protocol only.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._set_timer()

    def on_response_complete(self) -> None:
        """The answer is out."""
        super().on_response_complete()
        self._set_timer(idle=True)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request."""
        self._refuse(400, "invalid_http", f"{msg.removesuffix('.')}, or its headers are too large")

    def _set_timer(self, idle: bool = False) -> None:
        """idle: nothing of another request came yet, so that uvicorn's timer for idle connections runs."""
        owes_head = self.conn.their_state is h11.IDLE and not idle
        goes_on = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if self.transport.is_closing() or not (owes_head or goes_on):
            self._stop_timer()
        elif self._timer is None:
            seconds = HEAD_SECONDS if owes_head else DRAIN_SECONDS
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "request_timeout", f"The request did not come within {HEAD_SECONDS:.0f} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps(ApiError(status, message, code=code).body()).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": new_id(REQUEST),
            "connection": "close",
        }
        try:
            head = h11.Response(status_code=status, headers=list(headers.items()))
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            # In the middle of an answer there is no place for another one.
            pass
        self.transport.close()
