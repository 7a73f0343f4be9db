"""Which modules get a LoRA adapter, and its start values: shared by the engines, so that all start equal."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from tunewright.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL_LINEAR = "all-linear"


def match_targets(
    names: Sequence[str],
    targets: str | Sequence[str],
    *,
    head: str | None = None,
    offered: Sequence[str] | None = None,
) -> list[str]:
    """The modules of `names` that `adapter.targets` means, in the order of `names`.

    `all-linear`: all but the output head `head` and routers of experts (so `names` are then the linear
    modules). Another text: a regex on the full name. A sequence: full names, or their last parts. offered:
    those of `names` that an error may propose; None for all. Raises ConfigError when one matches nothing.
    """
    offered = names if offered is None else offered
    if targets == ALL_LINEAR:
        known = frozenset(names)
        matched = [name for name in names if name != head and not is_router(name, known)]
        if not matched:
            raise _no_match(ALL_LINEAR, offered)
        return matched
    if isinstance(targets, str):
        return _match_regex(names, targets, offered)
    for target in targets:
        if not any(is_named(name, target) for name in names):
            raise _no_match(target, offered)
    return [name for name in names if any(is_named(name, target) for target in targets)]


def is_named(name: str, wanted: str) -> bool:
    """Whether `wanted` is the full name of a module, or its last parts: q_proj, self_attn.q_proj."""
    return name == wanted or name.endswith(f".{wanted}")


def is_router(name: str, names: Collection[str]) -> bool:
    """Whether a module chooses the experts of a token, or is a part of what does: a `router`, or a `gate`
    that has `experts` beside it among `names`."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part == "router":
            return True
        if part == "gate":
            beside = ".".join((*parts[:place], "experts"))
            if any(other == beside or other.startswith(f"{beside}.") for other in names):
                return True
    return False


def kind_of_module(name: str, parts: int = 1) -> str:
    """The last parts of a module's name, numbers left out: what modules of several layers share."""
    return ".".join([part for part in name.split(".") if not part.isdigit()][-parts:])


def count_kinds(names: Sequence[str]) -> Mapping[str, int]:
    """How many modules there are of each kind, in the order of `names`."""
    return Counter(map(kind_of_module, names))


def initial_values(seed: int, canonical_name: str, in_features: int, rank: int) -> NDArray[np.float32]:
    """Start values of lora_A, [rank, in_features] float32; lora_B starts at zero.

    Uniform in ±1/sqrt(in_features), which is Kaiming-uniform with a = sqrt(5), the law of PEFT. A pure
    function of (seed, canonical_name): the same on every engine, device and spread over ranks.
    """
    import numpy as np

    name_key = int.from_bytes(hashlib.sha256(canonical_name.encode()).digest()[:8], "little")
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, name_key], dtype=np.uint64)))
    bound = 1 / math.sqrt(in_features)
    return draw.uniform(-bound, bound, size=(rank, in_features)).astype(np.float32)


def _match_regex(names: Sequence[str], pattern: str, offered: Sequence[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"not a regular expression: {error}",
            where="adapter.targets",
            got=repr(pattern),
            hint="write several names as a list: [q_proj, v_proj]",
            code="config.targets",
        ) from error
    matched = [name for name in names if compiled.fullmatch(name)]
    if not matched:
        raise _no_match(pattern, offered)
    return matched


def _no_match(target: str, names: Sequence[str]) -> ConfigError:
    last_parts = sorted({name.rpartition(".")[2] for name in names} - {""})
    last_parts = [part for part in last_parts if not part.isdigit()]
    near = get_close_matches(target, last_parts, n=1)
    if not last_parts:
        hint = (
            "it has no linear layer that could take an adapter: set adapter.kind: none to train every weight"
        )
    elif target in last_parts:
        hint = f"a text is a regex on the full module name; for a name write a list: [{target}]"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = "modules of this model: " + ", ".join(last_parts)
    return ConfigError(
        "no module of the model matches",
        where="adapter.targets",
        got=repr(target),
        hint=hint,
        code="config.unknown-target",
    )
