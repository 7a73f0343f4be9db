"""Events of the model server as OpenAI's chat completion, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunewright import __version__
from tunewright.service.ids import new_id

Json = dict[str, Any]
FINGERPRINT = f"tunewright-{__version__}"


@dataclass(slots=True)
class Counts:
    """Tokens of one call."""

    prompt: int = 0
    completion: int = 0

    def note(self, event: Mapping[str, Any]) -> None:
        """Count what an event tells."""
        self.prompt += int(event.get("prompt_tokens", 0))
        self.completion += int(event.get("tokens", 0))

    def usage(self) -> Json:
        """As the API shows them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list[str])
    entries: list[Json] = field(default_factory=list[Json])
    calls: list[Json] = field(default_factory=list[Json])
    finish: str = "stop"


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What the answer to a chat looks like. one_call: the model may call one tool only."""

    model: str
    answers: int
    log_probs: bool
    one_call: bool
    include_usage: bool
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, events: AsyncIterator[Json]) -> Json:
        """The chat completion."""
        counts = Counts()
        choices: list[_Choice] = [_Choice() for _ in range(self.answers)]
        async for event in events:
            counts.note(event)
            if event["event"] != "text":
                continue
            choice: _Choice = choices[int(event["answer"])]
            choice.text.append(event["text"])
            choice.entries += event.get("entries", ())
            choice.calls += self._calls(event)
            choice.finish = event.get("finish", "stop")
        shown = [self._choice(place, choice) for place, choice in enumerate(choices)]
        return {**self._head("chat.completion"), "choices": shown, "usage": counts.usage()}

    async def chunks(self, events: AsyncIterator[Json]) -> AsyncIterator[Json]:
        """The chat completion as chunks; each is sent as it comes."""
        counts = Counts()
        async for event in events:
            counts.note(event)
            if event["event"] == "accepted":
                for place in range(self.answers):
                    yield self._chunk(place, {"role": "assistant", "content": "", "refusal": None}, {})
            elif event["event"] == "text":
                for chunk in self._text_chunks(event):
                    yield chunk
        if self.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": counts.usage()}

    def _text_chunks(self, event: Json) -> list[Json]:
        place = event["answer"]
        found: list[Json] = []
        if event["text"] or event.get("entries"):
            found.append(self._chunk(place, {"content": event["text"]}, event))
        calls = [{"index": number, **call} for number, call in enumerate(self._calls(event))]
        if calls:
            found.append(self._chunk(place, {"tool_calls": calls}, {}))
        if "finish" in event:
            found.append(self._chunk(place, {}, {}, finish=event["finish"]))
        return found

    def _chunk(self, place: int, delta: Json, event: Json, *, finish: str | None = None) -> Json:
        entries = event.get("entries")
        choice = {
            "index": place,
            "delta": delta,
            "logprobs": _log_probs(entries) if entries else None,
            "finish_reason": finish,
        }
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _choice(self, place: int, choice: _Choice) -> Json:
        text = "".join(choice.text)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": choice.calls}
        return {
            "index": place,
            "message": message,
            "logprobs": _log_probs(choice.entries) if self.log_probs else None,
            "finish_reason": choice.finish,
        }

    def _calls(self, event: Json) -> list[Json]:
        calls = list(event.get("calls", ()))[: 1 if self.one_call else None]
        return [{"id": new_id("call_"), "type": "function", "function": call} for call in calls]

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def _log_probs(entries: list[Json]) -> Json:
    content = [{**_entry(each), "top_logprobs": [_entry(other) for other in each["top"]]} for each in entries]
    return {"content": content, "refusal": None}


def _entry(entry: Json) -> Json:
    return {"token": entry["text"], "logprob": entry["log_prob"], "bytes": entry["bytes"]}
