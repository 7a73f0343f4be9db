"""nf4 bases: the values, what is packed and what is not, gradients, resume, and what is refused."""

import importlib
import subprocess
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES, make_family
from tunewright.engines.torch import bitsandbytes_import, quantized_load
from tunewright.engines.torch.certificate import log_probs
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.load import load_model
from tunewright.engines.torch.quantize import Linear4bit, check_quantization
from tunewright.engines.torch.quantized_load import PackOnLoad
from tunewright.errors import EngineError, ModelError
from tunewright.models.arch import load_arch
from tunewright.models.footprint import base_bytes

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_family("qwen2", tmp_path_factory.mktemp("q") / "qwen2")


def _load(folder, dtype=torch.float32, **changes):
    options = {"device": CPU, "compute_dtype": dtype, **changes}
    return load_model(folder, dtype=dtype, device=CPU, pack=PackOnLoad(**options))


def _packed(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def _steps(engine, count, *, start=0):
    losses = []
    for step in range(start, start + count):
        documents = draw_documents([9, 14, 5], seed=step % 2)
        engine.forward_backward([lay_out([documents])], denominator=total_weight(documents))
        losses.append(engine.optim_step(lr=0.02, skip_above=None).read().sums.loss)
    return losses


def _bytes(state):
    return {name: bytes(array.data) for name, array in state.arrays.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_bitsandbytes(folder, dtype):
    theirs = bitsandbytes_import.functional()
    plain = load_model(folder, dtype=dtype, device=CPU)
    packed = _packed(_load(folder, dtype))
    assert len(packed) == 7 * 3
    for name, layer in packed.items():
        weight = plain.get_submodule(name).weight
        values, state = theirs.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
        assert torch.equal(layer.packed, values)
        assert torch.equal(layer.state.absmax, state.absmax)
        assert torch.equal(layer.weight, theirs.dequantize_4bit(values, state))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_frozen_linear_but_the_head_is_packed(family, tmp_path):
    folder = make_family(family, tmp_path / family)
    plain = load_model(folder, dtype=torch.float32, device=CPU)
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    model = _load(folder)
    assert set(_packed(model)) == linear - {"lm_head"}
    rest = {n: t for n, t in plain.state_dict().items() if n.removesuffix(".weight") not in _packed(model)}
    found = model.state_dict()
    assert found.keys() == rest.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in rest.items())


def test_modules_that_train_in_full_stay_as_they_are(folder):
    packed = _packed(_load(folder, kept=("down_proj", "layers.0")))
    assert packed
    assert not any(name.endswith("down_proj") or ".layers.0." in name for name in packed)


def test_forward_and_gradient_equal_a_linear_layer_on_the_values_read_back():
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(96, 64, generator=draw), nn.Parameter(torch.randn(96, generator=draw))
    layer = Linear4bit(weight, bias, torch.float32)
    found = torch.randn(2, 5, 64, generator=draw).requires_grad_()
    expected = found.detach().clone().requires_grad_()
    y, wanted = layer(found), F.linear(expected, layer.weight, bias.detach())
    torch.testing.assert_close(y, wanted)
    y.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
    assert bias.grad is not None


def test_a_weight_is_stored_in_at_most_053_bytes():
    layer = Linear4bit(torch.randn(256, 256), None, torch.float32)
    assert layer.stored_bytes == 256 * 256 // 2 + 1024 + 4 * 4 + 4
    assert layer.stored_bytes / 256**2 <= 0.53


def test_the_whole_base_weighs_what_the_planner_counts(folder):
    model = _load(folder)
    # Layers this small have 0.3 % of scales that the planner spreads over larger ones.
    held = sum(layer.stored_bytes for layer in _packed(model).values())
    held += sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    assert held == pytest.approx(base_bytes(load_arch(folder), "fp32", "nf4"), rel=0.02)


def test_one_weight_at_a_time_is_held_in_full(folder, monkeypatch):
    alive = []

    def pack(model, name, weight, config):
        alive.append(weakref.ref(weight))
        assert sum(one() is not None for one in alive) == 1
        packs(model, name, weight, config)

    packs = quantized_load._pack
    monkeypatch.setattr(quantized_load, "_pack", pack)
    assert len(_packed(_load(folder))) == len(alive) == 7 * 3


def test_training_lowers_the_loss_and_starts_near_the_plain_one(folder):
    losses = _steps(build_engine(build_spec(folder, quantization="nf4")), 12)
    first = _steps(build_engine(build_spec(folder)), 1)[0]
    assert losses[0] != first
    # nf4 moves each weight by some 7 % of its block's spread.
    assert losses[0] == pytest.approx(first, rel=0.05)
    assert losses[-2] < 0.9 * losses[0]


def test_evaluation_does_not_stop_gradients(folder):
    engine = build_engine(build_spec(folder, quantization="nf4"))
    batch = lay_out([draw_documents([9, 12])])
    before = engine.evaluate(batch)
    _steps(engine, 1)
    assert engine.evaluate(batch).loss != before.loss


@pytest.mark.parametrize("changes", [{}, {"checkpointed_layers": 2, "adapter": {"dropout": 0.2}}])
def test_a_restored_run_goes_on_bit_for_bit(folder, changes):
    spec = build_spec(folder, quantization="nf4", **changes)
    whole = build_engine(spec)
    _steps(whole, 2)
    state = whole.snapshot()
    assert all("lora_" in name or not name.startswith("weight/") for name in state.arrays)
    expected = _steps(whole, 2, start=2)
    again = build_engine(spec)
    again.restore(state)
    assert _steps(again, 2, start=2) == expected
    assert _bytes(again.snapshot()) == _bytes(whole.snapshot())


def test_checkpointing_changes_no_number(folder):
    plain, saving = (
        build_engine(build_spec(folder, quantization="nf4", checkpointed_layers=count)) for count in (0, 3)
    )
    assert _steps(plain, 2) == _steps(saving, 2)
    assert _bytes(plain.snapshot()) == _bytes(saving.snapshot())


def test_facts_count_packed_weights_one_by_one(folder):
    plain, packed = (build_engine(build_spec(folder, **o)).facts for o in ({}, {"quantization": "nf4"}))
    assert packed.parameters == plain.parameters
    assert packed.trainable_parameters == plain.trainable_parameters


def test_a_weight_of_another_shape_is_named(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = make_family("qwen2", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name][:-1].contiguous()
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj") as caught:
        _load(broken)
    assert caught.value.code == "model.incomplete"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quantization": "nf4", "adapter": {"kind": "none"}}, "adapter.kind: lora"),
        ({"quantization": "fp4"}, "none or nf4"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_loading(tmp_path, changes, named):
    with pytest.raises(EngineError, match=named) as caught:
        build_engine(build_spec(tmp_path / "nowhere", **changes))
    assert caught.value.code == "engine.unsupported-option"


def test_nf4_on_mps_is_refused_by_name(folder):
    with pytest.raises(EngineError, match="nf4 does not run on this device, got mps") as caught:
        check_quantization(build_spec(folder, quantization="nf4"), torch.device("mps"))
    assert caught.value.code == "engine.unsupported-option"
    assert "engine: mlx" in str(caught.value)


def test_4bit_is_no_form_of_this_engine(folder):
    with pytest.raises(EngineError, match="got 4bit, expected none or nf4"):
        check_quantization(build_spec(folder, quantization="4bit"), CPU)


def test_a_missing_bitsandbytes_is_named_with_how_to_install_it(folder):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
sys.modules["bitsandbytes"] = None
import importlib.util
import torch
from pathlib import Path
from engine_cases import build_spec
from tunewright.engines.torch.quantize import check_quantization
check_quantization(build_spec(Path("nowhere"), quantization="nf4"), torch.device("cpu"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "nf4 needs bitsandbytes, which is not installed" in done.stderr
    assert bitsandbytes_import.INSTALL_HINT in done.stderr


def _export(folder, out, **changes):
    engine = build_engine(build_spec(folder, quantization="nf4", **changes))
    _steps(engine, 4)
    out.mkdir()
    return engine, engine.export(out, merge=True)


def _answers(engine_or_folder, token_rows):
    if isinstance(engine_or_folder, nn.Module):
        return log_probs(engine_or_folder, token_rows, "fp32")
    return log_probs(load_model(engine_or_folder, dtype=torch.float32, device=CPU), token_rows, "fp32")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_merged_into_the_original_base_is_what_peft_serves(folder, tmp_path):
    peft = pytest.importorskip("peft")
    engine, certificate = _export(folder, tmp_path / "merged", adapter={"targets": ("q_proj", "up_proj")})
    (tmp_path / "adapter").mkdir()
    engine.export(tmp_path / "adapter", merge=False)
    rows = [tokens.astype(np.int64) for tokens, _ in draw_documents([30, 20], seed=5)]
    base = load_model(folder, dtype=torch.float32, device=CPU)
    served = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(_answers(tmp_path / "merged", rows), _answers(served, rows), atol=1e-4, rtol=0)
    assert certificate["difference"] <= certificate["bound"]
    assert certificate["quantization_difference"] > certificate["bound"]


def test_merged_into_the_dequantised_base_is_what_was_trained(folder, tmp_path):
    changes = {"adapter": {"targets": ("q_proj", "up_proj"), "bias": "all"}, "merge_base": "dequantised"}
    engine, certificate = _export(folder, tmp_path / "merged", **changes)
    assert certificate["difference"] <= certificate["bound"]
    assert "quantization_difference" not in certificate
    merged = build_engine(build_spec(tmp_path / "merged"))
    batch = lay_out([draw_documents([30, 20], seed=5)])
    assert merged.evaluate(batch).loss == pytest.approx(engine.evaluate(batch).loss, rel=1e-5)


def test_the_import_fetches_no_code(monkeypatch):
    fetching = ModuleType("kernels")
    monkeypatch.setitem(sys.modules, "kernels", fetching)
    with bitsandbytes_import._without_fetched_kernels(), pytest.raises(ImportError):
        importlib.import_module("kernels")
    assert sys.modules["kernels"] is fetching
