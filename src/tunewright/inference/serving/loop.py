"""The one thread that loads models and computes: admits waiting requests, steps all batches in turn, tells.

Requests are admitted in the order in which they came, projects in turn, as long as memory for their key-value
cache is left; each model's batch gets one step a turn, so no model waits for another one's answers to end.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tunewright.errors import ConfigError
from tunewright.inference.batch import Answer, Batch, Step
from tunewright.inference.decoder import Decoder, Decoders
from tunewright.inference.serving.attempt import attempt, error_event
from tunewright.inference.serving.request import Job, ModelName
from tunewright.inference.serving.shares import next_job
from tunewright.inference.serving.shelf import Shelf, ShelfFull, no_memory
from tunewright.inference.serving.told import FinishReason, Piece, Told
from tunewright.inference.serving.turns import Turns

Event = dict[str, Any]
BEGUN_AT_ONCE = 4
"""Prompts that are fed between two steps of the answers in the making."""


@dataclass(slots=True)
class _Active:
    batch: Batch
    jobs: list[Job] = field(default_factory=list)


class Loop:
    """send: takes events for the server; called from this thread only. cache_bytes: what all key-value caches
    together may take; a request that alone needs more is answered alone."""

    def __init__(self, shelf: Shelf, send: Callable[[Sequence[Event]], None], *, cache_bytes: int) -> None:
        self._shelf = shelf
        self._send = send
        self._cache_bytes = cache_bytes
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: Turns[Job] = Turns()
        self._active: dict[ModelName, _Active] = {}
        # Cancelled before they came: reading a prompt takes a while.
        self._cancelled: set[str] = set()

    def add(self, job: Job) -> None:
        """Answer a request. From any thread, as are cancel and forget."""
        self._inbox.put(lambda: self._add(job))

    def cancel(self, job_id: str) -> None:
        """Give up a request; nothing more is told of it."""
        self._inbox.put(lambda: self._cancel(job_id))

    def forget(self, name: str) -> None:
        """Free what a deleted model takes."""
        self._inbox.put(lambda: self._shelf.forget(name))

    def run(self) -> None:
        """Work for ever."""
        while True:
            self._receive()
            self._admit()
            for model in list(self._active):
                self._advance(model)

    def _receive(self) -> None:
        idle = not self._active and not self._waiting
        while idle or not self._inbox.empty():
            self._inbox.get()()
            idle = False

    def _add(self, job: Job) -> None:
        if job.id in self._cancelled:
            self._cancelled.discard(job.id)
        else:
            self._waiting.put(job)

    def _cancel(self, job_id: str) -> None:
        if self._waiting.remove(job_id):
            return
        for model, active in list(self._active.items()):
            for job in active.jobs:
                if job.id == job_id:
                    active.batch.drop(job.answers)
                    self._close(model, [job])
                    return
        self._cancelled.add(job_id)

    def _admit(self) -> None:
        """Start what there is room for."""
        for _ in range(BEGUN_AT_ONCE):
            # Those that came meanwhile have their turn before the next one of a project that just had one.
            while not self._inbox.empty():
                self._inbox.get()()
            active = [job for other in self._active.values() for job in other.jobs]
            job = next_job(filter(self._can_join, self._waiting.heads()), active, self._cache_bytes)
            if job is None:
                return
            self._waiting.take(job)
            decoders = attempt(partial(self._take, job.model), partial(self._fail, [job]))
            if decoders is _NO_ROOM:
                self._waiting.give_back(job)
                return
            if decoders is not None:
                self._begin(job, decoders)

    def _take(self, model: ModelName) -> Decoders:
        try:
            return self._shelf.take(model, list(self._active))
        except ShelfFull:
            if self._active:
                return _NO_ROOM
            raise no_memory(model.name) from None

    def _can_join(self, job: Job) -> bool:
        active = self._active.get(job.model)
        return active is None or active.batch.accepts()

    def _begin(self, job: Job, decoders: Decoders) -> None:
        active = self._active.get(job.model) or _Active(Batch(decoders))
        # What was computed for the others is lost with a cache that could not be joined.
        lost = partial(self._lose, job.model, [*active.jobs, job])
        accepted = attempt(partial(_accepted, job, decoders), lost)
        if accepted is None:
            return
        if job.answers[0].limit == 0:
            ends = [_told(job, place, told.end("length")) for place, told in enumerate(job.told)]
            self._send([accepted, *ends, {"event": "done", "id": job.id}])
            return
        steps = attempt(partial(active.batch.add, job.answers), lost)
        if steps is not None:
            active.jobs.append(job)
            self._active[job.model] = active
            self._tell(job.model, steps, [accepted])

    def _advance(self, model: ModelName) -> None:
        active = self._active[model]
        steps = attempt(active.batch.step, partial(self._lose, model, active.jobs))
        if steps is not None:
            self._tell(model, steps, [])

    def _lose(self, model: ModelName, jobs: Sequence[Job], error: Exception) -> None:
        self._active.pop(model, None)
        self._fail(jobs, error)

    def _tell(self, model: ModelName, steps: Sequence[Step], events: list[Event]) -> None:
        active = self._active[model]
        by_answer = {id(step.answer): step for step in steps}
        cut: list[Answer] = []
        over: list[Job] = []
        for job in active.jobs:
            if error := _grammar_error(job):
                cut += job.answers
                over.append(job)
                events.append(error_event(job.id, error))
                continue
            for place, (answer, told) in enumerate(zip(job.answers, job.told, strict=True)):
                step = by_answer.get(id(answer))
                if step is None:
                    continue
                event = _event(job, place, step, told)
                if told.finish == "stop" and not answer.is_over:
                    cut.append(answer)
                if event is not None:
                    events.append(event)
            if all(told.finish for told in job.told):
                over.append(job)
                events.append({"event": "done", "id": job.id})
        if cut:
            active.batch.drop(cut)
        self._close(model, over)
        if events:
            self._send(events)

    def _close(self, model: ModelName, jobs: Sequence[Job]) -> None:
        active = self._active[model]
        active.jobs = [job for job in active.jobs if job not in jobs]
        if not active.jobs:
            del self._active[model]

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        self._send([error_event(job.id, error) for job in jobs])


def _no_decoder() -> Decoder:
    raise AssertionError("nothing is computed without room")


_NO_ROOM: Decoders = _no_decoder


def _accepted(job: Job, decoders: Decoders) -> Event:
    event: Event = {"event": "accepted", "id": job.id, "prompt_tokens": len(job.prompt)}
    if job.echo:
        event["echo"] = _echo(job, decoders)
        event["echo_text"] = job.voice.tokenizer.decode(job.prompt, skip_special=False)
    return event


def _event(job: Job, place: int, step: Step, told: Told) -> Event | None:
    if step.token is None:
        return _told(job, place, told.end("stop"))
    piece = told.take(step.token, step.likely)
    if told.finish is None and step.answer.is_over:
        reason = "stop" if step.answer.stopped else "length"
        return _told(job, place, _joined(piece, told.end(reason)))
    if told.finish is None and not piece.text and not piece.entries:
        return None
    return _told(job, place, piece)


def _grammar_error(job: Job) -> ConfigError | None:
    """Why the answers of a job cannot keep to its grammar any further."""
    for answer in job.answers:
        if answer.constraint is not None and answer.constraint.error:
            return ConfigError(
                "the JSON schema is too complex to keep an answer to it; make it simpler",
                where="response_format",
                code="config.costly-schema",
            )
    return None


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(first.text + second.text, [*first.entries, *second.entries])


def _told(job: Job, place: int, piece: Piece) -> Event:
    told = job.told[place]
    event: Event = {"event": "text", "id": job.id, "answer": place, "text": piece.text}
    if job.log_probs is not None:
        event["entries"] = list(piece.entries)
    if told.finish is not None:
        finish: FinishReason = told.finish
        event |= {
            "finish": finish,
            "tokens": len(job.answers[place].tokens),
            "calls": [{"name": call.name, "arguments": call.arguments} for call in told.calls],
        }
    return event


def _echo(job: Job, decoders: Decoders) -> list[Event]:
    """The tokens of the prompt with their log-probabilities; the first one has none."""
    count = job.log_probs or 0
    if job.log_probs is None or len(job.prompt) < 2:
        return [job.voice.entry(token, None, ()) for token in job.prompt]
    chosen_T, values_TK, tokens_TK = decoders().score(job.prompt, max(1, count))
    entries = [job.voice.entry(job.prompt[0], None, ())]
    for place, token in enumerate(job.prompt[1:]):
        top = zip(tokens_TK[place, :count].tolist(), values_TK[place, :count].tolist(), strict=True)
        entries.append(job.voice.entry(token, float(chosen_T[place]), list(top)))
    return entries
