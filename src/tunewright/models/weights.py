"""The weight files of a model folder: safetensors only, whole, with headers that do not lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tunewright.arrays import ArrayFileError, HeaderEntry, read_header
from tunewright.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_PICKLE_MAGICS = (b"PK\x03\x04", *(bytes((0x80, version)) for version in range(2, 6)))
_GGUF_MAGIC = b"GGUF"


def find_weights(folder: Path) -> list[Path]:
    """Weight files of the model, in order of name, each with a sound header.

    Raises ModelError naming the file for pickle and GGUF weights, missing shards, a lying header, or an index
    that names arrays which its files do not hold.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).exists():
        paths = [folder / SINGLE_FILE]
        check_weights(paths[0])
        return paths
    if not index.exists():
        raise _no_weights(folder)
    shards = _read_index(index)
    for file, names in sorted(shards.items()):
        held = check_weights(folder / file)
        missing = sorted(names - held.keys())
        if missing:
            raise ModelError(
                f"the index names an array that {file} does not hold",
                where=str(index),
                got=missing[0],
                hint="fetch the model again",
                code="model.incomplete",
            )
    return [folder / file for file in sorted(shards)]


def check_weights(path: Path) -> dict[str, HeaderEntry]:
    """The header of a safetensors file. Raises ModelError when it is none, or lies about the file."""
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise ModelError(
            "a weight file is missing", where=str(path), hint="fetch the model again", code="model.incomplete"
        ) from error
    except ArrayFileError as error:
        refuse_unsafe_file(path)
        raise ModelError(
            f"the file is not a sound safetensors file: {error}",
            where=str(path),
            hint="fetch the model again from its source",
            code="model.bad-arrays",
        ) from error
    except OSError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}", where=str(path), code="model.unreadable"
        ) from error


def refuse_unsafe_file(path: Path) -> None:
    """Raises ModelError when a file is pickle or GGUF, by its suffix or its first bytes."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        magic = b""
    if magic == _GGUF_MAGIC or path.suffix == ".gguf":
        raise ModelError(
            "GGUF weights cannot be trained",
            where=str(path),
            expected="safetensors",
            hint="use the original model that the GGUF file was made from",
            code="model.gguf",
        )
    if path.suffix in PICKLE_SUFFIXES or magic.startswith(_PICKLE_MAGICS):
        raise ModelError(
            "the weights are a pickle file, which can run code when opened",
            where=str(path),
            expected="safetensors",
            hint="convert them once where you trust them: model.save_pretrained(FOLDER) writes safetensors",
            code="model.pickle",
        )


def not_finite(folder: Path, name: str) -> ModelError:
    """The refusal of a weight that holds NaN or infinity: its model has no loss to train on."""
    return ModelError(
        "a weight is not finite: it holds NaN or infinity",
        where=str(folder),
        got=name,
        hint="fetch the model again; if its source has the same values, its training or conversion failed",
        code="model.not-finite",
    )


def _no_weights(folder: Path) -> ModelError:
    for path in sorted(folder.iterdir()):
        if path.suffix in (*PICKLE_SUFFIXES, ".gguf"):
            refuse_unsafe_file(path)
    return ModelError(
        "the folder has no weights",
        where=str(folder),
        expected=f"{SINGLE_FILE} or {INDEX_FILE}",
        hint="weights in pickle files (.bin, .pt) are never read; convert them to safetensors first",
        code="model.no-weights",
    )


def _read_index(path: Path) -> Mapping[str, set[str]]:
    """Weight file → names of the arrays that the index expects in it."""
    try:
        weight_map: Any = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, file in cast("dict[Any, Any]", weight_map).items():
            # A path in here could otherwise link any file of this machine into the copy.
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(f"{file!r} is not the name of a safetensors file")
            shards.setdefault(file, set()).add(str(name))
        if not shards:
            raise ValueError("it names no file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"the index of the weights cannot be used: {error}", where=str(path), code="model.bad-index"
        ) from error
    return shards
