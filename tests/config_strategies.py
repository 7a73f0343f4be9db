"""Hypothesis strategies for whole run configurations, made from the schema itself."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from tunewright.config.schema import RunConfig, Section

# Fields with rules that no type shows.
SPECIAL = {
    "device": st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:3"]),
    "targets": st.just("all-linear")
    | st.just(r".*\.(q|v)_proj")
    | st.lists(st.text(), min_size=1).map(tuple),
    "start_from": st.none(),
    "track": st.sampled_from([(), ("console",)]),
    "metrics": st.sampled_from([(), ("perplexity",), ("token_accuracy", "perplexity")]),
}


def run_configs() -> st.SearchStrategy[RunConfig]:
    """Any valid configuration."""
    made = _section(RunConfig).map(RunConfig.model_validate)
    # What trains in full cannot be stored below 16 bits.
    return made.filter(lambda c: c.adapter.kind == "lora" or c.model.quantization.kind == "none")


def _section(section: type[Section]) -> st.SearchStrategy[dict[str, Any]]:
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in section.model_fields.items():
        if section.__name__ == "RunNameConfig":
            fields[name] = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
        else:
            special = SPECIAL.get(name)
            fields[name] = _value(field.annotation, tuple(field.metadata)) if special is None else special
    return st.fixed_dictionaries(fields)


def _value(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        nested = [item.metadata if isinstance(item, FieldInfo) else [item] for item in args[1:]]
        return _value(args[0], tuple(item for items in nested for item in items))
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_value(arg) for arg in args))
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(_value(args[0]), min_size=_bounds(metadata).get("min_len", 0), max_size=3)
    if origin is tuple:
        return st.tuples(*(_value(arg) for arg in args))
    if origin is dict:
        return st.dictionaries(_value(args[0]), _value(args[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _section(annotation)
    return _scalar(annotation, _bounds(metadata))


def _bounds(metadata: tuple[Any, ...]) -> dict[str, Any]:
    kinds = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt", MinLen: "min_length"}
    found = {
        name: getattr(item, name) for item in metadata for kind, name in kinds.items() if type(item) is kind
    }
    return {"min_len" if name == "min_length" else name: value for name, value in found.items()}


def _scalar(annotation: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    if annotation is str:
        return st.text(min_size=bounds.get("min_len", 0), max_size=20)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        top = bounds["lt"] - 1 if "lt" in bounds else 10**12
        return st.integers(min_value=bounds.get("ge"), max_value=top)
    if annotation is float:
        return st.floats(
            min_value=bounds.get("ge", bounds.get("gt")),
            max_value=bounds.get("le", bounds.get("lt")),
            exclude_min="gt" in bounds,
            exclude_max="lt" in bounds,
            allow_nan=False,
            allow_infinity=False,
        )
    return st.none()
