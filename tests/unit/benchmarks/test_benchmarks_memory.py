"""What the measured processes say of their memory, each in a fresh one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from children import HERE, environment

PEAK = """
import numpy as np
from measure import PeakMemory
first = np.ones(20 * 2**20, np.uint8)
memory = PeakMemory("cpu")
np.ones(200 * 2**20, np.uint8)
np.ones(50 * 2**20, np.uint8)
print(memory.read(weights=30 * 2**20) / 2**20)
"""
# Page faults of a tensor's worth of memory that is freed and taken again.
FAULTS = """
import resource, numpy as np
from measure import hold_heap
HELD
np.ones(64 * 2**20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(64 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(1), cwd=HERE, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_the_peak_counts_what_was_freed_again_less_the_weights() -> None:
    assert printed(PEAK) == pytest.approx(200 - 30, abs=5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_a_held_heap_takes_freed_memory_again_without_page_faults() -> None:
    assert printed(FAULTS.replace("HELD", "hold_heap()")) < printed(FAULTS.replace("HELD", "")) / 4
