"""Memory that a process may use, from files as the kernel writes them."""

from __future__ import annotations

import mmap
import os
import resource
import sys
from pathlib import Path

import pytest

from tunewright import host_memory
from tunewright.host_memory import (
    free_memory_bytes,
    host_memory_bytes,
    peak_process_bytes,
    resident_bytes,
)
from tunewright.service.inference.settings import InferenceSettings
from tunewright.service.worker.machine import find_capabilities

PHYSICAL = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")
VM_STAT = """#!/bin/sh
cat <<END
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               1000.
Pages active:                            50000.
Pages inactive:                            200.
Pages speculative:                          30.
Pages throttled:                             0.
END
"""


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


def test_a_mac_has_fewer_names_for_it(groups, monkeypatch: pytest.MonkeyPatch):
    values = {"SC_PAGESIZE": 16384, "SC_PHYS_PAGES": 100}

    def known(name: str) -> int:
        if name not in values:
            raise ValueError("unrecognized configuration name")
        return values[name]

    monkeypatch.setattr(os, "sysconf", known)
    assert host_memory_bytes() == 1638400
    assert find_capabilities().memory_bytes == 1638400
    assert InferenceSettings().budget == 409600


def test_models_for_chats_and_workers_count_with_the_memory_of_the_container(groups):
    groups("0::/\n", {"memory.max": "8192000"})
    assert InferenceSettings().budget == 2048000
    assert InferenceSettings(memory_bytes=5).budget == 5
    assert find_capabilities().memory_bytes == 8192000


def test_free_memory_is_what_machine_and_groups_have_left(groups, tmp_path: Path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemFree:  100 kB\nMemAvailable:  9000 kB\n")
    monkeypatch.setattr(host_memory, "MEMORY", tmp_path / "meminfo")
    groups("0::/job\n", {"job/memory.max": "max"})
    assert free_memory_bytes() == 9000 * 1024
    stat = "anon 5\ninactive_file 1000000\nactive_file 7"
    limits = {"job/memory.max": "8000000", "job/memory.current": "3000000", "job/memory.stat": stat}
    groups("0::/job\n", limits)
    assert free_memory_bytes() == 8000000 - (3000000 - 1000000)
    groups("0::/job\n", {**limits, "job/memory.current": "9900000"})
    assert free_memory_bytes() == 0
    groups("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert free_memory_bytes() == 9000 * 1024


def test_a_mac_counts_pages(groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_memory_bytes() == 0
    (tmp_path / "vm_stat").write_text(VM_STAT.replace("cat", "/bin/cat"))
    (tmp_path / "vm_stat").chmod(0o755)
    assert free_memory_bytes() == 1230 * 16384


def test_memory_of_this_process_now_and_at_most():
    before, peak = resident_bytes(), peak_process_bytes()
    # Pages of its own: what other tests gave back to the heap is counted already.
    size = peak - before + 64 * 2**20
    block = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        block[page] = 1
    assert resident_bytes() >= before + size // 2
    grown = peak_process_bytes()
    assert grown >= peak + 32 * 2**20
    block.close()
    # The kernel counts in batches of pages.
    assert peak_process_bytes() >= grown - 2**20


def test_without_the_kernels_account_it_is_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_memory, "STATUS", tmp_path / "none")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert resident_bytes() == peak_process_bytes() == peak
