"""The layers of a configuration, lowest first: a preset, the run file, the overrides of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, cast

from pydantic.fields import FieldInfo

from tunewright.config.node import KeyPath, Node, dotted, overlay
from tunewright.config.schema import RunConfig, Section, ShortForm
from tunewright.config.settings import field_at, inner_section, short_form
from tunewright.config.yaml_text import read_yaml
from tunewright.errors import ConfigError, ConfigErrors

OVERRIDE = "--set"
PRESET_KEY = "preset"


def stack_layers(file: Node, overrides: Sequence[str]) -> tuple[Node, list[ConfigError]]:
    """One tree of all layers in long form, and what is wrong with the preset's name or an override."""
    assignments, faults = _read_overrides(overrides)
    preset, file, assignments, preset_faults = _take_preset(file, assignments)
    tree = long_form(file)
    if preset is not None:
        tree = overlay(preset, tree)
    faults += preset_faults
    for path, value in assignments:
        try:
            tree = long_form(_assign(tree, path, value))
        except ConfigError as error:
            faults.append(error)
    return tree, faults


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    folder = files("tunewright.config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_preset(name: str) -> Node:
    """A shipped preset in long form."""
    root, faults = read_yaml(read_preset_text(name), name)
    if faults:
        raise ConfigErrors(faults)
    return long_form(_with_origin(root or Node({}, ""), f"preset {name}"))


def read_preset_text(name: str) -> str:
    """A shipped preset as it is written, with the comments that say why."""
    return (files("tunewright.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def _with_origin(node: Node, origin: str) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _with_origin(child, origin) for key, child in node.value.items()}, origin)
    if isinstance(node.value, list):
        return Node([_with_origin(child, origin) for child in node.value], origin)
    return Node(node.value, origin)


def _take_preset(
    file: Node, assignments: list[tuple[KeyPath, Node]]
) -> tuple[Node | None, Node, list[tuple[KeyPath, Node]], list[ConfigError]]:
    """The preset asked for, and the file and assignments without the key that asked for it."""
    assert isinstance(file.value, dict)
    asked = file.value.get(PRESET_KEY)
    for path, value in assignments:
        asked = value if path == (PRESET_KEY,) else asked
    rest = Node({key: child for key, child in file.value.items() if key != PRESET_KEY}, file.origin)
    assignments = [(path, value) for path, value in assignments if path != (PRESET_KEY,)]
    if asked is None or asked.value is None:
        return None, rest, assignments, []
    names = preset_names()
    if asked.value in names:
        return read_preset(str(asked.value)), rest, assignments, []
    near = get_close_matches(str(asked.value), names, n=1)
    fault = ConfigError(
        "no such preset",
        where=f"{PRESET_KEY} ({asked.origin})",
        got=asked.value if isinstance(asked.value, str) else "another kind of value",
        expected=" or ".join(names),
        hint=f"did you mean {near[0]}?" if near else None,
        code="config.unknown-preset",
    )
    return None, rest, assignments, [fault]


def _read_overrides(overrides: Sequence[str]) -> tuple[list[tuple[KeyPath, Node]], list[ConfigError]]:
    assignments: list[tuple[KeyPath, Node]] = []
    faults: list[ConfigError] = []
    for text in overrides:
        try:
            assignments.append(_read_override(text))
        except ConfigErrors as errors:
            faults += errors.errors
        except ConfigError as error:
            faults.append(error)
    return assignments, faults


def _read_override(text: str) -> tuple[KeyPath, Node]:
    key, equals, written = text.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(
            "not an override",
            where=OVERRIDE,
            got=text,
            expected="KEY=VALUE, such as train.epochs=2 or data.train.0.weight=2",
            code="config.bad-override",
        )
    try:
        value, faults = read_yaml(written, None)
    except ConfigErrors as errors:
        value, faults = None, errors.errors
    if faults:
        place = f"{OVERRIDE} {text}"
        raise ConfigErrors(
            [ConfigError(fault.what, where=place, hint=fault.hint, code=fault.code) for fault in faults]
        )
    path = tuple(int(step) if re.fullmatch(r"[0-9]{1,9}", step) else step for step in steps)
    return path, value or Node(None, OVERRIDE)


def _assign(node: Node, path: KeyPath, value: Node, done: KeyPath = ()) -> Node:
    """The tree with `value` at `path`. Sections on the way are made; list items must be there."""
    if not path:
        return overlay(node, _long_value(value, done))
    step, here = path[0], (*done, path[0])
    items = _list_at(node, done) if isinstance(step, int) or isinstance(node.value, list) else None
    if items is not None:
        position = _position(step, here, items)
        changed = _assign(items[position], path[1:], value, here)
        return Node([*items[:position], changed, *items[position + 1 :]], OVERRIDE)
    children = dict(node.value) if isinstance(node.value, dict) else {}
    origin = node.origin if isinstance(node.value, dict) else OVERRIDE
    below = children.get(str(step), Node(None, OVERRIDE))
    children[str(step)] = _assign(below, path[1:], value, here)
    return Node(children, origin)


def _position(step: str | int, here: KeyPath, items: list[Node]) -> int:
    if isinstance(step, int) and step < len(items):
        return step
    name = dotted(here[:-1])
    raise ConfigError(
        f"there is no item {step}; {name} has {len(items)}, counted from 0",
        where=f"{dotted(here)} ({OVERRIDE})",
        hint=f"name an item by its number, such as {name}.0" if isinstance(step, str) else None,
        code="config.bad-override",
    )


def _list_at(node: Node, path: KeyPath) -> list[Node] | None:
    """The list an index goes into: the one written, else the setting's default; None for no list at all."""
    if isinstance(node.value, list):
        return node.value
    field, reached = field_at(path)
    if node.value is not None or field is None or reached != path or not isinstance(field.default, tuple):
        return None
    items = cast("tuple[Any, ...]", field.get_default())
    return [Node(item, "default") for item in items]


def long_form(node: Node, section: type[Section] = RunConfig) -> Node:
    """The tree with every short form written out, so that layers merge key by key.

    A section left empty in a file (`train:` alone) means no settings, not null.
    """
    if node.value is None:
        return Node({}, node.origin)
    if not isinstance(node.value, dict):
        return node
    children = dict(node.value)
    for name, field in section.model_fields.items():
        if name in children:
            children[name] = _long_field(children[name], field)
    return Node(children, node.origin)


def _long_value(value: Node, path: KeyPath) -> Node:
    """The long form of a value that belongs at `path`."""
    field, reached = field_at(path)
    if field is None or reached != path:
        return value
    inner = inner_section(field.annotation)
    if inner and isinstance(path[-1], int):
        return _long(value, short_form(field), inner)
    return _long_field(value, field)


def _long_field(node: Node, field: FieldInfo) -> Node:
    inner, short = inner_section(field.annotation), short_form(field)
    if inner is None:
        return node
    return _long_list(node, short, inner) if short and short.many else _long(node, short, inner)


def _long(node: Node, short: ShortForm | None, section: type[Section]) -> Node:
    if short and isinstance(node.value, str):
        node = Node({short.key: node}, node.origin)
    return long_form(node, section)


def _long_list(node: Node, short: ShortForm, section: type[Section]) -> Node:
    if node.value is None:
        return node
    items = node.value if isinstance(node.value, list) else [node]
    if not all(isinstance(item.value, (str, dict)) for item in items):
        return node
    return Node([_long(item, short, section) for item in items], node.origin)
