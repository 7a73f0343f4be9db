"""The grammar that an answer keeps to, in the words of llguidance: JSON of a schema, calls of tools.

Calls are written as the model's chat template writes them, control tokens by their ids. Nothing is put into
the prompt: the first token of an answer may begin the grammar's text and go beyond, as the model was trained
to cut it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.inference.tool_calls import CALL_ID, PROBE, CallFormat

MAX_CALLS = 16
JSON_OPTIONS = {
    # A space, or a line with its indentation: a model cannot go on with white space for ever.
    "whitespace_pattern": r" |\n[ \t]{0,24}",
    # One way to spell a text: else a key could be spelled in a way that the schema does not know.
    "json_allowed_escapes": 'nrbtf\\"',
}


@dataclass(frozen=True, slots=True)
class Grammar:
    """Text of a JSON schema that an answer keeps to, or names of tools with the schemas of their arguments,
    which it calls; one of the two when both are there. many: it may call more than one."""

    schema: str | None = None
    tools: Sequence[tuple[str, str]] = ()
    many: bool = False

    @property
    def must_call(self) -> bool:
        """Whether a call is all that is allowed."""
        return bool(self.tools) and self.schema is None


def write_grammar(grammar: Grammar, calls: CallFormat | None, tokens: Mapping[str, int]) -> str:
    """The grammar as llguidance reads it. tokens: ids of the tokens that are no text."""
    rules: list[str] = []
    starts: list[str] = []
    if grammar.schema is not None:
        starts.append("answer")
        rules.append(f"answer: {_json(grammar.schema)}")
    # A bare call looks like an answer, which then says all that it is asked for.
    if calls is not None and grammar.tools and (grammar.must_call or calls.marker):
        starts.append("calls")
        rules += _calls(grammar, calls, tokens)
    # Each forced text may be cut into tokens as the model likes.
    head = '%llguidance {"no_forcing": true}'
    return "\n".join([head, f"start: {' | '.join(starts)}", *rules])


def _calls(grammar: Grammar, calls: CallFormat, tokens: Mapping[str, int]) -> Iterator[str]:
    more = ""
    if grammar.many and calls.between is not None:
        more = f"({' '.join(_literal(calls.between, tokens))} call){{0,{MAX_CALLS - 1}}}"
    parts = [*_literal(calls.opening, tokens), "call", more, *_literal(calls.closing, tokens)]
    yield f"calls: {' '.join(parts)}"
    yield f"call: {' | '.join(f'call{place}' for place in range(len(grammar.tools)))}"
    for place, (name, schema) in enumerate(grammar.tools):
        head, tail = (_call_part(text, name) for text in (calls.head, calls.tail))
        yield f"call{place}: {head} arguments{place} {tail}"
        yield f"arguments{place}: {_json(schema)}"


def _call_part(text: str, name: str) -> str:
    text = text.replace(json.dumps(PROBE), json.dumps(name, ensure_ascii=False))
    return f" /[a-zA-Z0-9]{{{len(CALL_ID)}}}/ ".join(_quote(part) for part in text.split(CALL_ID))


def _literal(text: str, tokens: Mapping[str, int]) -> Iterator[str]:
    names = sorted((name for name in tokens if name in text), key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    for part in parts:
        if part in tokens:
            yield f"<[{tokens[part]}]>"
        elif part:
            yield _quote(part)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: str) -> str:
    options: dict[str, Any] = {"x-guidance": JSON_OPTIONS}
    return "%json " + json.dumps({**json.loads(schema), **options}, ensure_ascii=False)
