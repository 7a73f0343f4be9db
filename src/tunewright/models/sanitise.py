"""The sanitised copy of a model folder: what the engines load from, and nothing that could run code.

A folder in the cache with links to the checked safetensors files and filtered copies of the JSON files. It is
named by what it holds, made under a temporary name and renamed, so that processes can share it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunewright.cache import CACHE_VARIABLE, CachedFile, cache_folder, make_cached_folder
from tunewright.errors import ModelError
from tunewright.files import commit_folder, write_file
from tunewright.models.adapter_files import is_adapter_folder
from tunewright.models.config_filter import filter_config
from tunewright.models.weights import INDEX_FILE, SINGLE_FILE, find_weights

MOST_JSON_BYTES = 64 * 2**20

_TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_SLOW_TOKENIZER_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
# Tokenizer settings that ask for code, or that name files and repositories elsewhere.
_TOKENIZER_LEFT_OUT = {"auto_map", "trust_remote_code", "code_revision", "name_or_path", "tokenizer_file"}
_GENERATION_KEYS = {
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "min_p",
    "pad_token_id",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
}
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class SanitisedCopy:
    """warnings: what was left out. held: keeps the folder in the cache; None where others own that."""

    folder: Path
    warnings: tuple[str, ...]
    held: CachedFile | None


def sanitised_copy(source: Path) -> SanitisedCopy:
    """The sanitised copy of the model folder `source`.

    Raises ModelError naming the file and what is unsafe, missing or not supported in it.
    """
    written, warnings = checked_settings(source)
    weights = find_weights(source)
    if len(weights) > 1 or weights[0].name != SINGLE_FILE:
        written[INDEX_FILE] = (source / INDEX_FILE).read_bytes()
    return _copy(written, {path.name: path.resolve() for path in weights}, warnings)


def tokenizer_copy(source: Path) -> SanitisedCopy:
    """The sanitised copy of the tokenizer of a folder, which needs to hold no weights and no config.

    Raises as sanitised_copy does.
    """
    return _copy({**_tokenizer_files(source), **_generation_files(source)}, {}, ())


def _copy(
    written: Mapping[str, bytes], links: Mapping[str, Path], warnings: tuple[str, ...]
) -> SanitisedCopy:
    folder = cache_folder() / "models" / _digest(written, links)
    try:
        return SanitisedCopy(folder, warnings, _keep(folder, written, links))
    except OSError as error:
        raise ModelError(
            f"the cache of checked models cannot be written: {error.strerror}",
            where=str(folder.parent),
            hint=f"free some disk space, or set {CACHE_VARIABLE} to a folder that can be written",
            code="model.cache",
        ) from error


def _keep(folder: Path, written: Mapping[str, bytes], links: Mapping[str, Path]) -> CachedFile | None:
    try:
        return make_cached_folder(folder, lambda: _make(folder, written, links))
    except OSError as error:
        # A cache that was filled by somebody else can be read without a lock; whoever owns it prunes it.
        if error.errno in _NOT_OURS and folder.exists():
            return None
        raise


def checked_settings(source: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The filtered small files of a model folder by name, and warnings; needs no weights to be there."""
    path = source / "config.json"
    if not path.is_file():
        raise _no_config(source)
    config, warnings = filter_config(read_json(path), str(path))
    return {"config.json": _dump(config), **_tokenizer_files(source), **_generation_files(source)}, warnings


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping, in which numbers may be infinite but not NaN. Raises ModelError naming the file."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ValueError(f"it has more than {MOST_JSON_BYTES} bytes")
        value: Any = json.loads(path.read_text(encoding="utf-8"), parse_constant=_read_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the file cannot be read: {error}", where=str(path), code="model.bad-json"
        ) from error
    if not isinstance(value, dict):
        raise ModelError("the file is not a JSON mapping", where=str(path), code="model.bad-json")
    return cast("dict[str, Any]", value)


def _read_bytes(path: Path) -> bytes:
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ModelError(
            "the file is too large",
            where=str(path),
            got=f"{path.stat().st_size} bytes",
            expected=f"at most {MOST_JSON_BYTES}",
            code="model.bad-json",
        )
    return path.read_bytes()


def _tokenizer_files(source: Path) -> dict[str, bytes]:
    if not (source / "tokenizer.json").is_file():
        slow = [name for name in _SLOW_TOKENIZER_FILES if (source / name).exists()]
        raise ModelError(
            "the model has no fast tokenizer",
            where=str(source),
            got=", ".join(slow) or "no tokenizer file",
            expected="tokenizer.json",
            hint="convert it once: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            if slow
            else "copy tokenizer.json and tokenizer_config.json from the model it was made from",
            code="model.no-tokenizer",
        )
    written = {name: _read_bytes(source / name) for name in _TOKENIZER_FILES if (source / name).is_file()}
    settings_path = source / "tokenizer_config.json"
    if settings_path.is_file():
        settings = read_json(settings_path)
        kept = {key: settings[key] for key in settings if not _asks_for_code(key)}
        written[settings_path.name] = _dump(kept)
    return written


def _generation_files(source: Path) -> dict[str, bytes]:
    path = source / "generation_config.json"
    if not path.is_file():
        return {}
    settings = read_json(path)
    return {path.name: _dump({key: settings[key] for key in settings if key in _GENERATION_KEYS})}


def _asks_for_code(key: str) -> bool:
    return key in _TOKENIZER_LEFT_OUT or key.startswith("_")


def _no_config(source: Path) -> ModelError:
    if is_adapter_folder(source):
        return ModelError(
            "the folder holds an adapter, not a model",
            where=str(source),
            hint=f"name its base model and use the folder as adapter: --adapter {source}",
            code="model.is-adapter",
        )
    return ModelError(
        "there is no model here",
        where=str(source),
        expected="config.json, *.safetensors and tokenizer.json",
        code="model.no-config",
    )


def _digest(written: Mapping[str, bytes], links: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(written):
        digest.update(f"{name} {len(written[name])}\n".encode())
        digest.update(written[name])
    for name in sorted(links):
        facts = links[name].stat()
        digest.update(f"{name} {links[name]} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _make(folder: Path, written: Mapping[str, bytes], links: Mapping[str, Path]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        for name, content in written.items():
            write_file(temporary / name, [content])
        for name, target in links.items():
            _link(target, temporary / name)
        try:
            commit_folder(temporary, folder)
        except OSError:
            # Another process may have made the same copy meanwhile; theirs is as good.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(target: Path, link: Path) -> None:
    # A symbolic link first: a hard link would keep the bytes of a model that its owner has deleted.
    try:
        link.symlink_to(target)
    except OSError:
        os.link(target, link)


def _dump(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_constant(name: str) -> float:
    """Python writes these words, and so do libraries that leave JSON to it."""
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)
