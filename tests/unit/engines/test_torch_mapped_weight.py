"""Pages of a weight file are let go of once the weight is packed, and nothing else is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunewright.engines.torch.mapped_weight import release_weight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell its mappings")
MIB = 2**20


def _resident_mib(path: Path) -> float:
    """Memory of this process that is pages of the file."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


def test_a_weight_that_was_read_leaves_memory_and_its_neighbour_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.full((2, MIB), float(at)) for at, name in enumerate("ab")}, path)
    with safe_open(path, framework="pt") as file:
        first, second = file.get_slice("a")[...], file.get_slice("b")[...]
    assert (float(first.sum()), float(second.sum())) == (0.0, 2.0 * MIB)
    assert _resident_mib(path) > 15
    release_weight(first)
    assert 7 < _resident_mib(path) < 9
    assert (float(first.sum()), float(second.sum())) == (0.0, 2.0 * MIB)


def test_memory_that_is_no_file_keeps_its_content() -> None:
    weight = torch.ones(4, MIB)
    release_weight(weight)
    assert float(weight.sum()) == 4 * MIB


def test_a_file_that_is_no_weight_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    path.write_bytes(b"\1" * 4 * MIB)
    mapped = torch.from_file(str(path), shared=False, size=4 * MIB, dtype=torch.uint8)
    mapped += 1
    release_weight(mapped)
    assert int(mapped.sum()) == 8 * MIB
