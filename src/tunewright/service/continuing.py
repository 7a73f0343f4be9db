"""A job that goes on from a fine-tuned model: its adapter has the shape and scale of the one it starts from.

What the call leaves out is taken from the job that made the model, so that a client needs not know it. What
the call gives differently cannot be: an adapter fits in its own shape only, and training every weight would
start without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.config.schema import AdapterConfig
from tunewright.service.extra_config import with_extra
from tunewright.service.faults import ApiError, bad_value
from tunewright.service.records import JobRecord
from tunewright.service.schemas.hyperparameters import Hyperparameters

SHAPE = {"lora_r": "rank", "lora_alpha": "alpha", "lora_target_modules": "targets", "lora_bias": "bias"}
"""Hyperparameter → the setting of the run file that has its default."""


def continue_from(first: JobRecord, asked: Hyperparameters) -> Hyperparameters:
    """`asked` with the shape of the adapter that `first` made.

    Raises ApiError 400 when `first` made no adapter, and for a setting that is given differently.
    """
    made = Hyperparameters.model_validate(dict(first.hyperparameters))
    if made.use_lora is False:
        raise bad_value(
            "The model has no adapter to go on with: the job that made it trained every weight. "
            f"Start from '{first.request['base']}'",
            "model",
            "unsupported_value",
        )
    if asked.use_lora is False:
        raise _differs("use_lora", True)
    defaults = AdapterConfig()
    taken: dict[str, Any] = {}
    for name, setting in SHAPE.items():
        given, before = getattr(asked, name), getattr(made, name)
        if before is not None:
            taken[name] = before
        in_force = getattr(defaults, setting) if before is None else before
        if given not in (None, in_force):
            raise _differs(name, in_force)
    return asked.model_copy(update=taken)


def continue_scale(first: JobRecord, extra: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`x_config` with the scale of the adapter that `first` made. Raises ApiError 400 for another one."""
    before = _is_rank_stabilised(first.request.get("x_config"))
    given = _is_rank_stabilised(extra)
    if given is not None and given != bool(before):
        raise _differs("adapter.rslora", bool(before), "x_config")
    if before:
        return with_extra({"adapter": {"rslora": True}}, extra)
    return None if extra is None else dict(extra)


def _is_rank_stabilised(extra: Mapping[str, Any] | None) -> bool | None:
    return (extra or {}).get("adapter", {}).get("rslora")


def _differs(name: str, before: Any, place: str = "hyperparameters") -> ApiError:
    message = (
        f"'{name}' has to be {before} as in the job that made the model; leave it out to go on from there"
    )
    return bad_value(message, f"{place}.{name}")
