"""The certificate of a merge on trained weights: a right one is written, one without the adapter is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_fast_path_proof import _encode

from engine_cases import build_spec, lay_out, total_weight
from real_model_folder import REAL_MODEL, needs_real_model
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.lora import LoraLinear
from tunewright.errors import EngineError


@needs_real_model
@pytest.mark.usefixtures("one_thread")
def test_a_right_merge_in_bf16_is_written_and_a_wrong_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _encode(REAL_MODEL)
    documents = [(row, np.r_[0, np.ones(len(row) - 1)].astype(np.float32)) for row in rows]
    engine = build_engine(build_spec(REAL_MODEL, dtype="bf16", precision="bf16", sample=rows))
    for steps in (2, 4):
        for _ in range(steps):
            engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
            engine.optim_step(lr=1e-3, skip_above=None).read()
        target = tmp_path / f"right-{steps}"
        target.mkdir()
        assert engine.export(target, merge=True)["kind"] == "merged"
    monkeypatch.setattr(LoraLinear, "merged_weight", lambda layer: layer.base_layer.weight)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    with pytest.raises(EngineError, match="does not compute what the adapter does"):
        engine.export(wrong, merge=True)
