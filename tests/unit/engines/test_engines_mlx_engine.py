"""What the MLX engine does beyond the contract suite: options, number formats, memory, refusals."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.engines.mlx import attention as attention_module
from tunewright.engines.mlx import attention_check as attention_check_module
from tunewright.engines.mlx import load as load_module
from tunewright.engines.mlx import loss as loss_module
from tunewright.engines.mlx.attention_check import check_model
from tunewright.engines.mlx.device import detect_device, on_device
from tunewright.engines.mlx.engine import build_engine
from tunewright.engines.mlx.load import load_model
from tunewright.engines.mlx.lora import lora_layers
from tunewright.engines.mlx.memory import PassMemory
from tunewright.engines.torch.engine import build_engine as build_torch
from tunewright.errors import EngineError, EngineOutOfMemory, ModelError

DOCUMENTS = draw_documents([6, 20, 9], seed=3)
BATCH = lay_out([DOCUMENTS])
WEIGHT = total_weight(DOCUMENTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def find(name="llama"):
        if name not in made:
            made[name] = make_family(name, tmp_path_factory.mktemp("mlx") / name)
        return made[name]

    return find


@pytest.fixture
def copy(folder, tmp_path):
    """copy(family, **config) → a folder of its own with a changed config.json; None removes a key."""

    def make(family="llama", **changes):
        target = tmp_path / "copy"
        shutil.copytree(folder(family), target)
        path = target / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
        return target

    return make


def _train(engine, steps=3, lr=1e-2):
    stats = []
    for _ in range(steps):
        engine.forward_backward([BATCH], denominator=WEIGHT)
        stats.append(engine.optim_step(lr=lr, skip_above=None).read())
    return stats


def _state(engine):
    state = engine.snapshot()
    return {name: bytes(array.data) for name, array in state.arrays.items()}, state.values


def _arrays_of(module):
    return list(_flat(module).values())


def _flat(module):
    return dict(tree_flatten(module.parameters()))


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("llama", {"kind": "none"}),
        ("qwen2", {"kind": "none"}),
        ("qwen2", {"bias": "all"}),
        ("qwen2", {"bias": "lora_only", "targets": ("q_proj",)}),
        ("llama", {"modules_to_save": ("lm_head",), "targets": ("v_proj", "down_proj")}),
        ("llama", {"targets": ("lm_head", "q_proj"), "rslora": True}),
    ],
)
def test_what_trains_equals_torch(family, adapter, folder):
    """Same names, same layouts, same values after three steps. Adam divides by the size of a gradient, so
    rounding shows in a weight whose gradient is near zero: by a tenth of the 3e-3 that it may have moved."""
    # Decay strong enough to see which parameters it reaches.
    spec = build_spec(folder(family), adapter=adapter, weight_decay=20.0)
    engines = [build_torch(spec), build_engine(spec)]
    assert engines[0].facts.trainable_biases == engines[1].facts.trainable_biases
    expected, got = (_train(engine, lr=1e-3) for engine in engines)
    for a, b in zip(expected, got, strict=True):
        assert b.sums.loss == pytest.approx(a.sums.loss, rel=1e-4)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-4)
    weights = [
        {name: array for name, array in engine.snapshot().arrays.items() if not name.startswith("rng/")}
        for engine in engines
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, array in weights[0].items():
        values, others = (np.frombuffer(w[name].data, np.float32) for w in weights)
        assert array.shape == weights[1][name].shape
        bound = 3e-4 if name.startswith("weight/") else 1e-3 * np.abs(values).max()
        np.testing.assert_allclose(others, values, rtol=0, atol=bound)


def test_dropout_draws_from_its_own_key_and_resumes_bitwise(folder):
    spec = build_spec(folder(), adapter={"dropout": 0.3})
    outside = mx.random.state[0].tolist()
    whole = build_engine(spec)
    first = _train(whole)
    state = whole.snapshot()
    expected = _train(whole)
    resumed = build_engine(spec)
    resumed.restore(state)
    assert _train(resumed) == expected
    assert _state(resumed) == _state(whole)
    assert mx.random.state[0].tolist() == outside
    assert first[0] != _train(build_engine(build_spec(folder(), adapter={"dropout": 0.0})))[0]
    assert whole.evaluate(BATCH) == whole.evaluate(BATCH)


@pytest.mark.parametrize("adapter", [{"dropout": 0.2}, {"kind": "none"}])
def test_recomputed_activations_change_nothing(adapter, folder):
    runs = [
        _train(build_engine(build_spec(folder(), checkpointed_layers=count, adapter=adapter)))
        for count in (0, 1, 3)
    ]
    for a, *recomputed in zip(*runs, strict=True):
        for b in recomputed:
            assert b.sums.loss == pytest.approx(a.sums.loss, rel=1e-6)
            assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-6)


@pytest.mark.parametrize("adapter", [{"targets": ("lm_head", "q_proj")}, {"modules_to_save": ("lm_head",)}])
def test_chunked_logits_change_nothing(adapter, folder, monkeypatch):
    spec = build_spec(folder(), adapter=adapter)
    whole = _train(build_engine(spec))
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 5 * 384)
    for a, b in zip(whole, _train(build_engine(spec)), strict=True):
        assert b.sums == dataclasses.replace(a.sums, loss=pytest.approx(a.sums.loss, rel=1e-6))
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-6)


def test_compiled_passes_compute_the_same(folder):
    plain = _train(build_engine(build_spec(folder())))
    mx.enable_compile()
    try:
        engine = build_engine(build_spec(folder()))
        mx.enable_compile()  # a CPU engine turns it off
        compiled = _train(engine)
    finally:
        mx.disable_compile()
    for a, b in zip(plain, compiled, strict=True):
        assert b.sums.loss == pytest.approx(a.sums.loss, rel=1e-5)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-5)


@pytest.mark.parametrize(("dtype", "precision"), [("bf16", "bf16"), ("fp32", "bf16"), ("fp16", "fp16")])
def test_sixteen_bits_stay_near_fp32(dtype, precision, folder):
    """bf16 keeps 8 bits: single products are off by up to 0.4 %, a mean over many by far less."""
    exact = build_engine(build_spec(folder())).evaluate(BATCH)
    engine = build_engine(build_spec(folder(), dtype=dtype, precision=precision))
    rounded = engine.evaluate(BATCH)
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-2)
    assert rounded.loss != exact.loss
    losses = [stats.sums.loss for stats in _train(engine, steps=6)]
    assert losses[-1] < losses[0]
    assert {array.dtype for name, array in engine.snapshot().arrays.items() if "rng" not in name} == {"F32"}


def test_an_fp16_overflow_halves_the_scale_and_changes_nothing_else(folder):
    engine = build_engine(build_spec(folder(), dtype="fp16", precision="fp16"))
    arrays, values = _state(engine)
    engine.forward_backward([BATCH], denominator=WEIGHT * 1e-6)
    stats = engine.optim_step(lr=1e-2, skip_above=None).read()
    assert stats.skipped
    assert stats.rescaled
    after, now = _state(engine)
    assert after == arrays
    assert now["loss_scale"] == values["loss_scale"] / 2
    assert now["optimizer_steps"] == 0


def test_four_bits_train_and_take_less_room(folder):
    plain, packed = (build_engine(build_spec(folder(), quantization=kind)) for kind in ("none", "4bit"))
    assert packed.facts.parameters == plain.facts.parameters
    sizes = [sum(v.nbytes for v in _arrays_of(engine._base.module)) for engine in (plain, packed)]
    assert sizes[1] < 0.75 * sizes[0]
    # Four bits keep one of sixteen values in each group: the loss moves, and training takes it from there.
    assert packed.evaluate(BATCH).loss == pytest.approx(plain.evaluate(BATCH).loss, rel=0.2)
    losses = [stats.sums.loss for stats in _train(packed, steps=8)]
    assert losses[-1] < 0.98 * losses[0]


def test_a_model_that_comes_packed_equals_one_packed_on_loading(folder, copy):
    engine = build_engine(build_spec(folder(), quantization="4bit"))
    target = copy(quantization={"group_size": 64, "bits": 4})
    module = load_model(folder(), dtype=mx.float32, quantization="4bit").module
    mx.save_safetensors(str(target / "model.safetensors"), _flat(module))
    packed = build_engine(build_spec(target))
    assert packed.facts.parameters == engine.facts.parameters
    assert packed.evaluate(BATCH) == engine.evaluate(BATCH)
    with pytest.raises(ModelError, match="packed for MLX") as caught:
        build_torch(build_spec(target))
    assert caught.value.code == "model.quantized"


def test_a_pass_that_would_not_fit_is_not_started(folder):
    engine = build_engine(build_spec(folder(), adapter={"dropout": 0.1}))
    _train(engine, steps=1)
    engine.forward_backward([BATCH], denominator=WEIGHT)
    before = _state(engine)
    room = engine._training._limit
    engine._training._limit = mx.get_active_memory() + 50
    with pytest.raises(EngineOutOfMemory, match="micro_batch_size"):
        engine.forward_backward([BATCH], denominator=WEIGHT)
    assert _state(engine) == before
    engine._training._limit = room
    other = build_engine(build_spec(folder(), adapter={"dropout": 0.1}))
    _train(other, steps=1)
    other.forward_backward([BATCH], denominator=WEIGHT)
    ours, theirs = (one.optim_step(lr=1e-2, skip_above=None).read() for one in (engine, other))
    assert ours == theirs


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_first_pass_that_would_not_fit_is_foretold_by_fewer_documents(folder, dropout):
    """And where it fits the numbers are those of an engine that knew before."""
    documents = draw_documents([40] * 16, seed=3)
    batch, weight = lay_out([[one] for one in documents]), total_weight(documents)
    engine, knows = (build_engine(build_spec(folder(), adapter={"dropout": dropout})) for _ in range(2))
    mx.eval(engine._base.module.parameters())
    engine._training._limit = mx.get_active_memory() + 4 * 2**20
    with pytest.raises(EngineOutOfMemory, match="micro_batch_size"):
        engine.forward_backward([batch], denominator=weight)
    engine._training._limit = 2**40
    knows._training._work, knows._training._bytes = 1e9, 1
    for one in (engine, knows):
        one.forward_backward([batch], denominator=weight)
    ours, theirs = (one.optim_step(lr=1e-2, skip_above=None).read() for one in (engine, knows))
    assert ours == theirs
    assert _state(engine) == _state(knows)


def _take(memory, rows, width, size):
    with memory.watched(rows, width):
        mx.eval(mx.ones(size, mx.uint8))


def test_a_pass_is_foretold_from_one_that_is_no_less_than_a_quarter():
    memory = PassMemory("cpu", mx.get_active_memory() + 40 * 2**20)
    assert not memory.foretells(1, 16)
    _take(memory, 1, 64, 10 * 2**20)
    assert memory.foretells(4, 64)
    with pytest.raises(EngineOutOfMemory, match="256 tokens"):
        _take(memory, 4, 64, 1)  # 10 MiB and their share of a byte, four times
    # The gradients in those 10 MiB do not grow: nothing is said of a pass of 64 times the work.
    assert not memory.foretells(64, 64)
    _take(memory, 64, 64, 12 * 2**20)
    _take(memory, 4, 64, 1)
    assert memory.foretells(64, 64)


def test_attention_makes_long_documents_larger_than_their_tokens():
    memory = PassMemory("cpu", 2**40)
    _take(memory, 4, 1024, 1)
    assert memory.foretells(16, 1024)
    assert not memory.foretells(1, 8192)


@pytest.mark.parametrize(
    "error", [RuntimeError("[metal::malloc] Unable to allocate 99 bytes."), MemoryError()]
)
def test_an_allocators_complaint_is_out_of_memory(error):
    with pytest.raises(EngineOutOfMemory) as caught, on_device("cpu"):
        raise error
    assert caught.value.code == "engine.out-of-memory"


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="shapes") as caught, on_device("cpu"):
        raise RuntimeError("shapes differ")
    assert not isinstance(caught.value, EngineError)


def test_devices_are_named():
    assert detect_device("cpu").dtypes == ("fp32",)
    with pytest.raises(EngineError, match=r"auto, .*cpu") as caught:
        detect_device("cuda:7")
    assert caught.value.code == "engine.no-device"


def test_too_little_memory_is_said_before_anything_is_read(folder):
    with pytest.raises(EngineError, match="larger than the memory") as caught:
        load_model(folder(), dtype=mx.float32, memory_bytes=1000)
    assert caught.value.code == "engine.not-enough-memory"


@pytest.mark.parametrize(
    ("family", "changes", "code"),
    [
        ("llama", {"hidden_act": "gelu"}, "engine.unsupported-model"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "engine.unsupported-model"),
        ("gemma3", {"use_bidirectional_attention": True}, "engine.unsupported-model"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "engine.unsupported-model"),
        (
            "gemma3",
            {"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]},
            "engine.unsupported-model",
        ),
        ("llama", {"hidden_size": 32}, "model.incomplete"),
        ("llama", {"num_hidden_layers": 4}, "model.incomplete"),
        ("llama", {"num_hidden_layers": 2}, "model.incomplete"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "model.unreadable"),
    ],
)
def test_models_that_would_be_computed_wrongly_are_refused(family, changes, code, copy):
    with pytest.raises((EngineError, ModelError)) as caught:
        build_engine(build_spec(copy(family, **changes)))
    assert caught.value.code == code


def test_a_type_that_is_not_known_is_named(folder):
    with pytest.raises(EngineError, match="type mixtral") as caught:
        load_module.find_family(
            dataclasses.replace(load_model(folder(), dtype=mx.float32).arch, model_type="mixtral")
        )
    assert caught.value.code == "engine.unsupported-model"


def test_weights_cut_short_are_refused(copy):
    target = copy()
    arrays = load_file(target / "model.safetensors")
    del arrays["model.layers.1.mlp.up_proj.weight"]
    save_file(arrays, target / "model.safetensors")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        build_engine(build_spec(target))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"attention": "eager"}, "engine.unsupported-option"),
        ({"dtype": "bf16"}, "engine.dtype-mismatch"),
        ({"precision": "int4"}, "engine.unknown-dtype"),
        ({"adapter": {"targets": ("embed_tokens",)}}, "engine.target-not-linear"),
        ({"adapter": {"modules_to_save": ("pooler",)}}, "engine.unknown-module"),
    ],
)
def test_options_that_cannot_be_met_are_named(changes, code, folder):
    with pytest.raises(EngineError) as caught:
        build_engine(build_spec(folder(), **changes))
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_a_head_shared_with_the_embedding_is_not_trained_apart(name, folder):
    with pytest.raises(EngineError) as caught:
        build_engine(build_spec(folder("qwen2"), adapter={"modules_to_save": (name,)}))
    assert caught.value.code in ("engine.unknown-module", "engine.unsupported-option")


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_the_start_up_check_sees_a_wrong_window_and_a_wrong_scale(family, folder, monkeypatch):
    base = load_model(folder(family), dtype=mx.float32)
    check_model(base, "fp32")
    with pytest.raises(EngineError, match="single documents"):
        check_model(dataclasses.replace(base, embedding_scale=2.5), "fp32")
    right = attention_module._band
    for off in (-1, 1, None):

        def wrong(width, window, off=off):
            return right(width, None if off is None else window and window + off)

        monkeypatch.setattr(attention_module, "_band", wrong)
        with pytest.raises(EngineError, match=r"layer 0 sees|single documents"):
            check_model(base, "fp32")


def test_the_start_up_check_sees_a_leak(folder, monkeypatch):
    base = load_model(folder(), dtype=mx.float32)
    whole = attention_check_module.hidden_states

    def leaky(base, tokens_KN):
        hidden_KND = whole(base, tokens_KN)
        return hidden_KND + 1e-3 * hidden_KND[:1]

    monkeypatch.setattr(attention_check_module, "hidden_states", leaky)
    with pytest.raises(EngineError) as caught:
        check_model(base, "fp32")
    assert caught.value.code == "engine.attention-mismatch"


def test_adapters_of_torch_go_on_here(folder, tmp_path):
    spec = build_spec(folder())
    torch_engine = build_torch(spec)
    _train(torch_engine)
    torch_engine.export(tmp_path, merge=False)
    ours = build_engine(dataclasses.replace(spec, adapter_folder=tmp_path))
    assert ours.evaluate(BATCH).loss == pytest.approx(torch_engine.evaluate(BATCH).loss, rel=1e-5)
    assert any(bool(mx.any(layer.lora_B.weight)) for _, layer in lora_layers(ours._base.module))


def test_the_engine_loads_without_torch_and_leaves_the_file_limit(folder):
    code = """
import resource, sys
from pathlib import Path
before = resource.getrlimit(resource.RLIMIT_NOFILE)
from tunewright.engines.mlx.classes import import_models_module
from tunewright.engines.mlx.load import load_model
import mlx.core as mx
load_model(Path(sys.argv[1]), dtype=mx.float32)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
assert not {"torch", "transformers", "mlx_lm"} & set(sys.modules), "loaded"
assert import_models_module("cache").KVCache
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder())], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_empty_step_changes_no_weight(folder):
    engine = build_engine(build_spec(folder()))
    before = _state(engine)[0]
    stats = engine.optim_step(lr=1e-2, skip_above=None).read()
    assert stats.gradient_norm == 0
    assert math.isfinite(stats.sums.loss)
    assert _state(engine)[0] == before
