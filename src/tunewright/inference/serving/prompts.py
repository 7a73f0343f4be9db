"""Prompts into tokens, in a process that may die of it: python -m tunewright.inference.serving.prompts.

Chat templates and tokenizers are foreign. jinja2's sandbox keeps a template from reaching out of itself, but
nothing keeps it or a tokenizer from computing for ever or from filling the memory, and some of what they do
cannot be interrupted. So the system ends this process when an order takes more than its limits; the model
server says so and starts another one. It reads a JSON object a line and answers each with one:

    {"do": "open", "folder", "save"}   a tokenizer; its vocabulary is written to `save` → {"stop_ids", …}
    {"do": "grammar", "folder", "grammar"}   fields of Grammar → {"text"}, which an answer can keep to
    {"do": "read", "folder", "messages" and "tools" or "prompt", "most", …}
                                       → {"count", "calls", "tokens" unless there are more than `most`}
    a refusal is {"error": {what, where, got, expected, code}}
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import DataError, ModelError, TunewrightError
from tunewright.inference.constraint import check_grammar
from tunewright.inference.grammar import Grammar, write_grammar
from tunewright.inference.tool_calls import BARE_CALL, CallFormat, find_call_format, knows_tools
from tunewright.types import Message, ToolCall

READ_SECONDS, OPEN_SECONDS = 2, 3
"""Of computing, for one order; the system counts whole seconds, so that it may become one more. A prompt of
1 MB takes 0.7 s, opening a tokenizer of 262,000 tokens and as many merges 1.7 s."""
READ_BYTES, OPEN_BYTES = 160 * 2**20, 768 * 2**20
"""What one order may add to this process. Only Linux holds a process to it."""
MOST_TOKENS = 600_000
"""Of a vocabulary; twice the largest that models have."""
MOST_GROWTH = 8
"""Times that a decoder may make a text longer."""
NO_MEMORY = 75
"""Exit code of a process that an order would have made too large."""
KEPT = 8
LONGEST_MESSAGE = 1000

Json = dict[str, Any]
log = logging.getLogger("tunewright.inference")


def main() -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prompts = Prompts()
    for line in sys.stdin:
        out.write(json.dumps(prompts.answer(json.loads(line))) + "\n")
        out.flush()


class Prompts:
    """The tokenizers in use."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Opened] = OrderedDict()

    def answer(self, order: Mapping[str, Any]) -> Json:
        """Do what an order says. Ends the process when there is no memory for it."""
        try:
            opened = self._opened(order["folder"])
            if order["do"] == "open":
                return opened.told(Path(order["save"]))
            limit_more(READ_SECONDS, READ_BYTES)
            return opened.grammar(order) if order["do"] == "grammar" else opened.read(order)
        except MemoryError:
            # What is left of the order cannot be trusted to leave memory for the next one.
            os._exit(NO_MEMORY)
        except TunewrightError as error:
            return _refusal(error)
        except BaseException as error:
            # Foreign code fails in ways of its own; a panic of the tokenizers' Rust is no Exception.
            log.error("a prompt could not be read", exc_info=error)
            return _refusal(_broken(error))

    def _opened(self, folder: str) -> _Opened:
        if folder not in self._known:
            limit_more(OPEN_SECONDS, OPEN_BYTES)
            self._known[folder] = _Opened(load_tokenizer(Path(folder), None))
        self._known.move_to_end(folder)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[folder]


