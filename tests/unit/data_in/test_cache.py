"""What is kept in the cache folder, and what goes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import sleep, time

import pytest

from tunewright.cache import (
    DEFAULT_LIMIT_GB,
    LIMIT_VARIABLE,
    UNUSED_SECONDS,
    CachedFile,
    cache_limit,
    make_cached,
    make_cached_folder,
    prune,
)
from tunewright.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from tunewright.cache import CachedFile
held = CachedFile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def make(path: Path, content: bytes = b"x" * 100) -> CachedFile:
    return make_cached(path, path.exists, lambda: [content])


def make_folder(path: Path) -> CachedFile:
    def build() -> None:
        path.mkdir()
        for name in "ab":
            (path / name).write_bytes(b"x" * 50)

    return make_cached_folder(path, build)


def age(path: Path, seconds: float) -> None:
    """Let the file be asked for that long ago."""
    then = time() - seconds
    os.utime(path.with_name(f"{path.name}.lock"), (then, then))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_longest_unused_go_until_the_rest_fits(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        make(tmp_path / name)
        age(tmp_path / name, 100 - number)
    make(tmp_path / "a")  # asked for again
    prune(tmp_path, 400)
    assert len(names(tmp_path)) == 8
    prune(tmp_path, 250)
    assert names(tmp_path) == ["a", "a.lock", "d", "d.lock"]


def test_what_nobody_asked_for_goes_whatever_the_limit(tmp_path: Path) -> None:
    for name in "ab":
        make(tmp_path / name)
    age(tmp_path / "a", UNUSED_SECONDS + 1)
    age(tmp_path / "b", UNUSED_SECONDS - 60)
    prune(tmp_path, 1e9)
    assert names(tmp_path) == ["b", "b.lock"]


def test_a_new_file_makes_room_for_itself_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    make(tmp_path / "a")
    held = make(tmp_path / "b")
    assert names(tmp_path) == ["b", "b.lock"]
    found = make(tmp_path / "b")
    assert held.path == found.path


def test_a_file_in_use_by_another_process_stays(tmp_path: Path) -> None:
    make(tmp_path / "a")
    user = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"held\n"
        age(tmp_path / "a", UNUSED_SECONDS + 1)
        prune(tmp_path, 0)
        assert names(tmp_path) == ["a", "a.lock"]
        user.kill()
    prune(tmp_path, 0)
    assert names(tmp_path) == []


def test_a_file_in_use_here_stays_until_it_is_let_go(tmp_path: Path) -> None:
    held = make(tmp_path / "a")
    prune(tmp_path, 0)
    assert names(tmp_path) == ["a", "a.lock"]
    assert held.path.exists()
    del held
    gc.collect()
    prune(tmp_path, 0)
    assert names(tmp_path) == []


def test_a_file_that_is_being_made_stays(tmp_path: Path) -> None:
    def build() -> Iterator[bytes]:
        yield b"half"
        age(tmp_path / "a", UNUSED_SECONDS + 1)
        prune(tmp_path, 0)
        yield b" and half"

    made = make_cached(tmp_path / "a", lambda: False, build)
    assert made.path.read_bytes() == b"half and half"


def test_what_a_killed_process_left_counts_and_goes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b.lock").touch()
    (tmp_path / "b.new").write_bytes(b"x" * 100)
    age(tmp_path / "b", 10)
    prune(tmp_path, 150)
    assert names(tmp_path) == ["a", "a.lock"]


def test_a_folder_in_use_stays_and_a_free_one_goes_whole(tmp_path: Path) -> None:
    held = make_folder(tmp_path / "used")
    make_folder(tmp_path / "free")
    age(tmp_path / "used", 100)
    prune(tmp_path, 200)
    assert names(tmp_path) == ["free", "free.lock", "used", "used.lock"]
    prune(tmp_path, 150)
    assert names(tmp_path) == ["used", "used.lock"]
    assert names(held.path) == ["a", "b"]


def test_a_folder_whose_removal_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "folder")

    def removed_in_part(path: Path) -> None:
        (path / "a").unlink()
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr("tunewright.cache.shutil.rmtree", removed_in_part)
        prune(tmp_path, 0)
    held = make_folder(tmp_path / "folder")
    assert names(held.path) == ["a", "b"]
    del held
    gc.collect()
    prune(tmp_path, 0)
    assert names(tmp_path) == []


def test_of_two_that_want_a_file_one_makes_it(tmp_path: Path) -> None:
    builds: list[int] = []

    def build() -> Iterator[bytes]:
        builds.append(1)
        sleep(0.2)
        yield b"content"

    path = tmp_path / "a"
    threads = [Thread(target=lambda: make_cached(path, path.exists, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert builds == [1]
    assert path.read_bytes() == b"content"


def test_who_waits_for_a_lock_that_is_removed_takes_its_successor(tmp_path: Path) -> None:
    """Without a second look two processes could write the same file."""
    path = tmp_path / "a"

    def build() -> Iterator[bytes]:
        waiting = Thread(target=lambda: make_cached(path, path.exists, lambda: [b"second"]))
        waiting.start()
        sleep(0.3)
        (tmp_path / "a.lock").unlink()
        yield b"first"
        threads.append(waiting)

    threads: list[Thread] = []
    make_cached(path, path.exists, build)
    threads[0].join(30)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a", "a.lock"]


def test_a_build_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def build() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("not whole")

    with pytest.raises(ValueError, match="not whole"):
        make_cached(tmp_path / "a", lambda: False, build)
    assert names(tmp_path) == ["a.lock"]


def test_the_limit_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert cache_limit() == DEFAULT_LIMIT_GB * 1e9
    monkeypatch.setenv(LIMIT_VARIABLE, "1.5")
    assert cache_limit() == 1.5e9
    for bad in ("much", "-1", "nan"):
        monkeypatch.setenv(LIMIT_VARIABLE, bad)
        with pytest.raises(ConfigError) as caught:
            cache_limit()
        assert caught.value.code == "config.cache-limit"
