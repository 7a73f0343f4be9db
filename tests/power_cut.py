"""A model of a disk below one folder: what was synced is there after a power cut, the rest may not be.

While `installed`, it follows the calls of the module os and knows at each moment which bytes of a file and
which names of a folder the system has promised to keep (POSIX: fsync of the file, fsync of the folder).
`survivors` writes what is left after a cut at that moment.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")

# What survives beside what was synced. `some`: each name and each file at random, files cut anywhere.
SURVIVALS = ("nothing", "names", "contents", "all", "some")


@dataclass(eq=False)
class FileNode:
    live: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class FolderNode:
    live: dict[str, FileNode | FolderNode] = field(default_factory=dict)
    synced: dict[str, FileNode | FolderNode] = field(default_factory=dict)


Node = FileNode | FolderNode


class PowerCut:
    """root: the folder that is modelled; what is there at the start counts as synced. moment: called before
    each change and in the middle of each write."""

    def __init__(self, root: Path, moment: Callable[[PowerCut], None]) -> None:
        self.root = root
        self._moment = moment
        self._handles: dict[int, Node] = {}
        self._tree = _read_tree(root)
        self._real = {name: getattr(os, name) for name in CALLS}

    @contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, getattr(self, f"_{name}"))
            yield

    def survivors(self, folder: Path, survival: str, chance: random.Random) -> None:
        """Write what a cut right now leaves, as `folder`."""
        folder.mkdir()
        _write_tree(folder, self._tree, survival, chance)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        parent, name = self._locate(path, dir_fd)
        if parent and flags & os.O_CREAT and name not in parent.live:
            self._change()
            parent.live[name] = FileNode()
        handle = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        node = self._tree if Path(path) == self.root else parent and parent.live.get(name)
        if node:
            self._handles[handle] = node
            if isinstance(node, FileNode) and flags & os.O_TRUNC:
                node.live = b""
        return handle

    def _close(self, handle: int) -> None:
        self._handles.pop(handle, None)
        self._real["close"](handle)

    def _write(self, handle: int, data: Any) -> int:
        node = self._handles.get(handle)
        if not isinstance(node, FileNode):
            return self._real["write"](handle, data)
        size = self._real["write"](handle, data)
        written = bytes(data[:size])
        for part in (written[: size // 2], written[size // 2 :]):
            self._change()
            node.live += part
        return size

    def _fsync(self, handle: int) -> None:
        # The real call would only take time: what it promises is what is modelled here.
        node = self._handles.get(handle)
        self._change()
        if isinstance(node, FileNode):
            node.synced = node.live
        elif node:
            node.synced = dict(node.live)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._change()
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        parent, name = self._locate(path, dir_fd)
        if parent:
            parent.live[name] = FolderNode()

    def _rename(self, source: Any, target: Any) -> None:
        self._change()
        self._real["rename"](source, target)
        (old, old_name), (new, new_name) = self._locate(source, None), self._locate(target, None)
        if old and new:
            new.live[new_name] = old.live.pop(old_name)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._change()
        self._real["unlink"](path, dir_fd=dir_fd)
        self._forget(path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._change()
        self._real["rmdir"](path, dir_fd=dir_fd)
        self._forget(path, dir_fd)

    def _forget(self, path: Any, dir_fd: int | None) -> None:
        parent, name = self._locate(path, dir_fd)
        if parent:
            parent.live.pop(name, None)

    def _change(self) -> None:
        self._moment(self)

    def _locate(self, path: Any, dir_fd: int | None) -> tuple[FolderNode | None, str]:
        """The modelled folder that a path lies in, None outside of the root, and its last name."""
        given = Path(os.fspath(path))
        if dir_fd is not None:
            parent = self._handles.get(dir_fd)
            return (parent if isinstance(parent, FolderNode) else None), given.name
        if not given.is_relative_to(self.root) or given == self.root:
            return None, given.name
        node: Node | None = self._tree
        for part in given.relative_to(self.root).parts[:-1]:
            node = node.live.get(part) if isinstance(node, FolderNode) else None
        return (node if isinstance(node, FolderNode) else None), given.name


def _read_tree(folder: Path) -> FolderNode:
    entries: dict[str, Node] = {}
    for path in folder.iterdir():
        data = b"" if path.is_dir() else path.read_bytes()
        entries[path.name] = _read_tree(path) if path.is_dir() else FileNode(data, data)
    return FolderNode(entries, dict(entries))


def _write_tree(folder: Path, node: FolderNode, survival: str, chance: random.Random) -> None:
    for name, child in _left_of(node, survival, chance).items():
        if isinstance(child, FolderNode):
            (folder / name).mkdir()
            _write_tree(folder / name, child, survival, chance)
        else:
            (folder / name).write_bytes(_bytes_left_of(child, survival, chance))


def _left_of(node: FolderNode, survival: str, chance: random.Random) -> dict[str, Node]:
    if survival in ("names", "all"):
        return node.live
    left = dict(node.synced)
    if survival == "some":
        for name in sorted(node.live.keys() | node.synced.keys()):
            if chance.random() < 0.5:
                child = node.live.get(name)
                left = {key: value for key, value in left.items() if key != name}
                if child:
                    left[name] = child
    return left


def _bytes_left_of(node: FileNode, survival: str, chance: random.Random) -> bytes:
    if node.live == node.synced or survival in ("contents", "all"):
        return node.live
    if survival == "some":
        kept = chance.randrange(len(node.live) + 1)
        return node.live[:kept] + chance.choice([b"", b"\0" * (len(node.live) - kept)])
    return node.synced
