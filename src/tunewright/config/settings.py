"""What settings there are, in words: for messages, the reference page and `config show`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from tunewright.config.node import KeyPath
from tunewright.config.schema import RunConfig, Section, ShortForm
from tunewright.types import JsonValue


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the run file. `path` shows list items as `*`; kind is what it accepts, in words.

    section: it only groups other settings. default: None when required or a section.
    """

    path: str
    kind: str
    help: str
    section: bool
    required: bool
    default: JsonValue
    short_form: str | None


@cache
def list_settings() -> tuple[Setting, ...]:
    """Every setting in the order of the schema, each section before its keys."""
    return tuple(_walk(RunConfig, ""))


def _walk(section: type[Section], prefix: str) -> Iterator[Setting]:
    defaults = section.model_construct().model_dump(mode="json", warnings=False)
    for name, field in section.model_fields.items():
        inner = inner_section(field.annotation)
        path = prefix + name
        yield Setting(
            path=path,
            kind=describe_field(field),
            help=" ".join((field.description or "").split()),
            section=inner is not None,
            required=field.is_required(),
            default=None if inner else defaults.get(name),
            short_form=_short_form_key(field),
        )
        if inner:
            yield from _walk(inner, f"{path}.*." if _is_list(field.annotation) else f"{path}.")


def _short_form_key(field: FieldInfo) -> str | None:
    short = short_form(field)
    return short.key if short else None


def short_form(field: FieldInfo) -> ShortForm | None:
    """The short form that a field accepts, if any."""
    return next((item for item in field.metadata if isinstance(item, ShortForm)), None)


def inner_section(annotation: Any) -> type[Section] | None:
    """The section that a field, or each item of its list, holds; None for a plain setting."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if _is_list(annotation):
        return inner_section(get_args(annotation)[0])
    return None


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def field_at(path: KeyPath) -> tuple[FieldInfo | None, KeyPath]:
    """The field that governs `path`, and the part of the path that leads to it.

    What follows a plain setting (a union member's name, an index, a mapping key) is not part of it.
    """
    section: type[Section] | None = RunConfig
    field: FieldInfo | None = None
    for position, step in enumerate(path):
        if isinstance(step, int) and field is not None and _is_list(field.annotation):
            continue
        if section is None or step not in section.model_fields:
            return field, path[:position]
        field = section.model_fields[str(step)]
        section = inner_section(field.annotation)
    return field, path


def describe_field(field: FieldInfo) -> str:
    """What a field accepts, in words: `auto or a number above 0`."""
    return describe(field.annotation, tuple(field.metadata))


def describe(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """What a type with its bounds accepts, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(args[0], _flat_metadata(args[1:]))
    if origin is Literal:
        return _one_of([str(choice) for choice in args])
    if origin in (Union, types.UnionType):
        return _one_of([part for arg in args for part in _union_part(arg)])
    if origin is tuple:
        return _describe_list(args)
    if origin is dict:
        return f"a mapping of {describe(args[0])} to {describe(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a mapping"
    return _describe_scalar(annotation, metadata)


def _flat_metadata(metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
    )


def _union_part(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [describe(annotation)]


def _one_of(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _describe_list(args: tuple[Any, ...]) -> str:
    if args[-1] is not Ellipsis:
        return f"a list of {len(args)} values, each {describe(args[0])}"
    if get_origin(args[0]) is Literal:
        return f"a list of {_one_of([str(choice) for choice in get_args(args[0])])}"
    return f"a list, each item {describe(args[0])}"


_SCALARS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


def _describe_scalar(annotation: Any, metadata: tuple[Any, ...]) -> str:
    words = _SCALARS[annotation]
    bounds = [_describe_bound(item) for item in metadata if isinstance(item, (Ge, Gt, Le, Lt, MinLen))]
    return " ".join([words, *[" and ".join(bounds)]]) if bounds else words


def _describe_bound(bound: Ge | Gt | Le | Lt | MinLen) -> str:
    if isinstance(bound, Ge):
        return f"of at least {bound.ge}"
    if isinstance(bound, Gt):
        return f"above {bound.gt}"
    if isinstance(bound, Le):
        return f"of at most {bound.le}"
    if isinstance(bound, Lt):
        return f"below {bound.lt}"
    return "that is not empty"


def choices_of(annotation: Any) -> list[str]:
    """The fixed words that a type accepts, for `did you mean`."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for arg in get_args(annotation) for choice in choices_of(arg)]
