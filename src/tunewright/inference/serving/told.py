"""What one answer tells its caller: text as it can be shown, cut at stop strings, tool calls taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.inference.batch import Likely
from tunewright.inference.detokenize import TextStream, TokenBytes
from tunewright.inference.tool_calls import CallFormat
from tunewright.inference.vocabulary import Decodes
from tunewright.types import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]
Json = dict[str, Any]
NEVER = -9999.0
"""In place of minus infinity, which JSON does not have."""


@dataclass(slots=True)
class Voice:
    """What the answers of one model need to be told."""

    tokenizer: Decodes
    token_bytes: TokenBytes

    def entry(self, token: int, log_prob: float | None, top: Sequence[tuple[int, float]]) -> Json:
        """A token with its log-probability, as it is sent."""
        return {
            **self._token(token),
            "log_prob": None if log_prob is None else max(log_prob, NEVER),
            "top": [{**self._token(other), "log_prob": max(value, NEVER)} for other, value in top],
        }

    def _token(self, token: int) -> Json:
        raw = self.token_bytes.of(token)
        return {"text": raw.decode("utf-8", errors="replace"), "bytes": list(raw)}


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to show next, and the log-probabilities of the tokens that it came with."""

    text: str
    entries: Sequence[Json]


class Told:
    """The telling of one answer. finish is set once nothing more is told."""

    def __init__(self, voice: Voice, stops: Sequence[str], calls: CallFormat | None) -> None:
        self.finish: FinishReason | None = None
        self.calls: Sequence[ToolCall] = ()
        self._voice = voice
        self._stops = tuple(stops)
        self._format = calls
        self._marker = calls.marker if calls else ""
        self._marker_id = self._special_marker()
        self._stream = self._new_stream()
        self._held = ""
        self._in_call = False
        self._decoded = self._shown = 0
        self._entries: list[tuple[int, Json]] = []

    def take(self, token: int, likely: Likely | None) -> Piece:
        """The answer's next token."""
        if likely is not None:
            self._entries.append((self._decoded, self._voice.entry(token, likely.log_prob, likely.top)))
        if token == self._marker_id:
            self._hold(self._stream.rest() + self._marker)
            self._stream = self._new_stream()
        else:
            self._hold(self._stream.push(token))
        return self._release()

    def end(self, reason: FinishReason) -> Piece:
        """No token follows."""
        self._hold(self._stream.rest())
        piece = self._release(last=True)
        if self.finish is None:
            self.finish = "tool_calls" if self.calls else reason
        return piece

    def _hold(self, text: str) -> None:
        self._held += text
        self._decoded += len(text)

    def _release(self, *, last: bool = False) -> Piece:
        cut = min((place for stop in self._stops if (place := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self._held = self._held[:cut]
            self.finish = "stop"
            last = True
        self._in_call = self._in_call or self._begins_call()
        if last and self._in_call:
            return self._end_in_call(is_cut=cut >= 0)
        return self._show(len(self._held) if last else self._safe_length(), everything=last and cut < 0)

    def _begins_call(self) -> bool:
        if self._format is None:
            return False
        if self._marker:
            return self._marker in self._held
        return self._shown == 0 and self._held.lstrip().startswith("{")

    def _end_in_call(self, *, is_cut: bool) -> Piece:
        place = self._held.find(self._marker) if self._marker else 0
        self.calls = self._format.parse(self._held[place:]) if self._format else ()
        if self.calls:
            self._held = self._held[:place].rstrip()
            self.finish = "tool_calls"
        return self._show(len(self._held), everything=not is_cut)

    def _safe_length(self) -> int:
        """How much of what is held belongs to no stop string and no call, whatever follows."""
        if self._in_call:
            return self._held.find(self._marker) if self._marker else 0
        if self._format is not None and not self._marker and not self._shown and not self._held.strip():
            return 0
        watched = (*self._stops, self._marker) if self._marker else self._stops
        return len(self._held) - max((_overlap(self._held, word) for word in watched), default=0)

    def _show(self, count: int, *, everything: bool) -> Piece:
        text, self._held = self._held[:count], self._held[count:]
        self._shown += len(text)
        told = [entry for start, entry in self._entries if everything or start < self._shown]
        self._entries = self._entries[len(told) :]
        return Piece(text, told)

    def _special_marker(self) -> int | None:
        tokenizer = self._voice.tokenizer
        token = tokenizer.backend.token_to_id(self._marker) if self._marker else None
        # Decoding leaves special tokens out; this one has to be seen.
        return token if token in tokenizer.special_ids else None

    def _new_stream(self) -> TextStream:
        return TextStream(self._voice.tokenizer.decode)


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that `word` begins with."""
    longest = min(len(text), len(word) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(word[:size])), 0)
