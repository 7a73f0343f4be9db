"""A setting as it was written: its value and where it came from. Layers of settings are trees of these."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunewright.types import JsonValue

Scalar = None | bool | int | float | str
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """origin: `run.yaml:14`, `preset demo` or `--set`."""

    value: Scalar | dict[str, Node] | list[Node]
    origin: str


def plain(node: Node) -> JsonValue:
    """The value without origins."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def overlay(below: Node, above: Node) -> Node:
    """Both layers as one: mappings merge key by key, anything else above replaces what is below."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, child in above.value.items():
        merged[key] = overlay(merged[key], child) if key in merged else child
    return replace(below, value=merged)


def origin_at(root: Node, path: KeyPath) -> str | None:
    """Where the value at `path` was written; None where nothing was written."""
    found = find(root, path)
    return found.origin if found else None


def find(root: Node, path: KeyPath) -> Node | None:
    """The node at `path`, if there is one."""
    node = root
    for step in path:
        child: Node | None = None
        if isinstance(node.value, dict):
            child = node.value.get(str(step))
        elif isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
            child = node.value[step]
        if child is None:
            return None
        node = child
    return node


def dotted(path: KeyPath) -> str:
    """`data.train.0.path`, the form that `--set` takes."""
    return ".".join(str(step) for step in path)
