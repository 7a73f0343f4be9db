"""The loss weight of a turn, 0 or 1, on assistant turns, under the names that tools give it."""

from __future__ import annotations

from typing import cast

from tunewright.data.formats.field import Field
from tunewright.data.formats.refused import check_verdicts
from tunewright.types import Role

WEIGHTS = ("weight", "loss_weight", "loss_scale")
"""Numbers: OpenAI's name first."""
FLAGS = ("train", "training", "trainable", "loss")
"""True or false: axolotl's, ms-swift's and LLaMA-Factory's names."""
REFUSED = (
    "mask",
    "masked",
    "loss_mask",
    "masking",
    "ignore",
    "train_detail",
    "training_detail",
    "train_on_inputs",
)
"""Names for parts of a turn, or for which tools disagree whether true means trained."""


def read_weight(turn: Field, role: Role) -> float | None:
    """0.0 or 1.0 for an assistant turn, None where nothing is given. A 0 on other turns says nothing new.

    Raises DataError for other values, flags that disagree, and flags that have no place here.
    """
    for key in REFUSED:
        if not (field := turn.child(key)).is_absent:
            raise field.error(
                "cannot be followed",
                code="data.bad-weight",
                expected="`weight`, 0 or 1, on the whole turn",
                hint="a turn with weight 0 is shown to the model and not trained",
            )
    check_verdicts(cast("dict[str, object]", turn.value), str(turn.source), turn.name)
    given = [
        (field, _read(field, is_flag=key in FLAGS))
        for key in (*WEIGHTS, *FLAGS)
        if not (field := turn.child(key)).is_absent
    ]
    if not given:
        return None
    if len({weight for _, weight in given}) > 1:
        names = " and ".join(field.name for field, _ in given)
        raise turn.error(
            "has weights that disagree", code="data.bad-weight", got=names, expected="one of them"
        )
    field, weight = given[0]
    if role == "assistant":
        return weight
    if weight:
        shown = "1" if field.name.endswith(WEIGHTS) else "true"
        raise field.error(
            f"is {shown} on a {role} turn",
            code="data.bad-weight",
            expected="only assistant turns are trained",
        )
    return None


def _read(field: Field, *, is_flag: bool) -> float:
    value, expected = field.value, "true or false" if is_flag else "0 or 1"
    if is_flag and isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise field.wrong_type(expected)
    if value not in (0, 1):
        raise field.error("is not a weight", code="data.bad-weight", got=str(value), expected=expected)
    return float(value)
