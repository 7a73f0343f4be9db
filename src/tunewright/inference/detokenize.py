"""From token ids, as they come, to text: whole characters only, and the bytes of each token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from tunewright.inference.vocabulary import Decodes

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class TextStream:
    """Pieces of text that joined are the text of all tokens; a character of several tokens comes whole."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # Decoding starts a few tokens back, because a token's text can depend on the one before it.
        self._start = self._shown = 0

    def push(self, token: int) -> str:
        """What can be shown now that this token came."""
        self._ids.append(token)
        piece = self._piece()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return piece

    def rest(self) -> str:
        """What is left when no token follows: half a character is shown as such."""
        piece = self._piece()
        self._start = self._shown = len(self._ids)
        return piece

    def _piece(self) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        return self._decode(self._ids[self._start :])[len(before) :]


class TokenBytes:
    """The bytes that each token stands for, by the kind of the tokenizer's vocabulary."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._backend: Any = tokenizer.backend
        self._added: dict[int, Any] = self._backend.get_added_tokens_decoder()
        decoder: Any = self._backend.decoder
        kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set[str]()
        self._letters = _byte_letters() if "ByteLevel" in kinds else None

    def of(self, token: int) -> bytes:
        """The bytes of one token."""
        if token in self._added:
            return str(self._added[token].content).encode()
        piece = str(self._backend.id_to_token(token) or "")
        if self._letters is not None:
            return bytes(self._letters[letter] for letter in piece if letter in self._letters)
        match = _BYTE_PIECE.fullmatch(piece)
        return bytes.fromhex(match[1]) if match else piece.replace("▁", " ").encode()


def _kinds(decoder: dict[str, Any]) -> set[str]:
    inner = cast("list[dict[str, Any]]", decoder.get("decoders", []))
    return {str(decoder.get("type"))}.union(*map(_kinds, inner))


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in vocabularies of the GPT-2 kind: itself where it can be seen,
    else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    letters = {chr(byte): byte for byte in seen}
    letters.update((chr(256 + place), byte) for place, byte in enumerate(unseen))
    return letters
