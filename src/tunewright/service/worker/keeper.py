"""Keep a lease alive beside the work: a thread that renews it and hears what the job's owner wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tunewright.errors import ServiceError
from tunewright.service.schemas.lease import Lease
from tunewright.service.worker.child import LeashedChild
from tunewright.service.worker.client import LeaseLost, ServerAway, ServerClient

RENEWALS_PER_LEASE = 4
LISTEN_SECONDS = 2.0
"""Longest time until a worker hears that its job shall pause or end; renewals are how it hears."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 5.0

Result = TypeVar("Result")


class LeaseKeeper:
    """Context manager around an attempt. wanted: `run`, `pause` or `cancel`, as of the last renewal."""

    def __init__(self, client: ServerClient, lease: Lease) -> None:
        self.wanted = "run"
        self._client = client
        self._lease = lease
        self._ends = time.monotonic() + lease.lease_seconds
        self._child: LeashedChild | None = None
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_stopped, daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_lost(self) -> bool:
        """Whether the job is somebody else's, or may be."""
        return self._lost.is_set() or time.monotonic() >= self._ends

    def attend(self, child: LeashedChild | None) -> None:
        """Let this command run as long as the lease does; None when there is none any more."""
        self._child = child

    def call(self, send: Callable[[], Result]) -> Result:
        """Make a call, again and again while the server is away. Raises LeaseLost once the lease is over."""
        wait = FIRST_WAIT_SECONDS
        while True:
            if self.is_lost:
                raise LeaseLost(self._lease.job)
            try:
                return send()
            except ServerAway:
                self._stop.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _renew_until_stopped(self) -> None:
        pause = min(self._lease.lease_seconds / RENEWALS_PER_LEASE, LISTEN_SECONDS)
        while not self._stop.wait(pause) and not self.is_lost:
            # From before the call: the server's lease cannot end earlier than ours.
            asked = time.monotonic()
            try:
                self.wanted = self._client.renew(self._lease).wanted
            except ServerAway:
                continue
            except (LeaseLost, ServiceError):
                self._lost.set()
                return
            self._ends = asked + self._lease.lease_seconds
            if child := self._child:
                child.beat()
