"""Prompts into tokens, by the model's own template and tokenizer, which are foreign and may be hostile.

A thread of its own, so that a slow template does not hold up answers in the making. jinja2's sandbox stops a
template from reaching out of itself, but not from running for ever: a watchdog then ends the process, which
the server starts anew.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tunewright.data.templates import load_tokenizer
from tunewright.inference.detokenize import TokenBytes
from tunewright.inference.serving.attempt import attempt
from tunewright.inference.serving.request import Ask, Job, ModelName, prepare
from tunewright.inference.serving.shelf import base_key
from tunewright.inference.serving.told import Voice
from tunewright.models.arch import load_arch
from tunewright.models.resolve import resolve_model

MOST_SECONDS = 20.0
"""A long prompt takes well below a second."""
KEPT = 16
STUCK = 75
"""Exit code of a process that a template held up."""


@dataclass(frozen=True, slots=True)
class _Reading:
    voice: Voice
    max_positions: int | None
    bytes_per_token: int


class Reader:
    """Reads requests in turn. done: takes the finished job. failed: takes the request and what was wrong."""

    def __init__(
        self,
        done: Callable[[Job], None],
        failed: Callable[[str, Exception], None],
        *,
        most_seconds: float = MOST_SECONDS,
    ) -> None:
        self._done, self._failed = done, failed
        self._most_seconds = most_seconds
        self._asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._known: OrderedDict[str, _Reading] = OrderedDict()
        self._rendering: tuple[str, float] | None = None
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def put(self, ask: Ask) -> None:
        """Read this request when its turn comes."""
        self._asks.put(ask)

    def _read(self) -> None:
        while True:
            ask = self._asks.get()
            job = attempt(partial(self._prepare, ask), partial(self._failed, ask.id))
            if job is not None:
                self._done(job)

    def _prepare(self, ask: Ask) -> Job:
        # Fetching a model may take minutes, and is not the template's doing.
        resolve_model(ask.model.base)
        self._rendering = (ask.id, time.monotonic())
        try:
            reading = self._reading(ask.model)
            return prepare(
                ask,
                reading.voice,
                max_positions=reading.max_positions,
                bytes_per_token=reading.bytes_per_token,
            )
        finally:
            self._rendering = None

    def _reading(self, model: ModelName) -> _Reading:
        known = self._known.get(model.name) or _open(model)
        self._known[model.name] = known
        self._known.move_to_end(model.name)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known

    def _watch(self) -> None:
        while True:
            time.sleep(self._most_seconds / 10)
            rendering = self._rendering
            if rendering is not None and time.monotonic() - rendering[1] > self._most_seconds:
                self._failed(
                    rendering[0], TimeoutError(f"the chat template took over {self._most_seconds:g} s")
                )
                os._exit(STUCK)


def _open(model: ModelName) -> _Reading:
    files = resolve_model(base_key(model))
    arch = load_arch(files.folder)
    own = model.folder is not None and (model.folder / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(model.folder if own and model.folder else files.folder, None)
    bytes_per_token = 2 * 4 * arch.layers * arch.kv_heads * arch.head_size
    return _Reading(Voice(tokenizer, TokenBytes(tokenizer)), arch.max_positions, bytes_per_token)
