"""From a model name as the user wrote it to a folder that is safe to load."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.cache import CachedFile
from tunewright.errors import ModelError
from tunewright.models.hub import fetch_model, find_cached
from tunewright.models.sanitise import sanitised_copy, tokenizer_copy
from tunewright.models.weights import PICKLE_SUFFIXES, refuse_unsafe_file

BUILTIN_PREFIX = "builtin:"
BUILTIN_MODELS = ("tiny",)
_NO_MODEL = ("model.no-config", "model.no-weights", "model.incomplete", "model.is-adapter")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model ready to load. folder: the sanitised copy. name, revision: as asked for. warnings: what of the
    model's own settings was left out. held: keeps the copy in the cache while this object is there."""

    folder: Path
    name: str
    revision: str | None
    warnings: tuple[str, ...]
    held: CachedFile | None = field(default=None, compare=False, repr=False)


def resolve_model(name: str, revision: str | None = None) -> ModelFiles:
    """Find a model by hub id, local folder or `builtin:` name, check it and give its sanitised copy.

    A folder that exists wins over a hub id of the same spelling. Raises ModelError.
    """
    copy = sanitised_copy(_find(name, revision))
    return ModelFiles(copy.folder, name, revision, copy.warnings, copy.held)


def resolve_tokenizer(name: str) -> Path:
    """The sanitised copy of a model for its tokenizer alone: a folder needs neither weights nor a config.

    Raises ModelError.
    """
    source = _find(name, None)
    try:
        return sanitised_copy(source).folder
    except ModelError as error:
        if error.code not in _NO_MODEL or not (source / "tokenizer.json").is_file():
            raise
    return tokenizer_copy(source).folder


def find_on_disk(name: str, revision: str | None = None) -> Path | None:
    """The sanitised copy of a model that is on this machine; None for a hub model that has to be fetched.

    Raises ModelError for what is neither, or is unsafe.
    """
    if _HUB_ID.fullmatch(name) and not Path(name).expanduser().exists():
        cached = find_cached(name, revision)
        return None if cached is None else sanitised_copy(cached).folder
    return sanitised_copy(_find(name, revision)).folder


def _find(name: str, revision: str | None) -> Path:
    if name.startswith(BUILTIN_PREFIX):
        return _find_builtin(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise _is_file(path)
    if _HUB_ID.fullmatch(name) and path.suffix not in (*PICKLE_SUFFIXES, ".gguf", ".safetensors"):
        return fetch_model(name, revision)
    raise ModelError(
        "there is no such model",
        where="model.name",
        got=repr(name),
        expected="a folder, a hub id such as Qwen/Qwen3-0.6B, or builtin:tiny",
        code="model.unknown",
    )


def _find_builtin(name: str) -> Path:
    known = name.removeprefix(BUILTIN_PREFIX)
    if known not in BUILTIN_MODELS:
        raise ModelError(
            "there is no such bundled model",
            where="model.name",
            got=name,
            expected=", ".join(BUILTIN_PREFIX + each for each in BUILTIN_MODELS),
            code="model.unknown",
        )
    return Path(__file__).parent.parent / "assets" / known


def _is_file(path: Path) -> ModelError:
    refuse_unsafe_file(path)
    return ModelError(
        "a model is a folder, not a file",
        where="model.name",
        got=str(path),
        hint=f"name its folder: {path.parent}",
        code="model.unknown",
    )
