"""Events of the model server as OpenAI's text completion, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tunewright.service.ids import new_id
from tunewright.service.inference.chat_answers import FINGERPRINT, Counts

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """What the answer to a completion looks like. prompts, answers: how many, and answers to each."""

    model: str
    prompts: int
    answers: int
    log_probs: bool
    include_usage: bool
    id: str = field(default_factory=lambda: new_id("cmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, events: AsyncIterator[Json]) -> Json:
        """The text completion."""
        counts = Counts()
        count = self.prompts * self.answers
        texts, entries = [""] * count, [list[Json]() for _ in range(count)]
        finishes = ["stop"] * count
        async for event in events:
            counts.note(event)
            for place, text, told in self._parts(event):
                texts[place] += text
                entries[place] += told
            if "finish" in event:
                finishes[event["answer"]] = event["finish"]
        choices = [
            self._choice(place, texts[place], _log_probs(entries[place], 0), finishes[place])
            for place in range(count)
        ]
        return {**self._head(), "choices": choices, "usage": counts.usage()}

    async def chunks(self, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        """The text completion as chunks; each is sent as it comes."""
        counts = Counts()
        offsets = [0] * (self.prompts * self.answers)
        usage = {"usage": None} if self.include_usage else {}
        async for event in events:
            counts.note(event)
            for place, text, told in self._parts(event):
                finish = event.get("finish")
                if text or told or finish:
                    choice = self._choice(place, text, _log_probs(told, offsets[place]), finish)
                    offsets[place] += len(text)
                    yield {**self._head(), "choices": [choice], **usage}
        if self.include_usage:
            yield {**self._head(), "choices": [], "usage": counts.usage()}

    def _parts(self, event: Json) -> list[tuple[int, str, list[Json]]]:
        """(answer, text, tokens) that an event brings; the prompt comes before each answer to it."""
        if event["event"] == "accepted" and "echo" in event:
            places = range(event["answer"], event["answer"] + self.answers)
            return [(place, event["echo_text"], event["echo"]) for place in places]
        if event["event"] == "text":
            return [(event["answer"], event["text"], event.get("entries", []))]
        return []

    def _choice(self, place: int, text: str, log_probs: Json, finish: str | None) -> Json:
        return {
            "index": place,
            "text": text,
            "logprobs": log_probs if self.log_probs else None,
            "finish_reason": finish,
        }

    def _head(self) -> Json:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def _log_probs(entries: list[Json], start: int) -> Json:
    offsets: list[int] = []
    for entry in entries:
        offsets.append(start)
        start += len(entry["text"])
    return {
        "tokens": [entry["text"] for entry in entries],
        "token_logprobs": [entry["log_prob"] for entry in entries],
        # The first token of a prompt has nothing before it that could make it likely.
        "top_logprobs": [
            None
            if entry["log_prob"] is None
            else {other["text"]: other["log_prob"] for other in entry["top"]}
            for entry in entries
        ],
        "text_offset": offsets,
    }
