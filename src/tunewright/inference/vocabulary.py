"""The part of a tokenizer that writes text: from ids to words, without the template and what reads text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer


class Decodes(Protocol):
    """What writing needs of a tokenizer; ChatTokenizer has it too."""

    @property
    def backend(self) -> Tokenizer: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """As the prompt process wrote it down. largest_id: of all tokens that a prompt can have."""

    backend: Tokenizer
    special_ids: frozenset[int]
    stop_ids: frozenset[int]
    largest_id: int

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids. Special tokens are left out unless `skip_special` is False."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))
