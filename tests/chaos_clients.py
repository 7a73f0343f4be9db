"""Clients of a service that breaks: each makes jobs one after the other and writes down what it was told.

A call is repeated until it is answered, a create call under its Idempotency-Key. What a client may not be
told is collected in `odd`.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from service_server import chat_rows

OVER = ("succeeded", "failed", "cancelled")
JOBS = "/v1/fine_tuning/jobs"
POLL_SECONDS = 0.4
PATIENCE_SECONDS = 180.0
# What a client does to a job, in turn: leave it alone, most of all.
PLANS = ("run", "run", "pause", "run", "cancel", "pause", "run", "park")
ROWS, EPOCHS, BATCH = 24, 2, 4


@dataclass
class Caller:
    """Calls by one key over `url`, again and again until an answer comes that is no passing trouble."""

    url: str
    key: str
    odd: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=5.0)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def call(
        self, method: str, path: str, told: Callable[[int], None] = lambda code: None, **given: Any
    ) -> httpx2.Response:
        """The answer. told: hears of each try, 0 for one without an answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                response = self._http.request(method, path, **given)
            except httpx2.TransportError:
                told(0)
            else:
                if response.status_code < 500 and response.status_code not in (408, 429):
                    return response
                told(0)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: no answer in {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)

    def upload(self) -> str:
        """Id of a training file."""
        data = "".join(json.dumps(row) + "\n" for row in chat_rows(ROWS)).encode()
        files = {"file": ("rows.jsonl", data)}
        return self.call("POST", "/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"]

    def stream(self, job: str, behind: str | None) -> Any:
        """The events of a job behind this one as they come: ids, and None at its end."""
        headers = {"last-event-id": behind} if behind else {}
        path = f"{JOBS}/{job}/events?stream=true"
        with suppress(httpx2.TransportError), self._http.stream("GET", path, headers=headers) as response:
            for line in response.iter_lines():
                if line.startswith("id: "):
                    yield line[4:]
                elif line == "data: [DONE]":
                    yield None


@dataclass
class Client:
    """Makes jobs until `stopping`, and follows each to its end."""

    caller: Caller
    note: Callable[..., None]
    stopping: threading.Event
    file: str
    chance: random.Random
    made: int = 0
    streams: list[threading.Thread] = field(default_factory=list)

    def work(self) -> None:
        """One job after the other."""
        try:
            while not self.stopping.is_set():
                self._one_job()
            for stream in self.streams:
                stream.join(PATIENCE_SECONDS)
            self.caller.close()
        except Exception as error:  # noqa: BLE001 - a thread must not end in silence
            self.caller.odd.append(f"a client ended: {error!r}")

    def _one_job(self) -> None:
        plan = PLANS[self.made % len(PLANS)]
        self.made += 1
        job = self.create(seed=7 + self.made % 2)
        if self.chance.random() < 0.5:
            self.streams.append(threading.Thread(target=self._follow, args=(job,), daemon=True))
            self.streams[-1].start()
        act_at = time.monotonic() + self.chance.uniform(1.0, 7.0)
        acted = plan == "run"
        while True:
            status = self._see(job)
            if status in OVER or (status == "paused" and plan == "park" and acted):
                return
            if not acted and time.monotonic() >= act_at:
                acted = self._act(job, "cancel" if plan == "cancel" else "pause")
            elif status == "paused":
                self._act(job, "resume")
            time.sleep(POLL_SECONDS)

    def create(self, seed: int) -> str:
        """Id of a new job."""
        key = uuid.uuid4().hex
        body = {
            "model": "builtin:tiny",
            "training_file": self.file,
            # Each file is checked by a process of its own.
            "validation_file": self.file if seed % 2 else None,
            "seed": seed,
            "suffix": f"make-{seed}",
            "hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH, "seq_len": 128, "lora_dropout": 0.1},
        }
        response = self.caller.call("POST", JOBS, json=body, headers={"idempotency-key": key})
        if response.status_code != 200:
            raise RuntimeError(f"create: {response.status_code} {response.text[:300]}")
        job = response.json()["id"]
        self.note("made", t=time.time(), key=key, job=job)
        return job

    def _see(self, job: str) -> str:
        response = self.caller.call("GET", f"{JOBS}/{job}")
        if response.status_code != 200:
            raise RuntimeError(f"{job}: {response.status_code} {response.text[:300]}")
        status = response.json()["status"]
        self.note("seen", t=time.time(), job=job, status=status)
        return status

    def _act(self, job: str, action: str) -> bool:
        """Whether it was done; a job may be in no state for it."""

        def told(code: int) -> None:
            self.note("asked", t=time.time(), job=job, action=action, code=code)

        response = self.caller.call("POST", f"{JOBS}/{job}/{action}", told=told)
        told(response.status_code)
        if response.status_code == 200:
            self.note("seen", t=time.time(), job=job, status=response.json()["status"])
        elif response.status_code != 400:
            self.caller.odd.append(f"{action} of {job}: {response.status_code} {response.text[:300]}")
        return response.status_code == 200

    def _follow(self, job: str) -> None:
        heard: list[str] = []
        done = False
        deadline = time.monotonic() + 10 * PATIENCE_SECONDS
        while not done and time.monotonic() < deadline:
            for one in self.caller.stream(job, heard[-1] if heard else None):
                done = one is None
                heard += [] if done else [one]
            if self.stopping.is_set() and not done and self._is_at_rest(job):
                break
            time.sleep(0.2)
        self.note("streamed", t=time.time(), job=job, ids=heard, done=done)

    def _is_at_rest(self, job: str) -> bool:
        return self.caller.call("GET", f"{JOBS}/{job}").json()["status"] == "paused"
