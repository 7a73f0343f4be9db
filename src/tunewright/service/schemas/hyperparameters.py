"""The hyperparameters of a job: OpenAI's three, and ours for adapters, which `extra_body` brings along."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

AUTO = "auto"

MODULE_NAME = r"^[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,7}$"
MOST_MODULES = 64
ModuleName = Annotated[str, Field(pattern=MODULE_NAME)]


def _whole(low: int, high: int) -> PlainValidator:
    def check(value: Any) -> Any:
        if value is None or value == AUTO:
            return AUTO
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f'expected a whole number from {low} to {high}, or "auto"')
        return value

    kind = Annotated[int, Field(ge=low, le=high)] | Literal["auto"]
    return PlainValidator(check, json_schema_input_type=kind)


def _above_zero(value: Any) -> Any:
    if value is None or value == AUTO:
        return AUTO
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError('expected a number above 0 and below 1000000, or "auto"')
    return float(value)


def _one_or_more(value: Any) -> Any:
    if value == "all-linear":
        return value
    # One name stands for a list of one, but for the word that means all linear layers.
    names = cast("list[object]", value if isinstance(value, list) else [value])
    if not 1 <= len(names) <= MOST_MODULES or not all(map(_is_module_name, names)):
        raise ValueError(f'expected "all-linear", or 1 to {MOST_MODULES} names of modules such as "q_proj"')
    return names


def _is_module_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(MODULE_NAME, value) is not None


class Hyperparameters(BaseModel):
    """What a job may set; whatever is left out follows the defaults of the run file.

    With `auto`, n_epochs is 3, batch_size grows with the number of rows up to 16, and the learning rate is
    that of the run file for adapters or for full training.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    n_epochs: Annotated[int | Literal["auto"], _whole(1, 50)] = AUTO
    """Passes over the training file."""
    batch_size: Annotated[int | Literal["auto"], _whole(1, 256)] = AUTO
    """Examples per optimizer step."""
    learning_rate_multiplier: Annotated[
        float | Literal["auto"],
        PlainValidator(
            _above_zero, json_schema_input_type=Annotated[float, Field(gt=0, lt=1e6)] | Literal["auto"]
        ),
    ] = AUTO
    """Factor on the default learning rate."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The peak learning rate itself, in place of a multiplier."""
    use_lora: bool | None = None
    """Train a LoRA adapter (the default), or every weight."""
    lora_r: Annotated[int, Field(ge=1, le=1024)] | None = None
    """LoRA rank."""
    lora_alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """LoRA scale: the update is multiplied by alpha / rank."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout on the adapter's input."""
    lora_target_modules: (
        Annotated[
            Literal["all-linear"] | Annotated[list[ModuleName], Field(min_length=1, max_length=MOST_MODULES)],
            BeforeValidator(_one_or_more),
        ]
        | None
    ) = None
    """Modules that get an adapter: names, or `all-linear`."""
    lora_bias: Literal["none", "all", "lora_only"] | None = None
    """Which biases train as well."""
    use_qlora: bool | None = None
    """Keep the frozen base in 4 bits."""
    seq_len: Annotated[int, Field(ge=8)] | None = None
    """Longest example in tokens; longer ones are cut at the end."""
