"""Facts about the model types of the installed transformers, read from its source text.

Importing its configuration classes would import torch, and would run whatever a type's module does; the text
is enough to know which types are causal language models, which keys they read and what their defaults are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError


@cache
def causal_types() -> Mapping[str, str]:
    """Model type → class name of its causal language model, for every type native to transformers."""
    return _pairs(_auto_file("modeling_auto.py"), "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


@cache
def config_types() -> Mapping[str, str]:
    """Model type → class name of its configuration, causal or not."""
    return _pairs(_auto_file("auto_mappings.py"), "CONFIG_MAPPING_NAMES")


@cache
def keys_read(model_type: str) -> frozenset[str]:
    """Every config key that the code of a type can read: every word in it.

    Of the words that begin with an underscore only those that it reads off a config, and that are none of the
    notes that every config of transformers takes.
    """
    own = [path.read_text(encoding="utf-8") for path in sorted(_type_folder(model_type).glob("*.py"))]
    shared = [path.read_text(encoding="utf-8") for path in _shared_files()]
    words = {word for text in (*own, *shared) for word in re.findall(r"[A-Za-z]\w*", text)}
    private = {word for text in own for word in re.findall(r"\bconfig\.(_[A-Za-z]\w*)", text)}
    notes = {word for text in shared for word in re.findall(r"(?<!\w)_\w+", text)}
    return frozenset(words | (private - notes))


@cache
def config_defaults(model_type: str) -> Mapping[str, Any]:
    """Default of each plain setting of a type's configuration class; those that are computed are left out."""
    class_name = config_types().get(model_type)
    for path in sorted(_type_folder(model_type).glob("configuration_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                return dict(_plain_fields(node))
    return {}


def _package() -> Path:
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "transformers is not installed", hint="run make install", code="model.no-transformers"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _auto_file(name: str) -> str:
    return (_package() / "models" / "auto" / name).read_text(encoding="utf-8")


def _shared_files() -> Iterator[Path]:
    for name in ("configuration_utils.py", "modeling_rope_utils.py", "masking_utils.py"):
        yield _package() / name


def _type_folder(model_type: str) -> Path:
    special = _pairs(_auto_file("auto_mappings.py"), "SPECIAL_MODEL_TYPE_TO_MODULE_NAME")
    return _package() / "models" / special.get(model_type, model_type.replace("-", "_"))


@cache
def _pairs(source: str, variable: str) -> Mapping[str, str]:
    """The text pairs of `variable = OrderedDict([("a", "b"), …])` at the top level of a source file."""
    start = source.index(f"\n{variable} = ") + 1
    tree = ast.parse(source[start : source.index("\n)", start) + 2])
    pairs: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            key, value = node.elts
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                pairs[str(key.value)] = str(value.value)
    return pairs


def _plain_fields(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            try:
                yield statement.target.id, _literal(statement.value)
            except ValueError:
                continue


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _literal(node.left) * _literal(node.right)
    return ast.literal_eval(node)
