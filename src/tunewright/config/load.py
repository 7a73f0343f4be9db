"""From a run file and overrides to one checked RunConfig that knows where each value came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tunewright.config import node
from tunewright.config.checks import Fault, check_paths, check_settings
from tunewright.config.faults import explain, where
from tunewright.config.layers import stack_layers
from tunewright.config.node import Node
from tunewright.config.schema import RunConfig
from tunewright.config.yaml_text import MAX_BYTES, read_yaml, write_yaml
from tunewright.errors import ConfigError, ConfigErrors
from tunewright.types import JsonValue

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """base_dir: what relative paths in the configuration are relative to.

    origins: for each setting by its dotted path `default`, `preset demo`, `run.yaml:14` or `--set`.
    """

    config: RunConfig
    base_dir: Path
    origins: Mapping[str, str]


def load_config(path: Path | None, *, overrides: Sequence[str] = (), text: str | None = None) -> LoadedConfig:
    """The configuration of a run file: its preset, then the file, then `overrides` (`train.epochs=2`).

    path: None when everything comes from `text` or overrides. text: read instead of the file's content.
    Raises ConfigErrors that name every fault, each with the line it was written on.
    """
    name = str(path) if path is not None else "run file"
    file, faults = _read_layer(path, text, name, needed=not overrides)
    tree, more = stack_layers(file, overrides)
    faults += more
    try:
        config = RunConfig.model_validate(node.plain(tree))
    except ValidationError as error:
        raise ConfigErrors(faults + explain(error, tree, name)) from None
    faults += [_config_error(fault, where(tree, fault.path)) for fault in check_settings(config)]
    if faults:
        raise ConfigErrors(faults)
    base_dir = path.absolute().parent if path is not None else Path.cwd()
    return LoadedConfig(config, base_dir, dict(_origins(config, tree)))


def _read_layer(
    path: Path | None, text: str | None, name: str, *, needed: bool
) -> tuple[Node, list[ConfigError]]:
    if text is None:
        text = _read_text(path) if path is not None else ""
    root, faults = read_yaml(text, name)
    if root is None:
        if path is not None or needed:
            raise _file_error("empty", name, "empty", "a run file; `model` and `data.train` are enough")
        root = Node({}, name)
    if not isinstance(root.value, dict):
        raise _file_error(
            "not a mapping", name, "not-a-mapping", "`key: value` lines, such as `model: builtin:tiny`"
        )
    return root, faults


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise _file_error("no such file", str(path), "no-file", None) from None
    except IsADirectoryError:
        raise _file_error("a folder", str(path), "no-file", "a YAML file") from None
    except OSError as error:
        raise _file_error(f"cannot be read: {error.strerror}", str(path), "no-file", None) from None
    except UnicodeDecodeError as error:
        # A cut at the size limit can split a character, and the size is then the fault to name.
        if error.start >= MAX_BYTES - 4:
            return " " * (MAX_BYTES + 1)
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise _file_error("not UTF-8 text", f"{path}:{line}", "syntax", None) from None


def _file_error(what: str, where: str, code: str, expected: str | None) -> ConfigErrors:
    return ConfigErrors([ConfigError(what, where=where, expected=expected, code=f"config.{code}")])


def _config_error(fault: Fault, place: str) -> ConfigError:
    return ConfigError(
        fault.what, where=place, got=fault.got, expected=fault.expected, hint=fault.hint, code=fault.code
    )


def check_files(loaded: LoadedConfig) -> None:
    """Raise ConfigErrors that name every file or folder of the configuration that is not there."""
    faults = check_paths(loaded.config, loaded.base_dir)
    if faults:
        raise ConfigErrors([_config_error(fault, _place(fault.path, loaded)) for fault in faults])


def _place(path: node.KeyPath, loaded: LoadedConfig) -> str:
    return f"{node.dotted(path)} ({loaded.origins[node.dotted(path)]})"


def _origins(config: RunConfig, tree: Node) -> Iterator[tuple[str, str]]:
    for path, _ in leaves(config.model_dump(mode="json")):
        yield node.dotted(path), node.origin_at(tree, path) or DEFAULT


def leaves(value: JsonValue, path: node.KeyPath = ()) -> Iterator[tuple[node.KeyPath, JsonValue]]:
    """Every setting with its path. A list of plain values is one setting; a list of mappings is many."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, child in enumerate(value):
            yield from leaves(child, (*path, index))
    else:
        yield path, value


def dump_config(config: RunConfig) -> str:
    """The configuration as a complete run file: loading it gives an equal configuration."""
    return write_yaml(config.model_dump(mode="json"))


def config_hash(config: RunConfig) -> str:
    """SHA-256 of the configuration. Equal for equal configurations, however they were written."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
