"""Faults that no single setting shows: settings that contradict each other, and paths that lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunewright.config import node
from tunewright.config.schema import STDIN, RunConfig


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at a setting; `load.py` adds where it was written."""

    path: node.KeyPath
    what: str
    got: str | None = None
    expected: str | None = None
    hint: str | None = None
    code: str = "config.conflict"


def check_settings(config: RunConfig) -> list[Fault]:
    """Everything wrong with a configuration that has the right types."""
    return [fault for check in CHECKS for fault in check(config)]


def _device(config: RunConfig) -> Iterator[Fault]:
    if not re.fullmatch(r"auto|cpu|mps|metal|cuda(:[0-9]{1,3})?", config.device):
        hint = "did you mean cuda?" if config.device.startswith(("gpu", "nvidia", "cuda")) else None
        yield Fault(
            ("device",),
            "unknown device",
            config.device,
            "auto, cpu, mps, metal, cuda or cuda:N",
            hint,
            "config.device",
        )


def _targets(config: RunConfig) -> Iterator[Fault]:
    targets, path = config.adapter.targets, ("adapter", "targets")
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            yield Fault(path, f"not a regular expression: {error}", got=targets, code="config.targets")
    if config.adapter.kind == "lora" and not targets and not config.adapter.modules_to_save:
        yield Fault(path, "no module would be trained", expected="all-linear, a list of names or a regex")


def _start_from(config: RunConfig) -> Iterator[Fault]:
    if config.adapter.kind == "none" and config.adapter.start_from:
        yield Fault(
            ("adapter", "start_from"),
            "an adapter to start from, but adapter.kind is none",
            hint="use adapter.kind: lora, or drop start_from",
        )


def _quantization(config: RunConfig) -> Iterator[Fault]:
    if config.adapter.kind == "none" and config.model.quantization.kind != "none":
        yield Fault(
            ("model", "quantization"),
            "quantised weights cannot be trained themselves, but adapter.kind is none",
            hint="use adapter.kind: lora, or model.quantization: none",
        )


def _run_name(config: RunConfig) -> Iterator[Fault]:
    name = config.run.name
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        yield Fault(
            ("run", "name"),
            "cannot name a folder",
            got=name,
            expected="letters, digits, `.`, `_` and `-`, starting with a letter or digit",
            code="config.run-name",
        )


def _metrics(config: RunConfig) -> Iterator[Fault]:
    track = () if config.track == "auto" else config.track
    for path, names in ((("evaluate", "metrics"), config.evaluate.metrics), (("track",), track)):
        if len(set(names)) < len(names):
            yield Fault(path, "an entry is listed twice", got=", ".join(names))


CHECKS: tuple[Callable[[RunConfig], Iterator[Fault]], ...] = (
    _device,
    _targets,
    _start_from,
    _quantization,
    _run_name,
    _metrics,
)


def check_paths(config: RunConfig, base_dir: Path) -> list[Fault]:
    """Files and folders named by the configuration that are not there. Reads no file."""
    return [
        Fault(
            path,
            "no such file or folder",
            got=str(base_dir / Path(value).expanduser()),
            code="config.no-such-path",
        )
        for path, value in _paths(config)
        if not (base_dir / Path(value).expanduser()).exists()
    ]


def _paths(config: RunConfig) -> Iterator[tuple[node.KeyPath, str]]:
    if config.model.name.startswith((".", "/", "~")):
        yield ("model", "name"), config.model.name
    if config.adapter.start_from:
        yield ("adapter", "start_from"), config.adapter.start_from
    for index, source in enumerate(config.data.train):
        if source.path != STDIN:
            yield ("data", "train", index, "path"), source.path
    if isinstance(config.data.eval, str):
        yield ("data", "eval"), config.data.eval
    if config.data.chat_template:
        yield ("data", "chat_template"), config.data.chat_template
