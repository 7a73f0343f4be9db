"""The run folder: where everything of one run lives, and the lock that keeps a second process out."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tunewright.config.schema import RunConfig
from tunewright.errors import RunError
from tunewright.files import TEMPORARY, commit_folder, make_folder

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Layout: docs/concepts/run-folder.md."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def data_report(self) -> Path:
        return self.path / "data_report.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def holds_run(self) -> bool:
        """Whether a run was started here before."""
        return self.config.exists() or self.events.exists()


@contextmanager
def lock_folder(folder: RunFolder) -> Generator[None]:
    """Hold run.lock while the body runs. The folder is made if it is not there.

    Raises RunError (`run.locked`) with the holder's process and host when another process has it, and
    (`run.not-writable`) when the folder cannot be made.
    """
    try:
        make_folder(folder.path)
        handle = os.open(folder.path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(
            f"cannot write to the run folder: {error.strerror}",
            where=str(folder.path),
            hint="choose another folder with --out",
            code="run.not-writable",
        ) from error
    try:
        _take(handle, folder.path)
        try:
            yield
        except BaseException:
            _remove_unused(folder.path)
            raise
    finally:
        os.close(handle)


def _remove_unused(path: Path) -> None:
    """A run that failed before it wrote anything leaves no folder behind."""
    # The folder may be gone or not ours to change; neither may hide why the run failed.
    with suppress(OSError):
        if [item.name for item in path.iterdir()] == ["run.lock"]:
            (path / "run.lock").unlink()
            path.rmdir()


def _take(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 4096, 0).decode(errors="replace").strip() or "an unknown process"
        raise RunError(
            "another process is training in this folder",
            where=str(path),
            got=holder,
            hint="wait for it, stop it, or choose another folder with --out",
            code="run.locked",
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def check_unused(folder: RunFolder) -> None:
    """Refuse a folder that holds another run or files that are not ours.

    Raises RunError (`run.folder-in-use`).
    """
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise RunError(
            "the run folder is a file",
            where=str(folder.path),
            hint="choose another folder with --out",
            code="run.folder-in-use",
        )
    if folder.holds_run():
        raise RunError(
            "this folder already holds a run",
            where=str(folder.path),
            hint="add --resume to go on with it, or choose another folder with --out",
            code="run.folder-in-use",
        )
    others = sorted(
        item.name
        for item in folder.path.iterdir()
        if item.name != "run.lock" and not item.name.startswith(TEMPORARY)
    )
    if others:
        raise RunError(
            "the folder is not empty and holds no run",
            where=str(folder.path),
            got=", ".join(others[:3]),
            expected="a new or empty folder",
            hint="choose another folder with --out",
            code="run.folder-in-use",
        )


def default_folder(config: RunConfig) -> Path:
    """runs/<name>; without a name: model, data file and time."""
    if config.run.name:
        return RUNS / config.run.name
    words = (Path(config.model.name).name, Path(config.data.train[0].path).stem)
    plain = (re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-").lower() for word in words)
    return RUNS / "-".join((*plain, datetime.now().strftime("%Y%m%d-%H%M%S")))


def newest_run(root: Path) -> RunFolder | None:
    """The run below `root` that wrote an event last; None when there is none."""
    runs = [RunFolder(path) for path in root.glob("*/") if (path / "events.jsonl").exists()]
    return max(runs, key=lambda run: run.events.stat().st_mtime_ns, default=None)


@contextmanager
def new_folder(final: Path) -> Generator[Path]:
    """A temporary folder beside `final` that takes its name when the body succeeds, and goes otherwise. What
    had the name before is moved aside first and removed last, so that a crash loses neither."""
    temporary = final.with_name(f"{TEMPORARY}{final.name}-{os.getpid()}")
    aside = final.with_name(f"old-{final.name}")
    # run.lock keeps other live writers out: what is unfinished here is of a process that died.
    for leftover in final.parent.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
        commit_folder(temporary, final)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
