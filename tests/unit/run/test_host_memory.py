"""Memory that a process may use, from files as the kernel writes them."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from tunewright import host_memory
from tunewright.host_memory import host_memory_bytes, peak_process_bytes, resident_bytes

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write the kernel's files: groups(own, {path: limit})."""
    monkeypatch.setattr(host_memory, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host_memory, "OWN_GROUPS", tmp_path / "own")

    def write(own: str, limits: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for path, limit in limits.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{limit}\n")

    return write


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/job/run\n", {"job/run/memory.max": "1048576", "job/memory.max": "max"}, 1048576),
        ("0::/job/run\n", {"job/run/memory.max": "max", "job/memory.max": "2097152"}, 2097152),
        ("0::/\n", {"memory.max": "4096000"}, 4096000),
        ("0::/on/the/host\n", {"memory.max": "8192000"}, 8192000),
        ("5:cpu:/\n4:memory:/box\n0::/\n", {"memory/box/memory.limit_in_bytes": "123456"}, 123456),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),
        ("0::/\n", {"memory.max": "max"}, PHYSICAL),
        ("0::/\n", {}, PHYSICAL),
    ],
)
def test_the_smallest_limit_of_all_groups_counts(groups, own, limits, expected):
    groups(own, limits)
    assert host_memory_bytes() == expected


def test_without_control_groups_it_is_the_memory_of_the_machine(groups):
    assert host_memory_bytes() == PHYSICAL


def test_nothing_that_tells_is_0(groups, monkeypatch: pytest.MonkeyPatch):
    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert host_memory_bytes() == 0


def test_memory_of_this_process_now_and_at_most():
    before, peak = resident_bytes(), peak_process_bytes()
    block = bytearray(b"\1") * (peak - before + 64 * 2**20)
    assert resident_bytes() >= before + len(block) // 2
    grown = peak_process_bytes()
    assert grown >= peak + 32 * 2**20
    del block
    # The kernel counts in batches of pages.
    assert peak_process_bytes() >= grown - 2**20


def test_without_the_kernels_account_it_is_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_memory, "STATUS", tmp_path / "none")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert resident_bytes() == peak_process_bytes() == peak
