"""`x_config` of a create call: settings of the run file that OpenAI has no name for.

Only those of ALLOWED can be set. None of them is a path, a command or the name of something to fetch, and
none is a hyperparameter, so that nothing is said twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from tunewright.config.load import load_config
from tunewright.errors import ConfigErrors
from tunewright.service.faults import ApiError, bad_value

ALLOWED = (
    "adapter.rslora",
    "data.control_tokens",
    "data.overlong",
    "data.packing",
    "data.thinking",
    "data.train_on",
    "guard.rollbacks",
    "guard.spike",
    "model.attention",
    "model.dtype",
    "train.activation_checkpointing",
    "train.betas",
    "train.deterministic",
    "train.epsilon",
    "train.max_grad_norm",
    "train.max_steps",
    "train.micro_batch_size",
    "train.optimizer",
    "train.precision",
    "train.schedule",
    "train.warmup_ratio",
    "train.weight_decay",
)
HYPERPARAMETERS = {
    "adapter.alpha": "lora_alpha",
    "adapter.bias": "lora_bias",
    "adapter.dropout": "lora_dropout",
    "adapter.kind": "use_lora",
    "adapter.rank": "lora_r",
    "adapter.targets": "lora_target_modules",
    "data.seq_len": "seq_len",
    "model.quantization": "use_qlora",
    "model.quantization.kind": "use_qlora",
    "train.batch_size": "batch_size",
    "train.epochs": "n_epochs",
    "train.learning_rate": "learning_rate",
}
"""What has another name in a job."""
LONGEST_PATH = 200
"""Letters of a name that are told: it is the caller's, and may be as long as a body."""


def check_extra(extra: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Raise ApiError 400, with `x_config.…` as param, for a setting that a job may not have or that is wrong.

    settings: the run file of the job without it and without paths.
    """
    for path in _paths(extra or {}):
        if path in HYPERPARAMETERS:
            name = HYPERPARAMETERS[path]
            raise _refusal(path, f"give it as '{name}' in 'hyperparameters'")
        if path not in ALLOWED:
            raise _refusal(path, f"x_config may have: {', '.join(ALLOWED)}")
        if path in (extra or {}):
            section, _, name = path.partition(".")
            raise _refusal(path, f'a setting stands in its section: {{"{section}": {{"{name}": …}}}}')
    if not extra:
        return
    whole = with_extra(settings, extra)
    data = {name: value for name, value in whole["data"].items() if name != "format"}
    whole["data"] = {**data, "train": "rows.jsonl"}
    try:
        load_config(None, text=json.dumps(whole))
    except ConfigErrors as error:
        first = error.errors[0]
        # The caller has no run file in which to look for a line.
        path, place, _ = (first.where or "").partition(" ")
        text = str(first).replace(f"{first.where}:", f"{path}:", 1) if place else str(first)
        raise bad_value(text, f"x_config.{path}") from None


def with_extra(settings: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """A run file with these settings over its own. Both have two levels."""
    merged = dict(settings)
    for section, values in (extra or {}).items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def _paths(extra: Mapping[str, Any]) -> Iterator[str]:
    for section, values in extra.items():
        if not isinstance(values, dict) or not values:
            yield section
            continue
        for name in cast("dict[str, Any]", values):
            yield f"{section}.{name}"


def _refusal(path: str, hint: str) -> ApiError:
    path = path[:LONGEST_PATH]
    message = f"'{path}' cannot be set by x_config: {hint}"
    return bad_value(message, f"x_config.{path}", "unknown_parameter")
