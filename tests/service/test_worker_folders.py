"""Folders of jobs on a worker's machine: which are forgotten, and that none is while it is in use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tunewright.service.worker import loop
from tunewright.service.worker.loop import FORGOTTEN_SECONDS

LONG_AGO = time.time() - FORGOTTEN_SECONDS - 3600


def make_folder(root: Path, *recent: str) -> Path:
    """The folder of a job in which nothing is new but these files."""
    folder = root / "ftjob-x"
    for name in ("stderr.log", "training.jsonl", "run/events.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    for path in (*folder.rglob("*"), folder):
        if str(path.relative_to(folder)) not in recent:
            os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def test_a_folder_that_nobody_came_back_to_goes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    loop._forget_old_folders(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("recent", ["stderr.log", "run/events.jsonl"])
def test_the_folder_of_a_run_of_weeks_stays(recent: str, tmp_path: Path) -> None:
    """Another worker of this machine may train there."""
    folder = make_folder(tmp_path, recent)
    loop._forget_old_folders(tmp_path)
    assert folder.exists()
