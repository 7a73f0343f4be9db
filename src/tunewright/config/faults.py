"""Validation errors of the schema in the words of a run file: which setting, on which line, what instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tunewright.config.node import KeyPath, Node, dotted, find, origin_at, plain
from tunewright.config.schema import RunConfig
from tunewright.config.settings import choices_of, describe, describe_field, field_at, list_settings
from tunewright.errors import ConfigError

# What other trainers call a setting. Never accepted, only pointed from.
NAMES_ELSEWHERE = {
    "base_model": "model.name",
    "bf16": "train.precision",
    "datasets": "data.train",
    "eval_steps": "evaluate.every_steps",
    "fp16": "train.precision",
    "gradient_accumulation_steps": "train.micro_batch_size",
    "gradient_checkpointing": "train.activation_checkpointing",
    "logging_steps": "logging.every_steps",
    "lora": "adapter",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.rank",
    "lora_target_modules": "adapter.targets",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "max_length": "data.seq_len",
    "max_seq_length": "data.seq_len",
    "model_name_or_path": "model.name",
    "n_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch_size",
    "r": "adapter.rank",
    "save_steps": "checkpoint.every_steps",
    "sequence_len": "data.seq_len",
    "target_modules": "adapter.targets",
    "use_rslora": "adapter.rslora",
    "val_set_size": "data.eval",
}


def explain(error: ValidationError, tree: Node, name: str) -> list[ConfigError]:
    """One ConfigError for each setting that is wrong, in the order of the file.

    name: the run file as the user wrote it, for settings that are missing from it.
    """
    faults: dict[KeyPath, ConfigError] = {}
    # A number out of range also fails the other members of its union; the range is what helps.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] not in _RANGE_TYPES)
    for detail in details:
        if detail["type"] == "too_short" and any(_is_below(other["loc"], detail["loc"]) for other in details):
            continue  # pydantic counts only the valid items of a list
        for path, fault in _explain_one(detail, tree, name):
            # The members of a union each complain; the setting is named once.
            faults.setdefault(path, fault)
    return [faults[path] for path in sorted(faults, key=lambda path: _position(tree, path))]


_RANGE_TYPES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def _is_below(path: KeyPath, other: KeyPath) -> bool:
    return len(path) > len(other) and path[: len(other)] == other


def _position(tree: Node, path: KeyPath) -> tuple[int, int]:
    origin = origin_at(tree, path) or (origin_at(tree, path[:-1]) if len(path) > 1 else None) or ""
    line = origin.rpartition(":")[2]
    return (0, int(line)) if line.isdigit() else (1, 0)


def _explain_one(detail: ErrorDetails, tree: Node, name: str) -> Iterator[tuple[KeyPath, ConfigError]]:
    path: KeyPath = detail["loc"]
    if detail["type"] == "extra_forbidden":
        yield path, _unknown_key(path, tree)
    elif detail["type"] == "missing" and isinstance(path[-1], int):
        # A list of fixed length lacks an item: the list is what is wrong.
        yield _wrong_value({**detail, "loc": path[:-1], "type": "too_short"}, tree)
    elif detail["type"] == "missing":
        for required in _required_below(path):
            yield required, _missing(required, tree, name)
    else:
        yield _wrong_value(detail, tree)


def where(tree: Node, path: KeyPath, name: str | None = None) -> str:
    """`train.batch_size (run.yaml:14)`; without a line when the setting was not written anywhere."""
    origin = origin_at(tree, path) or name
    return f"{dotted(path)} ({origin})" if origin else dotted(path)


def _unknown_key(path: KeyPath, tree: Node) -> ConfigError:
    near = _nearest(path, find(tree, path))
    keys = [_last(known) for known in _known_keys() if known.rpartition(".")[0] == _masked(path[:-1])]
    hint = f"the keys here are {', '.join(keys)}" if keys and not near else None
    what = f"not a setting; did you mean {near}?" if near else "not a setting"
    return ConfigError(what, where=where(tree, path), hint=hint, code="config.unknown-key")


def _nearest(path: KeyPath, node: Node | None) -> str | None:
    """The setting most likely meant: beside it, by its name in other trainers, or in another section."""
    key = str(path[-1])
    beside = {
        _last(known): known for known in _known_keys() if _masked(path[:-1]) == known.rpartition(".")[0]
    }
    if near := get_close_matches(key, beside, n=1, cutoff=0.7):
        return dotted((*path[:-1], near[0]))
    if key.lower() in NAMES_ELSEWHERE:
        return NAMES_ELSEWHERE[key.lower()]
    anywhere = {_last(known): known for known in reversed(_known_keys()) if "*" not in known}
    if near := get_close_matches(key, anywhere, n=1, cutoff=0.8):
        return anywhere[near[0]]
    return _section_like(node)


def _section_like(node: Node | None) -> str | None:
    """The section that has the keys of an unknown mapping."""
    if node is None or not isinstance(node.value, dict):
        return None
    sections = [setting.path for setting in list_settings() if setting.section and "*" not in setting.path]
    shared = {section: sum(f"{section}.{key}" in _known_keys() for key in node.value) for section in sections}
    best = max(shared, key=lambda section: shared[section])
    return best if shared[best] else None


def _known_keys() -> list[str]:
    return ["preset", *(setting.path for setting in list_settings())]


def _masked(path: KeyPath) -> str:
    return ".".join("*" if isinstance(step, int) else step for step in path)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _required_below(path: KeyPath) -> list[KeyPath]:
    """The keys that must be given when the section or setting at `path` is missing."""
    prefix = _masked(path)
    inside = [
        (*path, *setting.path.removeprefix(f"{prefix}.").split("."))
        for setting in list_settings()
        if setting.required and not setting.section and setting.path.startswith(f"{prefix}.")
    ]
    lists = [] if path != ("data",) else [("data", "train")]
    return [item for item in inside if "*" not in item] + lists or [path]


_EXAMPLES = {"model.name": "model: builtin:tiny", "data.train": "data: {train: rows.jsonl}"}


def _missing(path: KeyPath, tree: Node, name: str) -> ConfigError:
    example = _EXAMPLES.get(dotted(path))
    parent = origin_at(tree, path[:-1]) if path[:-1] else None
    return ConfigError(
        "missing",
        where=f"{dotted(path)} ({parent or name})",
        hint=f"add it, such as `{example}`" if example else None,
        code="config.missing",
    )


_WHAT_BY_TYPE = {
    **dict.fromkeys(_RANGE_TYPES, "out of range"),
    "too_short": "too few values",
    "too_long": "too many values",
    "string_too_short": "empty",
}


def _wrong_value(detail: ErrorDetails, tree: Node) -> tuple[KeyPath, ConfigError]:
    path: KeyPath = detail["loc"]
    field, reached = field_at(path)
    # Below a plain setting pydantic's path goes on with list positions, or union members (not in the file).
    while len(reached) < len(path) and find(tree, (*reached, path[len(reached)])):
        reached = (*reached, path[len(reached)])
    found = find(tree, reached)
    value = plain(found) if found else detail["input"]
    what = _WHAT_BY_TYPE.get(detail["type"], "wrong type")
    choices = choices_of(field.annotation) if field else []
    if choices and value != "" and (isinstance(value, str) or detail["type"] == "literal_error"):
        what = "unknown choice"
    near = get_close_matches(str(value), choices, n=1) if isinstance(value, str) else []
    fault = ConfigError(
        what,
        where=where(tree, reached),
        got=shown(value),
        expected=describe_field(field) if field else describe(RunConfig),
        hint=f"did you mean {near[0]}?" if near else _hint(value, detail["type"]),
        code="config.unknown-choice" if what == "unknown choice" else "config.wrong-value",
    )
    return reached, fault


def _hint(value: Any, kind: str) -> str | None:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f'put it in quotes to make it text: "{shown(value)}"'
    return None


def shown(value: Any) -> str:
    """A value as YAML would show it, on one line and not too long."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
