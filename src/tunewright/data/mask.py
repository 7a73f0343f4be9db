"""Rows as token ids with a loss weight per token.

Weights come from character spans through the offsets of one tokenisation of the whole text: a token
belongs to the span in which it starts. Nothing is ever masked by pad id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.config.schema import DataConfig
from tunewright.data.dropped import DroppedPart
from tunewright.data.spans import Rendering, find_spans
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Conversation, Example, Row, SourceRef, TextRow

# Array letters: T tokens of a row.


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """The examples of one row before the length rule, and what the report counts (see RowSpans).

    spells_control: content holds text of control tokens, which was read as text."""

    examples: tuple[Example, ...]
    missing_end: int = 0
    shifted_prompts: int = 0
    left_out: int = 0
    dropped: tuple[DroppedPart, ...] = ()
    spells_control: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(len(example) for example in self.examples)


def build_examples(row: Row, tokenizer: ChatTokenizer, data: DataConfig) -> list[Example]:
    """Token ids and loss weights of one row, at any length; several when the template needs it.

    Raises DataError, naming the row, when the template refuses it or no token of it would be trained.
    """
    return list(render_row(row, tokenizer, data).examples)


def render_row(row: Row, tokenizer: ChatTokenizer, data: DataConfig) -> RenderedRow:
    """As build_examples, with the counts of the data report."""
    try:
        tokenizer = tokenizer if data.control_tokens == "text" else tokenizer.parsing_control_tokens()
        rendered = _text_row(row, tokenizer) if isinstance(row, TextRow) else _chat_row(row, tokenizer, data)
        if not any(example.weights_T.any() for example in rendered.examples):
            raise DataError(
                "no token of this row would be trained",
                expected="an answer with a loss weight above 0",
                hint="check that the row has an answer, and the weights of its messages",
                code="data.no-trained-token",
            )
    except DataError as error:
        error.where = error.where or str(row.source)
        raise
    return rendered


def _chat_row(row: Conversation, tokenizer: ChatTokenizer, data: DataConfig) -> RenderedRow:
    spans = find_spans(row, tokenizer, data)
    return RenderedRow(
        tuple(_label(rendering, tokenizer, row.source) for rendering in spans.renderings),
        missing_end=spans.missing_end,
        shifted_prompts=spans.shifted_prompts,
        left_out=spans.left_out,
        dropped=spans.dropped,
        spells_control=any(tokenizer.control.is_marked(rendering.text) for rendering in spans.renderings),
    )


def _label(rendering: Rendering, tokenizer: ChatTokenizer, source: SourceRef) -> Example:
    ids, starts = tokenizer.encode_rendered(rendering.text)
    check_single_bos(ids, tokenizer.bos_id)
    starts_T = np.asarray(starts, dtype=np.int64)
    weights_T = np.zeros(len(ids), dtype=np.float32)
    for start, end, weight in rendering.spans:
        weights_T[(starts_T >= start) & (starts_T < end)] = weight
    return _example(ids, weights_T, source)


def _text_row(row: TextRow, tokenizer: ChatTokenizer) -> RenderedRow:
    """Segments tokenised as one text, with the start tokens of the tokenizer and its eos as the last label.

    The eos carries the weight of the last segment. Without an eos token the end cannot be learnt, which
    counts as a missing end.
    """
    text = "".join(segment for segment, _ in row.segments)
    ids, starts = tokenizer.encode(text)
    prefix = [] if ids[:1] == tokenizer.text_prefix_ids[:1] else tokenizer.text_prefix_ids
    starts_T = np.asarray(starts, dtype=np.int64)
    weights_T = np.zeros(len(ids), dtype=np.float32)
    at = 0
    for segment, weight in row.segments:
        weights_T[(starts_T >= at) & (starts_T < at + len(segment))] = weight
        at += len(segment)
    end = [] if tokenizer.eos_id is None or ids[-1:] == [tokenizer.eos_id] else [tokenizer.eos_id]
    end_weight = row.segments[-1][1] if row.segments else 0.0
    all_ids = [*prefix, *ids, *end]
    check_single_bos(all_ids, tokenizer.bos_id)
    weights_T = np.concatenate(
        [np.zeros(len(prefix), np.float32), weights_T, np.full(len(end), end_weight, np.float32)]
    )
    example = _example(all_ids, weights_T, row.source)
    return RenderedRow((example,), missing_end=int(tokenizer.eos_id is None))


def check_single_bos(ids: Sequence[int], bos_id: int | None) -> None:
    """Raise DataError when a row starts with the bos token twice."""
    if bos_id is not None and list(ids[:2]) == [bos_id, bos_id]:
        raise DataError(
            "the row starts with the bos token twice",
            hint="remove the bos token from the data or from the chat template",
            code="data.double-bos",
        )


def _example(ids: Sequence[int], weights_T: np.ndarray, source: SourceRef) -> Example:
    tokens_T = np.asarray(ids, dtype=np.int32)
    if len(weights_T):
        weights_T[0] = 0.0  # nothing predicts the first token
    return Example(tokens_T, weights_T.astype(np.float32, copy=False), source)
