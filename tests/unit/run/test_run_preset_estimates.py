"""The memory and speed that a preset's comment promises are what the planner says."""

from __future__ import annotations

import pytest

from tunewright.config.layers import read_preset_text
from tunewright.config.load import load_config
from tunewright.run.devices import GIB, find_device
from tunewright.run.estimate import estimate_run


@pytest.mark.parametrize("name", ["h100", "h200", "m4", "cpu"])
def test_the_comment_is_what_the_planner_says(name, tmp_path):
    device = find_device(name)
    estimate = estimate_run(load_config(None, overrides=[f"preset={name}"]).config, tmp_path, device)
    assert estimate.need.peak <= device.memory_bytes
    peak = f"a peak of {estimate.need.peak / GIB:.1f} GiB"
    where, speed = "a CPU", "; the speed depends on its cores."
    if name != "cpu":
        assert estimate.tokens_per_second is not None
        speed = f", about {float(f'{estimate.tokens_per_second:.2g}'):,.0f} tokens/s (an estimate)."
        where = device.name
    assert read_preset_text(name).splitlines()[1] == f"# Expected by the planner on {where}: {peak}{speed}"
