"""What the engines write for mlx-lm and PEFT computes, there and here, what the engine computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES, WINDOW
from reference_equalities import engine_losses, load_eager, reference_losses
from tunewright.engines.registry import build_engine

mx = pytest.importorskip("mlx.core")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]
# mlx-lm reads the other families otherwise than transformers: Qwen 2 and Gemma 3 take no rope_parameters,
# Gemma has the exact GELU. That is so without an adapter too.
READ_ALIKE = ("llama", "qwen3", "mistral", "gemma2", "phi3")
# fp32 sums in another order, through four layers: 2e-6 was measured.
TOLERANCE = 1e-4
# Relative, of mean losses.
LOSS_TOLERANCE = 1e-5


def _trained(name: str, folder: Path, **changes: Any) -> Any:
    engine = build_engine(name, build_spec(folder, **changes))
    documents = draw_documents([30, 12, 41])
    for _ in range(3):
        engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
        engine.optim_step(lr=2e-2, skip_above=None)
    return engine


def _peft(folder: Path, export: Path) -> Any:
    return PeftModel.from_pretrained(load_eager(folder), str(export)).eval()


@pytest.mark.parametrize("family", READ_ALIKE)
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_mlx_lm_and_peft_compute_the_same_from_one_folder(name, family, family_folder, tmp_path) -> None:
    from mlx_lm.utils import load_adapters, load_model

    folder = family_folder(family)
    certificate = _trained(name, folder).export(tmp_path, merge=False)
    assert certificate["mlx_lm"] == "adapters.safetensors"
    # mlx-lm leaves the windows of these files out.
    tokens = draw_documents([WINDOW], seed=5)[0][0].astype(np.int64)[None]
    with torch.no_grad():
        expected = _peft(folder, tmp_path)(input_ids=torch.from_numpy(tokens)).logits.numpy()
        base = load_eager(folder)(input_ids=torch.from_numpy(tokens)).logits.numpy()
    model, _ = load_model(folder)
    theirs = load_adapters(model, str(tmp_path))
    theirs.eval()
    with mx.stream(mx.cpu):
        found = np.array(theirs(mx.array(tokens)))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.abs(base - expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("rank", [4, 9])
def test_peft_computes_rslora_as_mlx_lm_does(rank, family_folder, tmp_path) -> None:
    from mlx_lm.utils import load_adapters, load_model

    folder = family_folder("llama")
    _trained("torch", folder, adapter={"rslora": True, "rank": rank}).export(tmp_path, merge=False)
    tokens = np.arange(4, 24)[None]
    with torch.no_grad():
        expected = _peft(folder, tmp_path)(input_ids=torch.from_numpy(tokens)).logits.numpy()
    model = load_adapters(load_model(folder)[0], str(tmp_path))
    with mx.stream(mx.cpu):
        np.testing.assert_allclose(np.array(model(mx.array(tokens))), expected, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_what_the_mlx_engine_does(family, family_folder, tmp_path) -> None:
    engine = _trained("mlx", family_folder(family))
    assert engine.export(tmp_path, merge=False)["changes_the_base"]
    theirs = reference_losses(_peft(family_folder(family), tmp_path))
    np.testing.assert_allclose(engine_losses(engine), theirs, rtol=LOSS_TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi3"])
def test_merged_weights_compute_what_the_mlx_engine_does(family, family_folder, tmp_path) -> None:
    engine = _trained("mlx", family_folder(family))
    certificate = engine.export(tmp_path, merge=True)
    assert certificate["difference"] <= min(TOLERANCE, certificate["bound"])
    np.testing.assert_allclose(
        engine_losses(engine), reference_losses(load_eager(tmp_path)), rtol=LOSS_TOLERANCE
    )


@pytest.mark.parametrize("packed", ["when loaded", "as it came"])
def test_a_packed_base_is_merged_unpacked(packed, family_folder, tmp_path) -> None:
    from mlx_lm.utils import load_model, quantize_model, save_model

    folder = family_folder("llama")
    if packed == "as it came":
        model, config = load_model(folder)
        model, config = quantize_model(model, config, group_size=32, bits=4)
        folder = tmp_path / "packed"
        save_model(folder, model)
        (folder / "config.json").write_text(json.dumps(config))
    settings = {"quantization": "4bit"} if packed == "when loaded" else {}
    engine = _trained("mlx", folder, **settings)
    export = tmp_path / "export"
    export.mkdir()
    certificate = engine.export(export, merge=True)
    assert certificate["difference"] <= min(TOLERANCE, certificate["bound"])
    assert "quantization" not in json.loads((export / "config.json").read_text())
    losses = reference_losses(load_eager(export))
    np.testing.assert_allclose(engine_losses(engine), losses, rtol=LOSS_TOLERANCE)
    assert np.abs(np.subtract(losses, reference_losses(load_eager(family_folder("llama"))))).max() > 1e-3


@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_an_adapter_of_one_engine_goes_on_in_the_other(first, second, family_folder, tmp_path) -> None:
    folder = family_folder("llama")
    engine = _trained(first, folder)
    engine.export(tmp_path, merge=False)
    other = build_engine(second, build_spec(folder, adapter_folder=tmp_path))
    np.testing.assert_allclose(engine_losses(other), engine_losses(engine), rtol=LOSS_TOLERANCE)


@pytest.mark.parametrize(
    "settings", [{"bias": "all", "targets": ("q_proj",)}, {"modules_to_save": ("norm",)}]
)
def test_what_mlx_lm_cannot_hold_leaves_its_file_out_and_says_so(settings, family_folder, tmp_path) -> None:
    certificate = _trained("torch", family_folder("qwen2"), adapter=settings).export(tmp_path, merge=False)
    assert str(certificate["mlx_lm"]).startswith("left out: mlx-lm has no")
    assert not (tmp_path / "adapters.safetensors").exists()
    assert "lora_parameters" not in json.loads((tmp_path / "adapter_config.json").read_text())
