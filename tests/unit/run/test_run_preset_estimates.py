"""The memory and speed that a preset's comment promises are what the planner says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunewright.config.layers import read_preset_text
from tunewright.config.load import load_config
from tunewright.run.devices import GIB, find_device
from tunewright.run.estimate import estimate_run


@pytest.mark.parametrize("name", ["h100", "h200", "m4"])
def test_the_comment_is_what_the_planner_says(name, tmp_path):
    device = find_device(name)
    estimate = estimate_run(load_config(None, overrides=[f"preset={name}"]).config, tmp_path, device)
    assert estimate.need.peak <= device.memory_bytes
    peak = f"a peak of {estimate.need.peak / GIB:.1f} GiB"
    assert estimate.tokens_per_second is not None
    speed = f"about {float(f'{estimate.tokens_per_second:.2g}'):,.0f} tokens/s (an estimate)."
    said = f"# Expected by the planner on {device.name}: {peak}, {speed}"
    assert read_preset_text(name).splitlines()[1] == said


def test_the_comment_of_a_cpu_is_for_those_with_and_without_bf16(tmp_path):
    peaks = {}
    for dtypes in (("fp32",), ("fp32", "bf16")):
        device = replace(find_device("cpu"), dtypes=dtypes, memory_bytes=0)
        estimate = estimate_run(load_config(None, overrides=["preset=cpu"]).config, tmp_path, device)
        assert estimate.facts.precision == dtypes[-1]
        peaks[dtypes[-1]] = f"{estimate.need.peak / GIB:.1f} GiB in {dtypes[-1]}"
    said = f"a peak of {peaks['bf16']}, {peaks['fp32']}; the speed depends on its cores."
    assert read_preset_text("cpu").splitlines()[1] == f"# Expected by the planner on a CPU: {said}"
