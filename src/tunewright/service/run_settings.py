"""From what a job asks to the run file that trains it. Paths are filled in by the worker; none is in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.service.faults import ApiError, bad_value
from tunewright.service.schemas.hyperparameters import AUTO, Hyperparameters
from tunewright.service.schemas.jobs import CreateJob

DEFAULT_EPOCHS = 3
LARGEST_AUTO_BATCH = 16
ROWS_PER_AUTO_BATCH = 32
BASE_RATES = {True: 2e-4, False: 2e-5}
"""Learning rate that a multiplier of 1 stands for: adapters, full training. The run file's own `auto`."""
MOST_EVALUATIONS_PER_EPOCH = 4
SAVES_PER_RUN = 10
ADAPTER_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_bias")
"""Hyperparameters that say nothing where every weight is trained."""
MOST_STEPS_PER_SAVE = 100


def requested_hyperparameters(body: CreateJob) -> Hyperparameters:
    """The hyperparameters of a create call, wherever they stand in it.

    Raises ApiError 400 for a method that is not there, for a key that stands in both places with different
    values, and for two settings that exclude each other.
    """
    method = body.method
    if method is not None and method.type != "supervised":
        raise bad_value(
            f"The method '{method.type}' is not available on this server; use 'supervised'",
            "method.type",
            "unsupported_method",
        )
    for name in ("dpo", "reinforcement"):
        if method is not None and getattr(method, name) is not None:
            raise bad_value(f"'{name}' does not belong to the method 'supervised'", f"method.{name}")
    inner = method.supervised.hyperparameters if method and method.supervised else None
    found = _merge(body.hyperparameters, inner)
    if found.learning_rate is not None and found.learning_rate_multiplier != AUTO:
        raise bad_value(
            "Give 'learning_rate' or 'learning_rate_multiplier', not both", "hyperparameters.learning_rate"
        )
    if found.use_lora is False and found.use_qlora:
        raise _needs_adapter("use_qlora")
    unused = next((name for name in ADAPTER_ONLY if getattr(found, name) is not None), None)
    if found.use_lora is False and unused is not None:
        raise _needs_adapter(unused)
    return found


def _needs_adapter(name: str) -> ApiError:
    return bad_value(f"'{name}' needs an adapter: drop 'use_lora': false", f"hyperparameters.{name}")


def _merge(outer: Hyperparameters | None, inner: Hyperparameters | None) -> Hyperparameters:
    given: dict[str, Any] = {}
    for source in (outer, inner):
        for name, value in source.model_dump(exclude_unset=True).items() if source else ():
            if given.setdefault(name, value) != value:
                raise ApiError(
                    400,
                    f"'{name}' stands in 'hyperparameters' and in 'method' with different values",
                    param=f"hyperparameters.{name}",
                    code="conflicting_values",
                )
    return Hyperparameters.model_validate(given)


def shown_hyperparameters(asked: Hyperparameters) -> dict[str, Any]:
    """What the job object shows: OpenAI's three always, ours where they were set."""
    return asked.model_dump(exclude_none=True)


def resolve_hyperparameters(shown: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The same with every `auto` replaced, once the number of training rows is known."""
    batch = min(max(rows // ROWS_PER_AUTO_BATCH, 1), LARGEST_AUTO_BATCH)
    resolved = {"n_epochs": DEFAULT_EPOCHS, "batch_size": batch, "learning_rate_multiplier": 1.0}
    return {**shown, **{key: value for key, value in resolved.items() if shown.get(key, AUTO) == AUTO}}


def data_settings(asked: Hyperparameters, format: str | None) -> dict[str, Any]:
    """The `data` section without its paths: rows that are too long are cut, as OpenAI does."""
    settings: dict[str, Any] = {"format": format or AUTO, "overlong": "truncate"}
    return settings if asked.seq_len is None else {**settings, "seq_len": asked.seq_len}


def run_settings(
    hyperparameters: Mapping[str, Any], *, model: str, seed: int, rows: int, format: str | None
) -> dict[str, Any]:
    """The run file of a job whose hyperparameters are resolved, but for paths.

    rows: training rows of an epoch, from which the steps between two looks and two saves follow.
    """
    found = Hyperparameters.model_validate(dict(hyperparameters))
    steps = -(-rows // int(found.batch_size))
    total = steps * int(found.n_epochs)
    use_lora = found.use_lora is not False
    rate = found.learning_rate or BASE_RATES[use_lora] * float(found.learning_rate_multiplier)
    settings: dict[str, Any] = {
        "model": {"name": model, "quantization": "4bit" if found.use_qlora else "none"},
        "adapter": _adapter(found, use_lora),
        "data": data_settings(found, format),
        "train": {
            "epochs": found.n_epochs,
            "batch_size": found.batch_size,
            "learning_rate": rate,
            "seed": seed,
        },
        "evaluate": {"every_steps": looks_apart(steps)},
        "checkpoint": {
            "every_steps": min(max(total // SAVES_PER_RUN, 1), MOST_STEPS_PER_SAVE),
            "keep": 2,
            "keep_best": False,
            "export_every": "epoch",
        },
    }
    return settings


def looks_apart(steps_per_epoch: int) -> int:
    """Steps between evaluations such that one falls on each end of an epoch, a few an epoch at most."""
    parts = (part for part in range(MOST_EVALUATIONS_PER_EPOCH, 0, -1) if steps_per_epoch % part == 0)
    return steps_per_epoch // next(parts)


def _adapter(found: Hyperparameters, use_lora: bool) -> dict[str, Any]:
    if not use_lora:
        return {"kind": "none"}
    values = {
        "rank": found.lora_r,
        "alpha": found.lora_alpha,
        "dropout": found.lora_dropout,
        "targets": found.lora_target_modules,
        "bias": found.lora_bias,
    }
    return {"kind": "lora", **{key: value for key, value in values.items() if value is not None}}
