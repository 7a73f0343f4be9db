"""Rows that are not supervised text and would train on the wrong thing if read as such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from tunewright.data.formats.field import describe
from tunewright.errors import DataError

BETTER_KEYS = ("chosen", "preferred_output")
WORSE_KEYS = (
    "rejected",
    "rejected_response",
    "rejected_messages",
    "rejected_conversations",
    "rejected_output",
    "rejected_answer",
    "non_preferred_output",
)
"""Answers that are better or worse than another one, in files of TRL, LLaMA-Factory, ms-swift and OpenAI."""
VERDICT_KEYS = (
    "label",
    "kto_tag",
    "kto_label",
    "desirable",
    "is_desirable",
    "preferred",
    "is_preferred",
    "is_chosen",
    "is_rejected",
    "accepted",
    "is_accepted",
    "is_good",
    "is_bad",
    "correct",
    "is_correct",
    "thumbs_up",
    "thumbs_down",
)
"""True or false: whether the answer of the row, or the turn itself, is a good one."""
ROW_FLAGS = ("train", "training", "trainable", "loss")
ROW_WEIGHTS = ("weight", "loss_weight", "loss_scale", "sample_weight")
MEDIA_KEYS = ("images", "image", "audios", "audio", "videos", "video")
_CHAT_KEYS = ("messages", "conversations", "instruction", "prompt")
# CSV has nothing but text.
_TEXTS = {"true": True, "false": False}
_DIGITS = {"1": True, "0": False}


def check_supervised(fields: Mapping[str, object], where: str, mapped: Iterable[str] = ()) -> None:
    """Raise DataError for preference rows, rows marked as bad or not to be trained, and rows with images,
    audio or video. mapped: columns that were mapped to fields of the format; with a better answer among them,
    the worse one beside it is left alone."""
    pairs = BETTER_KEYS if any(column in BETTER_KEYS for column in mapped) else (*BETTER_KEYS, *WORSE_KEYS)
    for key in pairs:
        if fields.get(key) not in (None, ""):
            raise _preference(f"a row with `{key}`", where)
    check_verdicts(fields, where)
    for key in (*ROW_FLAGS, *ROW_WEIGHTS):
        _check_row_weight(key, fields.get(key), where)
    for key in MEDIA_KEYS:
        if fields.get(key):
            raise DataError(
                "this row has images, audio or video, which cannot be trained on yet",
                where=where,
                got=f"`{key}`",
                expected="text only",
                code="data.not-text",
            )


def check_verdicts(fields: Mapping[str, object], where: str, turn: str = "") -> None:
    """Raise DataError for a row, or a turn of that name, that is said to be good or bad."""
    # Raw text beside a `label` of 0 and 1 is data of a classifier.
    is_raw = "text" in fields and not any(key in fields for key in _CHAT_KEYS) and not turn
    for key in VERDICT_KEYS:
        value = fields.get(key)
        if _truth(value, numbers=not is_raw) is not None or (key == "kto_tag" and value is not None):
            name = f"{turn}.{key}" if turn else key
            raise _preference(f"`{name}`, {describe(value)}", where)
    labels = fields.get("labels")
    if isinstance(labels, list) and any(isinstance(each, bool) for each in cast("list[object]", labels)):
        raise _preference("`labels` of true and false", where)


def _check_row_weight(key: str, value: object, where: str) -> None:
    # A figure called `loss` or `train` tells of some training before, not of this one.
    truth = _truth(value, numbers=key in ROW_WEIGHTS)
    is_number = key in ROW_WEIGHTS and isinstance(value, (int, float)) and not isinstance(value, bool)
    if truth is True or (truth is None and not is_number):
        return
    raise DataError(
        "a row that is not to be trained" if truth is False else "a row with a weight of its own",
        where=where,
        got=f"`{key}`, {describe(value)}",
        expected="rows that all count the same",
        hint="leave such rows out of the file, or put the flag on its turns, which may have `weight` 0",
        code="data.row-weight",
    )


def _truth(value: object, *, numbers: bool) -> bool | None:
    """What a flag says, also as text or as 0 and 1; None for anything else."""
    if isinstance(value, str):
        return (_TEXTS | _DIGITS if numbers else _TEXTS).get(value.strip().lower())
    if isinstance(value, bool):
        return value
    return bool(value) if numbers and isinstance(value, (int, float)) and value in (0, 1) else None


def _preference(got: str, where: str) -> DataError:
    return DataError(
        "this looks like preference data, which cannot be trained on yet",
        where=where,
        got=got,
        expected="rows with one answer each, all of them good, see docs/reference/formats.md",
        hint="to train on the better answers alone, map them (`columns`) or write them out as messages or "
        "alpaca rows; a column that says something else needs another name",
        code="data.preference",
    )
