"""Constrained decoding with llguidance: which tokens may come next in an answer that keeps to a grammar.

llguidance is imported on use only. What a grammar costs is bounded for each token; what it costs to prepare
is not, so that check_grammar has to survive it in a process of its own first. W words of 32 tokens each, V
vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError, EngineError
from tunewright.inference.closing import ClosingTokens, JsonPosition
from tunewright.inference.detokenize import TokenBytes
from tunewright.inference.vocabulary import Vocabulary

MAX_LEXER_STATES = 30_000
"""Of 1 to 2 kB each."""
_CAUSE = re.compile(r"failed to compile JSON schema: (.*)")
MAX_CAUSE = 200


class Constraint:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any, vocabulary: GrammarVocabulary, position: JsonPosition) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._position = position

    def copy(self) -> Constraint:
        """The same state for another answer."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary, self._position.copy())

    @property
    def error(self) -> str:
        """Why the grammar cannot be followed any further; empty while it can."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    def allowed(self, *, closing: bool) -> NDArray[np.bool_]:
        """The tokens that may come next, [V]; closing: those that lead to the end."""
        size = len(self._vocabulary.tokens)
        words_W = np.zeros((size + 31) // 32, np.int32)
        self._matcher.unsafe_compute_mask_ptr(words_W.ctypes.data, words_W.nbytes)
        allowed_V = np.unpackbits(words_W.view(np.uint8), count=size, bitorder="little").view(np.bool_)
        return self._vocabulary.closing.narrow(allowed_V, self._position) if closing else allowed_V

    def take(self, token: int) -> bool:
        """Go on with a token. Whether nothing may follow it."""
        self._matcher.consume_token(token)
        self._position.take(self._vocabulary.tokens[token])
        return bool(self._matcher.is_stopped())


class GrammarVocabulary:
    """The tokens of one model, as grammars see them. Takes a moment for a large vocabulary."""

    def __init__(self, vocabulary: Vocabulary, token_bytes: TokenBytes) -> None:
        self.tokens = [token_bytes.of(token) for token in range(vocabulary.largest_id + 1)]
        special = vocabulary.special_ids | vocabulary.stop_ids
        self._tokenizer = _tokenizer(self.tokens, special, sorted(vocabulary.stop_ids))
        for token in special:
            self.tokens[token] = b""
        self.closing = ClosingTokens(self.tokens, vocabulary.stop_ids)

    def constrain(self, grammar: str) -> Constraint:
        """The beginning of an answer that keeps to a grammar. Raises ConfigError for one that is wrong."""
        return Constraint(_matcher(self._tokenizer, grammar), self, JsonPosition())


def check_grammar(grammar: str) -> None:
    """Prepare a grammar for a vocabulary of bytes: that tells all that can be wrong with it, and takes what
    it takes. Raises ConfigError."""
    tokens = [bytes([byte]) for byte in range(256)]
    matcher = _matcher(_tokenizer([*tokens, b"<end>"], {256}, [256]), grammar)
    matcher.compute_bitmask()
    if matcher.is_error():
        raise _bad_grammar(str(matcher.get_error()))


def import_llguidance() -> Any:
    """The library. Raises EngineError when it is not installed."""
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise EngineError(
            "JSON answers and forced tool calls need llguidance, which is not installed",
            where="response_format",
            hint="pip install 'tunewright[service]'",
            code="engine.no-llguidance",
        ) from error


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end

    def __call__(self, text: bytes | str) -> list[int]:
        raise AssertionError("no text is forced, so none is made into tokens")


def _tokenizer(tokens: Sequence[bytes], special: set[int] | frozenset[int], ends: Sequence[int]) -> Any:
    library = import_llguidance()
    if not ends:
        raise ConfigError(
            "the model has no token that ends an answer", where="response_format", code="config.bad-schema"
        )
    wrapper = library.TokenizerWrapper(_Vocabulary(tokens, sorted(special), ends[0]))
    return library.LLTokenizer(wrapper, eos_token=list(ends))


def _matcher(tokenizer: Any, grammar: str) -> Any:
    library = import_llguidance()
    limits = library.LLParserLimits(
        max_lexer_states=MAX_LEXER_STATES, precompute_large_lexemes=False, verbose_errors=False
    )
    matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise _bad_grammar(str(matcher.get_error()))
    return matcher


def _bad_grammar(message: str) -> ConfigError:
    found = _CAUSE.search(message)
    cause = (found[1] if found else message.partition("\n")[0]).strip()
    return ConfigError(
        f"the JSON schema cannot be kept to: {cause[:MAX_CAUSE]}",
        where="response_format",
        code="config.bad-schema",
    )
