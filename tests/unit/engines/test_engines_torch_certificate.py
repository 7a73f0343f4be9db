"""Where a merged model is compared, and that the lack of memory for it loses no export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine_cases import build_spec
from families import make_family
from tunewright.engines.torch import certificate
from tunewright.engines.torch.certificate import places_with_room
from tunewright.engines.torch.engine import build_engine

GIB = 2**30
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("device", "itemsize", "free", "host", "expected"),
    [
        (CUDA, 2, 90, 200, [CUDA, CPU]),
        (CUDA, 2, 84, 200, [CPU]),
        (CUDA, 2, 50, 0, [CPU]),
        (CUDA, 2, 50, 56, []),
        (CUDA, 2, 90, 50, [CUDA]),
        (CUDA, 4, 57, 20, [CUDA]),
        (CUDA, 4, 56, 29, [CPU]),
        (CPU, 2, 0, 1, [CPU]),
    ],
)
def test_a_merged_model_is_compared_where_it_fits_in_fp32(
    device: torch.device, itemsize: int, free: int, host: int, expected: list[torch.device],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, 96 * GIB))
    monkeypatch.setattr(certificate, "free_memory_bytes", lambda: host * GIB)
    assert places_with_room(device, 28 * GIB, itemsize) == expected


def test_an_export_outlives_the_lack_of_memory_to_compare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = build_engine(build_spec(make_family("llama", tmp_path / "llama")))
    monkeypatch.setattr(certificate, "load_model", too_large)
    out = tmp_path / "out"
    out.mkdir()
    found = engine.export(out, merge=True)
    assert found["compared"] == "nothing"
    assert "no memory" in str(found["reason"])
    assert (out / "model.safetensors").exists()
