"""The run folder keeps a second process and other files out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.config.schema import RunConfig
from tunewright.errors import RunError
from tunewright.run.folder import RunFolder, check_unused, default_folder, lock_folder, new_folder, newest_run

HOLD = """
import sys, time
from pathlib import Path
from tunewright.run.folder import RunFolder, lock_folder
with lock_folder(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError) as caught, lock_folder(RunFolder(tmp_path / "run")):
            pass
        assert caught.value.code == "run.locked"
        assert str(holder.pid) in str(caught.value)
    finally:
        holder.kill()
        holder.communicate()
    with lock_folder(RunFolder(tmp_path / "run")):
        assert json.loads((tmp_path / "run/run.lock").read_text())["pid"] == os.getpid()


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    def fail(*names: str) -> None:
        with lock_folder(RunFolder(tmp_path / "run")):
            for name in names:
                (tmp_path / "run" / name).touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ZeroDivisionError):
        fail("events.jsonl")
    assert (tmp_path / "run/events.jsonl").exists()


def test_only_a_new_or_empty_folder_is_unused(tmp_path: Path) -> None:
    check_unused(RunFolder(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/run.lock").touch()
    check_unused(RunFolder(tmp_path / "empty"))
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(RunError, match=r"notes\.txt"):
        check_unused(RunFolder(tmp_path / "empty"))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/events.jsonl").touch()
    with pytest.raises(RunError, match="already holds a run"):
        check_unused(RunFolder(tmp_path / "old"))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        check_unused(RunFolder(tmp_path / "file"))


def test_the_newest_run_is_the_one_that_wrote_last(tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    for name, time in (("a", 2000), ("b", 1000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").touch()
        os.utime(tmp_path / name / "events.jsonl", (time, time))
    assert newest_run(tmp_path) == RunFolder(tmp_path / "a")


def test_a_default_folder_says_model_and_data() -> None:
    config = RunConfig.model_validate({"model": "Qwen/Qwen2.5-0.5B", "data": {"train": "my data.json"}})
    assert default_folder(config).name.startswith("qwen2-5-0-5b-my-data-")
    named = config.model_copy(update={"run": config.run.model_copy(update={"name": "first"})})
    assert default_folder(named) == Path("runs/first")


def test_a_failed_new_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), new_folder(tmp_path / "final") as folder:
        (folder / "half").touch(exist_ok=False) or (folder / "half").touch(exist_ok=False)
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "final") as folder:
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_new_folder_clears_what_dead_processes_left(tmp_path: Path) -> None:
    for name in ("tmp-step-000001", "tmp-final", "old-final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("half")
    (tmp_path / "final").mkdir()
    with new_folder(tmp_path / "final") as folder:
        (folder / "a").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["a"]


def test_a_folder_with_only_unfinished_files_is_unused(tmp_path: Path) -> None:
    """A process killed before config.yaml had its name left no run."""
    (tmp_path / "run.lock").touch()
    (tmp_path / "tmp-config.yaml").write_text("model: bui")
    check_unused(RunFolder(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="not empty"):
        check_unused(RunFolder(tmp_path))
