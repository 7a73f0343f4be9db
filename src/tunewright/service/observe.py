"""ASGI wrapper around the whole API: counts and logs each answer, audits changes, tells rate limits."""

from __future__ import annotations

import logging
import time
from typing import Any

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunewright.service.audit import REFUSED_KEY, AuditEntry, is_audited
from tunewright.service.context import Service
from tunewright.service.meters import route_of
from tunewright.service.records import KeyRecord
from tunewright.service.traffic import rate_headers

REFUSED_TOLD = 60
"""Refused keys of one address that are audited in a minute; /metrics counts them all."""
REFUSED_TOLD_IN_ALL = 600

access_log = logging.getLogger("tunewright.access")


class Observed:
    """Sees every request of a server, refusals included. `authenticate` leaves the key and its allowance in
    the request's state, from where they are read here."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        started = time.perf_counter()
        status, is_noted = 0, False

        async def note_once() -> None:
            nonlocal is_noted
            if not is_noted:
                is_noted = True
                await self._note(scope, state, status, time.perf_counter() - started)

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                allowance = state.get("allowance")
                if allowance is not None:
                    MutableHeaders(scope=message).update(rate_headers(allowance))
            elif not message.get("more_body", False):
                # Before the end of the answer: who has it can rely on its being in the audit log.
                await note_once()
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            # One that was answered with 500 was logged there. uvicorn would log it again and cut the
            # connection, on which the caller's next request may be already.
            if not is_noted:
                raise
        finally:
            await note_once()

    async def _note(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        route = route_of(scope)
        method = str(scope["method"])
        self.service.traffic.meters.count(method, route, status, seconds)
        entry = _entry(scope, state, route, status)
        # A worker without a job asks every second; that nothing waits is no news.
        is_idle_poll = (route, status) == ("/worker/claim", 204)
        if access_log.isEnabledFor(logging.INFO) and not is_idle_poll:
            access_log.info(
                "%s %s %d", method, route, status, extra={"request": {**entry.shown(), "seconds": seconds}}
            )
        if is_audited(method, route, status) and not self._is_flood(entry):
            await to_thread.run_sync(self.service.audit.write, entry)

    def _is_flood(self, entry: AuditEntry) -> bool:
        """Whether refused keys come so fast that the log would fill the disk; anyone can send those."""
        rates = self.service.traffic.rates
        return entry.outcome == REFUSED_KEY and any(
            rates.take(name, most).wait_seconds > 0
            for name, most in ((f"refused:{entry.address}", REFUSED_TOLD), ("refused", REFUSED_TOLD_IN_ALL))
        )


def _entry(scope: Scope, state: dict[str, Any], route: str, status: int) -> AuditEntry:
    key: KeyRecord | None = state.get("key")
    client = scope.get("client")
    return AuditEntry(
        action=f"{scope['method']} {route}",
        outcome=status,
        objects={name: str(value)[:256] for name, value in scope.get("path_params", {}).items()},
        key=key.id if key else None,
        project=key.project if key else None,
        address=client[0] if client else None,
        request_id=state.get("request_id"),
    )
