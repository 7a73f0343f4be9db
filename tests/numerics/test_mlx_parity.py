"""The MLX engine computes what the PyTorch engine does, family by family.

Both in fp32 from the same files, the same start values and the same batches. Sums of a few thousand floats
in another order differ by about 1e-6, and 20 steps carry that on; 1e-4 leaves room for it, and a wrong
window, norm, angle or soft cap is off by 1e-3 and more. The engine's own check sees where it differs from
mlx-lm's classes; only this comparison sees where those differ from transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES
from tunewright.engines.mlx.engine import build_engine as build_mlx
from tunewright.engines.torch.engine import build_engine as build_torch

DOCUMENTS = draw_documents([5, 35, 2])  # one of more than two windows of 16
BATCH = lay_out([DOCUMENTS], width=64)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_equal_those_of_torch(family: str, family_folder):
    spec = build_spec(family_folder(family))
    engines = [build_torch(spec), build_mlx(spec)]
    for _ in range(20):
        stats = []
        for engine in engines:
            engine.forward_backward([BATCH], denominator=total_weight(DOCUMENTS))
            stats.append(engine.optim_step(lr=1e-3, skip_above=None).read())
        expected, got = stats
        assert got.sums.loss == pytest.approx(expected.sums.loss, rel=1e-4)
        assert got.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
        assert (got.sums.tokens, got.sums.weight) == (expected.sums.tokens, expected.sums.weight)
    before, after = (engine.evaluate(BATCH).loss for engine in (build_mlx(spec), engines[1]))
    assert after < 0.999 * before


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "other theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    "older theta": ("llama", {"rope_parameters": None, "rope_theta": 3_000.0}),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            }
        },
    ),
    "half of a head turns": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "window in upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None},
    ),
    "no window": ("mistral", {"sliding_window": None}),
    "older Gemma 3": (
        "gemma3",
        {
            "rope_parameters": None, "layer_types": None, "sliding_window_pattern": 2,
            "rope_theta": 20_000.0, "rope_local_base_freq": 5_000.0,
        },
    ),
    "defaults left out": ("gemma2", {"query_pre_attn_scalar": None, "layer_types": None}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_config_says_is_heard(variant: str, family_folder, tmp_path: Path):
    family, changes = VARIANTS[variant]
    folder = tmp_path / "model"
    shutil.copytree(family_folder(family), folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    spec = build_spec(folder)
    expected, plain = (build_torch(build_spec(f)).evaluate(BATCH) for f in (folder, family_folder(family)))
    assert build_mlx(spec).evaluate(BATCH).loss == pytest.approx(expected.loss, rel=1e-5)
    if variant != "defaults left out":
        assert expected.loss != pytest.approx(plain.loss, rel=1e-4)


def test_gemma_computes_the_tanh_form_of_its_activation(family_folder):
    """The exact form moves this loss by 4.6e-6, the rounding of sums by 5e-8."""
    spec = build_spec(family_folder("gemma"))
    expected, got = (build(spec).evaluate(BATCH) for build in (build_torch, build_mlx))
    assert got.loss == pytest.approx(expected.loss, rel=1e-6)
