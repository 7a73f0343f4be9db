"""Worker processes end with their parent, and their end is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from time import monotonic, sleep

import pytest

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data import tokenise, tokenised_source
from tunewright.data.raw_row import RawRow
from tunewright.data.templates import load_tokenizer
from tunewright.data.token_block import RowTokeniser
from tunewright.data.tokenise_pool import WorkerDied, tokenise_in_processes
from tunewright.types import SourceRef

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

ROW = RawRow({"text": "some words"}, SourceRef("a.jsonl", 1))
ENDLESS = """
import sys
from pathlib import Path
from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data import tokenised_source, tokenise
from tunewright.data.templates import load_tokenizer
tokenised_source.CACHED_ABOVE_BYTES = 0
tokenised_source.choose_processes = lambda size: 2
read = tokenise.iter_chunks
def read_for_ever(path, shown):
    while True:
        yield from read(path, shown)
tokenise.iter_chunks = read_for_ever
data = DataConfig.model_validate({"train": "rows.jsonl"})
tokenised_source.open_tokenised(data.train[0], data, load_tokenizer(Path("model"), None), Path(), print)
"""


def build(folder: Path) -> RowTokeniser:
    tokenizer = load_tokenizer(write_tokenizer(folder / "model", CHATML), None)
    data = DataConfig.model_validate({"train": "a.jsonl"})
    return RowTokeniser(SourceConfig(path="a.jsonl"), "text", data, tokenizer)


def children(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in found for child in path.read_text().split()}


def is_running(pid: int) -> bool:
    """Whether a process is there, and not a zombie that nobody in this container reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ended(pids: set[int]) -> None:
    deadline = monotonic() + 60
    while any(map(is_running, pids)):
        assert monotonic() < deadline, f"still running: {pids}"
        sleep(0.05)


def test_closing_ends_the_processes(tmp_path: Path) -> None:
    before = children(os.getpid())
    blocks = tokenise_in_processes(build(tmp_path), repeat([ROW]), 2)
    assert next(iter(blocks)).rows_read == 1
    started = children(os.getpid()) - before
    assert len(started) == 2
    blocks.close()
    assert not any(map(is_running, started))


def test_a_killed_process_is_noticed(tmp_path: Path) -> None:
    before = children(os.getpid())
    blocks = tokenise_in_processes(build(tmp_path), repeat([ROW]), 2)
    next(iter(blocks))
    for pid in children(os.getpid()) - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        list(blocks)


def test_the_rows_of_a_killed_process_are_made_by_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenised_source, "choose_processes", lambda size: 2)
    tokeniser = build(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "some words"}\n' * 900)
    before, read, said = children(os.getpid()), tokenise.iter_chunks, []

    def read_and_kill(path: Path, shown: str) -> object:
        for number, chunk in enumerate(read(path, shown)):
            if number == 5:
                for pid in children(os.getpid()) - before:
                    os.kill(pid, signal.SIGKILL)
            yield chunk

    monkeypatch.setattr(tokenise, "iter_chunks", read_and_kill)
    table = tokenised_source.open_tokenised(
        tokeniser.source, tokeniser.data, tokeniser.tokenizer, tmp_path, said.append
    )
    assert len(table) == 900
    assert len(said) == 1
    assert "was killed" in said[0]


def test_nothing_is_left_by_a_parent_that_was_killed(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "model", CHATML)
    (tmp_path / "rows.jsonl").write_text('{"text": "some words"}\n' * 100)
    parent = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=tmp_path,
        env={**os.environ, "TUNEWRIGHT_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
    )
    kept = tmp_path / "cache" / "data"
    deadline = monotonic() + 90
    while not any(path.stat().st_size for path in kept.glob("*.new")):
        assert parent.poll() is None
        assert monotonic() < deadline
        sleep(0.05)
    workers = children(parent.pid)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    wait_until_ended(workers)
    assert not list(kept.glob("*.tokens"))
