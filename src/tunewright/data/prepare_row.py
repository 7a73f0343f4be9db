"""From one row to the examples that it trains on: rendered, tokenised and put through the length rule."""

from __future__ import annotations

from tunewright.config.schema import DataConfig
from tunewright.data.length import Fit, fit_length
from tunewright.data.mask import RenderedRow, render_row
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Example, Row


def prepare_row(row: Row, tokenizer: ChatTokenizer, data: DataConfig) -> tuple[Example, ...]:
    """The examples of a row: one, several parts, or none when the length rule leaves it out.

    Raises DataError, naming the row, when it cannot be trained on.
    """
    return fit_rendered(row, render_row(row, tokenizer, data), data).examples


def fit_rendered(row: Row, rendered: RenderedRow, data: DataConfig) -> Fit:
    """The length rule on a rendered row. Raises DataError `data.overlong` where the rule is `error`."""
    fit = fit_length(rendered.examples, data.seq_len, data.overlong)
    if fit.outcome == "too long":
        raise DataError(
            "the row is too long",
            where=str(row.source),
            got=f"{rendered.longest} tokens",
            expected=f"at most data.seq_len = {data.seq_len}",
            hint="raise data.seq_len, or set data.overlong to truncate, split or drop",
            code="data.overlong",
        )
    return fit
