"""The one write primitive."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tunewright.files import commit_folder, hash_file, replace_file, write_file, write_json


def test_digest_is_of_the_bytes_on_disk(tmp_path: Path):
    chunks = [b"abc", memoryview(b""), memoryview(bytes(range(8))).cast("H"), b"x" * 100_000]
    digest = write_file(tmp_path / "a", chunks)
    data = (tmp_path / "a").read_bytes()
    assert data == b"".join(bytes(chunk) for chunk in chunks)
    assert (digest.bytes, digest.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert hash_file(tmp_path / "a") == digest


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data[:7])))
    assert write_file(tmp_path / "a", [bytes(range(100))]) == hash_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_failed_write_leaves_no_file_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(tmp_path / "a", [b"abc"])
    assert caught.value.filename == str(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_chunk_that_cannot_be_made_leaves_no_file(tmp_path: Path):
    def chunks():
        yield b"abc"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_file(tmp_path / "a", chunks())
    assert list(tmp_path.iterdir()) == []


def test_json_is_canonical_and_refuses_nan(tmp_path: Path):
    assert write_json(tmp_path / "a", {"b": 1, "a": "ü"}) == write_json(tmp_path / "b", {"a": "ü", "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "c", float("nan"))
    assert not (tmp_path / "c").exists()


def test_commit_never_replaces_a_folder_with_content(tmp_path: Path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        write_file(tmp_path / name / "a", [name.encode()])
    with pytest.raises(OSError, match="not empty"):
        commit_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "a").read_bytes() == b"old"
    commit_folder(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "a").read_bytes() == b"new"


def test_a_replaced_file_is_old_or_new_at_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    for call in ("open", "write", "fsync", "replace"):
        path.write_bytes(b"old")
        with monkeypatch.context() as broken:
            broken.setattr(os, call, _refuse)
            with pytest.raises(OSError, match="refused"):
                replace_file(path, [b"new"])
        assert path.read_bytes() == b"old", call
    replace_file(path, [b"new"])
    assert path.read_bytes() == b"new"


def _refuse(*unused: object, **also: object) -> int:
    raise OSError(5, "refused")
