from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tunewright.config.schema import AdapterConfig
from tunewright.errors import ModelError
from tunewright.models.adapter_files import write_adapter
from tunewright.models.resolve import resolve_model
from tunewright.models.served import resolve_served
from tunewright.types import Array

Q = "model.layers.0.self_attn.q_proj"


def _adapter(folder: Path, base: Path) -> Path:
    folder.mkdir(parents=True)
    values = np.zeros((2, 64), np.float32).tobytes()
    arrays = {
        f"{Q}.lora_A.weight": Array("F32", (2, 64), values),
        f"{Q}.lora_B.weight": Array("F32", (64, 2), values),
    }
    config = AdapterConfig(rank=2, alpha=4, targets=("q_proj",))
    write_adapter(folder, arrays, config, base_name=str(base), targets=[Q])
    return folder


def _refused(name: Path, code: str, adapter: Path | None = None) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_served(str(name), adapter)
    assert caught.value.code == code


def test_a_model_alone(llama: Path) -> None:
    served = resolve_served(str(llama))
    assert served.model == resolve_model(str(llama))
    assert served.adapter is None
    assert served.tokenizer_folder == served.model.folder


def test_an_export_brings_its_base_and_its_tokenizer(llama: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "export", llama)
    served = resolve_served(str(adapter))
    assert (served.model.name, served.adapter) == (str(llama), adapter)
    assert served.tokenizer_folder == served.model.folder
    shutil.copy(llama / "tokenizer.json", adapter)
    assert resolve_served(str(llama), adapter).tokenizer_folder == adapter


def test_a_run_means_its_final_export_else_its_newest(llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "exports").mkdir(parents=True)
    _refused(run, "model.no-export")
    for step in ("step-000100", "step-000020"):
        _adapter(run / "exports" / step, llama)
    assert resolve_served(str(run)).adapter == run / "exports/step-000100"
    final = _adapter(run / "exports/final", llama)
    assert resolve_served(str(run)).adapter == final
    assert resolve_served(str(llama), run).adapter == final


def test_a_run_with_merged_weights_is_its_own_model(llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(llama, run / "exports/final")
    served = resolve_served(str(run))
    assert served.adapter is None
    assert served.model.name == str(run / "exports/final")


def test_one_adapter_at_a_time(llama: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "export", llama)
    _refused(adapter, "model.two-adapters", adapter)


def test_an_adapter_whose_base_is_gone_is_told(llama: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "export", llama)
    shutil.rmtree(llama)
    _refused(adapter, "model.unknown")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    _refused(adapter, "model.adapter-base")
