"""Control tokens that message content spells, kept apart from those that the chat template writes.

A template pastes content as it stands, so a text such as `<|im_end|>` would end the turn it stands in.
Before the template runs, the first character of every control token in the content is replaced by half of a
surrogate pair, which no valid text holds: what still matches afterwards was written by the template. The
tokens then come from a copy of the tokenizer that knows the control tokens under other names, so that the
content is tokenised as the plain text that it is, and everything around it as always.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from tunewright.errors import DataError
from tunewright.types import JsonValue

_FIRST_MARK = 0xDC00
_MARK = re.compile("[\udc00-\udcff]")
_ESCAPED = re.compile(r"\\u(dc[0-9a-f]{2})")
_FIRST_ALIAS = 0x100000
_ALIASES = 0xFFFE
_FILLER = "\U0010ffff"
# These belong to what an answer says, also where a tokenizer counts them as special, and cannot forge a turn.
_MEANING = frozenset({"<think>", "</think>", "[THINK]", "[/THINK]", "<thinking>", "</thinking>"})


class ControlTokens:
    """The control tokens of one tokenizer: its special tokens, and `delimiters`, others that open or close
    turns. `added` holds all added tokens by id."""

    def __init__(
        self, backend: Tokenizer, added: Mapping[int, Any], special: Iterable[str], delimiters: Iterable[str]
    ) -> None:
        self._backend = backend
        self._added = dict(added)
        known = {token.content for token in added.values()}
        self._names = tuple(sorted({*special, *delimiters} & known - _MEANING))
        firsts = sorted({name[0] for name in self._names})
        self._marks = {first: chr(_FIRST_MARK + index) for index, first in enumerate(firsts)}
        self._unmark = {ord(mark): first for first, mark in self._marks.items()}
        self._spelled = _spelling(self._names)
        self._written = _matching(token for token in added.values())
        # A normaliser may turn other spellings into a control token, which only the copy is safe from.
        self._is_folding = backend.normalizer is not None and any(
            token.normalized for token in added.values() if token.content in self._names
        )
        self._copies: dict[int, _Copy] = {}

    def mark(self, value: JsonValue) -> JsonValue:
        """The JSON value with each control token spelled in it marked; equal to `value` without any."""
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, dict):
            return {self._mark_text(key): self.mark(each) for key, each in value.items()}
        return [self.mark(each) for each in value] if isinstance(value, list) else value

    def unescape(self, rendered: str) -> str:
        """The rendered text with the marks in it that JSON in ASCII has escaped."""
        return _ESCAPED.sub(self._unescape, rendered) if "\\udc" in rendered else rendered

    def unmark(self, text: str) -> str:
        """The text of the row again. Control tokens in it can no longer be told apart."""
        return text.translate(self._unmark)

    def is_marked(self, text: str) -> bool:
        """Whether the content of a rendered text spells a control token."""
        return _has_mark(text)

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of a rendered text and the character at which each starts: marked text as plain text,
        control tokens that the template wrote as such. Raises DataError for a text of too many private-use
        characters."""
        if self._is_folding or _has_mark(text):
            return self._copy_for(text).encode(text, self.unmark)
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def _mark_text(self, text: str) -> str:
        return self._spelled.sub(lambda match: self._marks[match.group()], text)

    def _copy_for(self, text: str) -> _Copy:
        """A copy whose names for control tokens do not stand in the text."""
        size = max(len(self._names), 1)
        taken = {(ord(char) - _FIRST_ALIAS) // size for char in set(text) if ord(char) >= _FIRST_ALIAS}
        block = next((block for block in range(_ALIASES // size) if block not in taken), None)
        if block is None:
            raise DataError(
                "the text spells control tokens and holds private-use characters of every kind",
                expected="text without characters from U+100000 on",
                code="data.control-token",
            )
        if block not in self._copies:
            first = _FIRST_ALIAS + block * size
            aliases = {name: chr(first + index) * len(name) for index, name in enumerate(self._names)}
            self._copies = {block: _Copy(self._backend, self._added, aliases, self._written)}
        return self._copies[block]

    def _unescape(self, match: re.Match[str]) -> str:
        first = self._unmark.get(int(match.group(1), 16), "")
        # The rest of a name that is not ASCII was escaped as well, and spells nothing any more.
        return self._marks[first] if first.isascii() and first else json.dumps(first)[1:-1]


class _Copy:
    """A tokenizer with the same model that knows control tokens as `aliases` of equal length."""

    def __init__(
        self,
        backend: Tokenizer,
        added: Mapping[int, Any],
        aliases: Mapping[str, str],
        written: re.Pattern[str],
    ) -> None:
        self._aliases, self._written = aliases, written
        model = backend.model
        self._tokenizer: Any = Tokenizer(model)
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        # Some vocabularies hold control tokens as pieces, which the text must not be put together to.
        pieces = [name for name in aliases if len(name) > 1 and model.token_to_id(name) is not None]
        steps: list[Any] = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        if pieces:
            # Python and Oniguruma escape alike what stands in such names.
            pattern = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in pieces)
            steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        if steps:
            self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
        self._ids = self._add_tokens(added)

    def encode(self, text: str, unmark: Any) -> tuple[list[int], list[int]]:
        renamed = self._written.sub(lambda match: self._aliases.get(match.group(), match.group()), text)
        encoding = self._tokenizer.encode(unmark(renamed), add_special_tokens=False)
        found: list[int] = encoding.ids
        return [self._ids.get(token, token) for token in found], [start for start, _ in encoding.offsets]

    def _add_tokens(self, added: Mapping[int, Any]) -> dict[int, int]:
        """Add all added tokens; returns the true id of each."""
        names = {true_id: self._aliases.get(token.content, token.content) for true_id, token in added.items()}
        # New ids follow the number of pieces, and would meet those of a vocabulary with gaps.
        pieces = self._tokenizer.get_vocab()
        gap = max(pieces.values(), default=-1) + 1 - len(pieces)
        self._tokenizer.add_tokens([f"{_FILLER}{number}" for number in range(gap)])
        self._tokenizer.add_tokens([_renamed(added[true_id], name) for true_id, name in names.items()])
        return {_id_of(self._tokenizer, name): true_id for true_id, name in names.items()}


def _renamed(token: Any, name: str) -> AddedToken:
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _id_of(tokenizer: Any, name: str) -> int:
    found = tokenizer.token_to_id(name)
    assert found is not None, name
    return found


def _has_mark(text: str) -> bool:
    return not text.isascii() and _MARK.search(text) is not None


def _spelling(names: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of every name, also where names overlap."""
    rests: dict[str, list[str]] = {}
    for name in names:
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    return re.compile(
        "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()) or r"(?!)"
    )


def _matching(tokens: Iterable[Any]) -> re.Pattern[str]:
    """Matches added tokens as the tokenizer finds them: the longest first."""
    ordered = sorted(tokens, key=lambda token: len(token.content), reverse=True)
    names = [
        rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)
        for token in ordered
    ]
    return re.compile("|".join(names) or r"(?!)")