class _Opened:
    def __init__(self, tokenizer: ChatTokenizer) -> None:
        _check_vocabulary(tokenizer)
        self._tokenizer = tokenizer
        self._formats: list[CallFormat | None] = []

    def told(self, save: Path) -> Json:
        """What the model server needs in order to write text, with the vocabulary in a file."""
        tokenizer = self._tokenizer
        backend: Any = tokenizer.backend
        # The model server only decodes: what could do harm in it is left out.
        kept = backend.normalizer, backend.pre_tokenizer
        backend.normalizer = backend.pre_tokenizer = None
        backend.save(str(save), pretty=False)
        backend.normalizer, backend.pre_tokenizer = kept
        return {
            "stop_ids": list(tokenizer.stop_ids),
            "special_ids": sorted(tokenizer.special_ids),
            "largest_id": tokenizer.largest_id,
        }

    def grammar(self, order: Mapping[str, Any]) -> Json:
        """The text of a grammar, tried here."""
        grammar = Grammar(**order["grammar"])
        calls = self._written_calls(must_call=grammar.must_call) if grammar.tools else None
        check_grammar(write_grammar(grammar, calls, {}))
        added: dict[int, Any] = self._tokenizer.backend.get_added_tokens_decoder()
        tokens = {str(token.content): number for number, token in added.items()}
        return {"text": write_grammar(grammar, calls, tokens)}

    def read(self, order: Mapping[str, Any]) -> Json:
        """The tokens of a prompt, and how calls of its tools are written."""
        messages = [message_of(fields) for fields in order["messages"]]
        tools: list[str] = order["tools"]
        must_call: bool = order["must_call"]
        if tools and not must_call:
            self._check_tools(messages, tools)
        calls = self._written_calls(must_call=must_call) if tools else None
        if messages:
            tokens = self._tokenizer.encode_prompt(messages, tools, order["template_options"])
        else:
            tokens = self._tokenizer.encode_plain(order["prompt"])
        told: Json = {"count": len(tokens), "calls": asdict(calls) if calls else None}
        most = order["most"]
        return told if most is not None and len(tokens) > most else {**told, "tokens": tokens}

    def _check_tools(self, messages: list[Message], tools: list[str]) -> None:
        if not knows_tools(self._tokenizer, messages, tools):
            raise DataError(
                "the chat template of this model has no place for tools",
                where="tools",
                code="config.no-tools",
            )

    def _written_calls(self, *, must_call: bool) -> CallFormat | None:
        if not self._formats:
            self._formats.append(find_call_format(self._tokenizer))
        # A grammar makes any model call; one that is free to call does so as it was trained to, or not.
        return self._formats[0] or (BARE_CALL if must_call else None)


def limit_more(seconds: float, bytes_: int) -> None:
    """Let this process take so much more than it has taken so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = _data_bytes() + bytes_
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def message_of(fields: Mapping[str, Any]) -> Message:
    """A message from its fields, as a line has them."""
    calls = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    return Message(**{**fields, "tool_calls": calls})


def _data_bytes() -> int:
    """What RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmData:")).split()[1])


def _check_vocabulary(tokenizer: ChatTokenizer) -> None:
    backend: Any = tokenizer.backend
    size = int(backend.get_vocab_size(with_added_tokens=True))
    if size > MOST_TOKENS:
        raise ModelError(
            "the tokenizer has too many tokens",
            got=size,
            expected=f"at most {MOST_TOKENS}",
            code="model.costly-to-read",
        )
    decoder: Json = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    if _growth(decoder) > MOST_GROWTH:
        raise ModelError(
            "the decoder of the tokenizer makes long texts of short ones, or takes patterns",
            code="model.costly-to-read",
        )


def _growth(decoder: Json) -> float:
    """How much longer a decoder may make a text."""
    if decoder.get("type") == "Sequence":
        return math.prod(_growth(inner) for inner in decoder["decoders"])
    if decoder.get("type") != "Replace":
        return 1.0
    pattern = decoder["pattern"].get("String")
    # A regular expression can take for ever on thirty characters.
    return math.inf if not pattern else max(1.0, len(decoder["content"]) / len(pattern))


def _broken(error: BaseException) -> TunewrightError:
    return DataError(
        f"the chat template or the tokenizer of the model fails: {type(error).__name__}: {error}",
        code="data.template-refused",
    )


def _refusal(error: TunewrightError) -> Json:
    what = error.what if len(error.what) <= LONGEST_MESSAGE else f"{error.what[:LONGEST_MESSAGE]}…"
    got = None if error.got is None else str(error.got)[:LONGEST_MESSAGE]
    fields = {"where": error.where, "got": got, "expected": error.expected, "code": error.code}
    return {"error": {"what": what, **fields}}


if __name__ == "__main__":
    main()
