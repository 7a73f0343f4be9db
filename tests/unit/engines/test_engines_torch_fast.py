"""The parts of the fast layers, each against the plain operations that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.config.schema import AdapterConfig
from tunewright.engines.torch.documents import Documents
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.fast import passes
from tunewright.engines.torch.fast.attention import Heads, attend_heads
from tunewright.engines.torch.fast.build import NORM_SHIFTS, replace_layer, why_plain
from tunewright.engines.torch.fast.compiled import compile_elementwise
from tunewright.engines.torch.fast.dropout import draw_seed, drop
from tunewright.engines.torch.fast.elementwise import EAGER, norm
from tunewright.engines.torch.fast.functions import (
    Inward,
    Mlp,
    Norm,
    Turn,
    add_mlp,
    project_add,
    project_normed,
    turn_heads,
)
from tunewright.engines.torch.fast.layer import FastLayer
from tunewright.engines.torch.fast.projection import Projection
from tunewright.engines.torch.fast.proof import find_fault
from tunewright.engines.torch.lora import LoraLinear
from tunewright.engines.torch.loss import batch_loss, to_device
from tunewright.models.fast_activations import FAMILIES

DOCUMENTS = draw_documents([6, 14, 9], seed=2)
PACKED = lay_out([DOCUMENTS], width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("fast")

    def make(family: str) -> Path:
        found = root / family
        return found if found.exists() else make_family(family, found)

    return make


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.5


def lora(inputs: int, outputs: int, *, rank: int = 3, bias: bool = False, seed: int = 1) -> LoraLinear:
    """An adapted layer with values everywhere."""
    layer = LoraLinear(nn.Linear(inputs, outputs, bias=bias), AdapterConfig(rank=rank, alpha=6))
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed + number)
    layer.base_layer.requires_grad_(False)
    return layer


def check_gradients(
    fast: Callable[..., torch.Tensor], plain: Callable[..., torch.Tensor], inputs: list[torch.Tensor],
    parameters: list[nn.Parameter],
) -> None:  # fmt: skip
    """Same values, and same gradients of inputs and parameters."""
    results: list[list[torch.Tensor]] = []
    for function in (fast, plain):
        leaves = [value.clone().requires_grad_() for value in inputs]
        out = function(*leaves)
        out.backward(draw(*out.shape, seed=9))
        results.append([out.detach(), *(_taken(leaf) for leaf in (*leaves, *parameters))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        assert float(expected.abs().max()) > 1e-3


def _taken(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    gradient, leaf.grad = leaf.grad, None
    return gradient


def test_a_projection_takes_over_weights_under_their_names() -> None:
    layers = [lora(8, 6, bias=True), nn.Linear(8, 4, bias=False), lora(8, 5, rank=2, seed=7)]
    weights = [layer.weight.detach().clone() for layer in layers]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    x_SI = draw(7, 8)
    expected = torch.cat([layer(x_SI) for layer in layers], -1)
    projection = Projection(layers)
    projection.refresh()
    torch.testing.assert_close(projection.project(projection.widen(x_SI, None)), expected)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, weights, strict=True))
    now = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(a is b for a, b in zip(parameters, now, strict=True))
    storages = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    assert len(storages) == 1


def test_a_projection_sees_what_the_optimizer_changed() -> None:
    layer = lora(8, 6)
    projection = Projection([layer])
    layer.lora_B.weight.data.mul_(2)
    projection.refresh()
    x_SI = draw(7, 8)
    torch.testing.assert_close(projection.project(projection.widen(x_SI, None)), layer(x_SI))


def test_without_adapters_a_projection_is_its_layers() -> None:
    layer = nn.Linear(8, 6).requires_grad_(False)
    h_SD = draw(5, 8)
    projection = Projection([layer])
    check_gradients(
        lambda x, h: project_add(x, h, projection, training=True),
        lambda x, h: h + layer(x),
        [draw(5, 8, seed=3), draw(5, 6)],
        [],
    )
    assert projection.widen(h_SD, None) is h_SD


def test_normed_projection_and_residual() -> None:
    layers = [lora(8, 6, bias=True), lora(8, 4, seed=5)]
    weight_D = draw(8, seed=4)
    projection = Projection(layers)
    projection.refresh()
    inward = Inward(Norm(weight_D, 1e-6, 1.0), projection, EAGER)

    def fast(h_SD: torch.Tensor) -> torch.Tensor:
        y_SO, passed_SD = project_normed(h_SD, inward, training=True)
        return torch.cat((y_SO.sin(), passed_SD.cos()), -1)

    def plain(h_SD: torch.Tensor) -> torch.Tensor:
        x_SD = F.rms_norm(h_SD, (8,), eps=1e-6) * (1 + weight_D)
        return torch.cat((torch.cat([layer(x_SD) for layer in layers], -1).sin(), h_SD.cos()), -1)

    check_gradients(fast, plain, [draw(7, 8)], projection.parameters)


def test_where_nothing_below_trains_adapters_get_their_gradients() -> None:
    layer = lora(8, 6)
    projection = Projection([layer])
    projection.refresh()
    h_SD, weight_D = draw(7, 8), torch.ones(8)
    y_SO, _ = project_normed(h_SD, Inward(Norm(weight_D, 1e-6, 0.0), projection, EAGER), training=True)
    y_SO.backward(draw(7, 6, seed=9))
    ours = [_taken(parameter) for parameter in projection.parameters]
    layer(norm(h_SD, weight_D, 1e-6, 0.0)).backward(draw(7, 6, seed=9))
    for gradient, parameter in zip(ours, projection.parameters, strict=True):
        torch.testing.assert_close(gradient, _taken(parameter))


@pytest.mark.parametrize("activation", ["silu", "none", "tanh"])
def test_mlp(activation: str) -> None:
    gate, up, down = lora(8, 12), lora(8, 12, seed=5), lora(12, 8, seed=8)
    weight_D = draw(8, seed=4)
    mlp = Mlp(
        Inward(Norm(weight_D, 1e-6, 0.0), Projection([gate, up]), EAGER), Projection([down]), activation
    )
    for projection in (mlp.inward.projection, mlp.down):
        projection.refresh()

    def plain(h_SD: torch.Tensor) -> torch.Tensor:
        x_SD = F.rms_norm(h_SD, (8,), weight_D, eps=1e-6)
        act = F.silu(gate(x_SD)) if activation == "silu" else F.gelu(gate(x_SD), approximate=activation)
        return h_SD + down(act * up(x_SD))

    check_gradients(
        lambda h: add_mlp(h, mlp, training=True), plain, [draw(7, 8)],
        [*mlp.inward.projection.parameters, *mlp.down.parameters],
    )  # fmt: skip


def test_dropout_is_drawn_again_for_the_backward_pass() -> None:
    """Against the plain formula with the mask that the seed of this pass gives."""
    layers = [lora(8, 6), lora(8, 4, seed=5)]
    for layer in layers:
        layer.dropout = 0.5
    projection = Projection(layers)
    projection.refresh()

    def seeded() -> int:
        torch.manual_seed(3)
        return draw_seed()

    def fast(x_SI: torch.Tensor, h_SO: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return project_add(x_SI, h_SO, projection, training=True)

    def plain(x_SI: torch.Tensor, h_SO: torch.Tensor) -> torch.Tensor:
        mask_SI = drop(torch.ones_like(x_SI), 0.5, seeded())
        assert set(mask_SI.unique().tolist()) == {0.0, 2.0}
        parts = [
            layer.base_layer(x_SI) + layer.scale * layer.lora_B(layer.lora_A(x_SI * mask_SI))
            for layer in layers
        ]
        return h_SO + torch.cat(parts, -1)

    with torch.random.fork_rng():
        check_gradients(fast, plain, [draw(9, 8, seed=3), draw(9, 10)], projection.parameters)
        x_SI, h_SO = draw(9, 8), draw(9, 10)
        still = project_add(x_SI, h_SO, projection, training=False)
    torch.testing.assert_close(still, h_SO + torch.cat([layer.eval()(x_SI) for layer in layers], -1))


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    ones = torch.ones(200, 100)
    dropped = drop(ones, 0.05, seed=1)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(dropped, drop(ones, 0.05, seed=1))
    assert not torch.equal(dropped, drop(ones, 0.05, seed=2))


@pytest.mark.parametrize("normed", [False, True])
def test_turned_heads(normed: bool) -> None:
    angles_SW = draw(7, 4, seed=2).repeat(1, 2)
    cos_SW, sin_SW = angles_SW.cos(), angles_SW.sin()
    weights = [draw(8, seed=4), draw(8, seed=5)]
    norms = tuple(Norm(weight, 1e-6, 0.0) for weight in weights) if normed else ()
    turn = Turn(cos_SW, sin_SW, 4, 2, norms, EAGER)

    def plain(qkv_SCW: torch.Tensor) -> torch.Tensor:
        q, k, v = qkv_SCW.split((4, 2, 2), 1)
        if normed:
            q, k = (F.rms_norm(x, (8,), w, eps=1e-6) for x, w in zip((q, k), weights, strict=True))
        x = torch.cat((q, k), 1)
        swapped = torch.cat((-x[..., 4:], x[..., :4]), -1)
        return torch.cat((x * cos_SW[:, None] + swapped * sin_SW[:, None], v), 1)

    check_gradients(lambda qkv: turn_heads(qkv, turn), plain, [draw(7, 8, 8)], [])


def test_attention_of_documents_short_equal_and_longer_than_a_block() -> None:
    lengths = ((5, 300, 1), (40, 40, 33))
    heads, row = Heads(keys=2, groups=2), 310
    index = Documents(lengths).head_index(row, heads)

    def plain(qkv_SCW: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(qkv_SCW), 4, 8)
        for b, documents in enumerate(lengths):
            start = b * row
            for length in documents:
                at = slice(start, start + length)
                q, k, v = (x.transpose(0, 1)[None] for x in qkv_SCW[at].split((4, 2, 2), 1))
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4, enable_gqa=True)
                out = out.index_copy(0, torch.arange(start, start + length), mixed[0].transpose(0, 1))
                start += length
        return out.flatten(1)

    check_gradients(lambda qkv: attend_heads(qkv, index, 0.4), plain, [draw(2 * row, 8, 8)], [])


def test_the_last_layer_computes_label_rows_only(folder: Callable[[str], Path]) -> None:
    engine = build_engine(build_spec(folder("llama"), kernels="fast"))
    rows: list[int] = []
    model: Any = engine._model
    model.base_model.norm.register_forward_hook(lambda module, inputs, out: rows.append(out.shape[1]))
    batch = to_device(PACKED, torch.device("cpu"))
    loss = batch_loss(model, batch, by_rows=True).loss
    assert rows == [len(batch.rows_L)]
    everywhere = batch_loss(model, batch, by_rows=False).loss
    torch.testing.assert_close(loss, everywhere)


def test_names_and_state_are_those_of_the_plain_path(folder: Callable[[str], Path]) -> None:
    engines = [build_engine(build_spec(folder("qwen2"), kernels=kernels)) for kernels in ("plain", "fast")]
    names = [[name for name, _ in engine._model.named_parameters()] for engine in engines]
    assert names[0] == names[1]
    states = [{n: bytes(a.data) for n, a in engine.snapshot().arrays.items()} for engine in engines]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("llama", {"adapter": {"kind": "none"}}, "all weights train"),
        ("llama", {"precision": "bf16"}, "fp32 weights computed in bf16"),
        ("llama", {"attention": "eager"}, "eager attention"),
        ("gemma2", {}, "Gemma2DecoderLayer is not known"),
        ("qwen2", {"adapter": {"bias": "lora_only"}}, "self_attn.q_proj.base_layer.bias trains"),
        ("llama", {"adapter": {"modules_to_save": ("input_layernorm",)}}, "input_layernorm.weight trains"),
    ],
)
def test_what_the_fast_path_cannot_do_is_named(
    family: str, changes: dict[str, Any], reason: str, folder: Callable[[str], Path]
) -> None:
    facts = build_engine(build_spec(folder(family), kernels="fast", **changes)).facts
    assert (facts.kernels, facts.path) == ("plain", f"plain: {reason}")


@pytest.mark.parametrize(
    ("asked", "changes", "path"),
    [
        ("auto", {}, "plain: fp32 on a CPU"),
        ("auto", {"dtype": "bf16", "precision": "bf16"}, "fast"),
        ("plain", {"dtype": "bf16", "precision": "bf16"}, "plain"),
    ],
)
def test_auto_takes_what_is_faster(
    asked: str, changes: dict[str, Any], path: str, folder: Callable[[str], Path]
) -> None:
    assert build_engine(build_spec(folder("llama"), kernels=asked, **changes)).facts.path == path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("norm", lambda h, weight, epsilon, shift: norm(h, weight, 100 * epsilon + 0.1, shift)),
        ("turn", lambda x, cos, sin, turned: x),
        ("norm_backward_add", lambda dx, h, weight, epsilon, shift, residual: residual),
    ],
)
def test_the_proof_refuses_a_wrong_kernel_and_puts_the_layers_back(
    part: str, fault: Callable[..., Any], precision: str, folder: Callable[[str], Path]
) -> None:
    spec = build_spec(folder("llama"), dtype=precision, precision=precision)
    engine = build_engine(spec)
    model: Any = engine._model
    before, state = list(model.base_model.layers), engine.snapshot().arrays
    kept = {name: bytes(array.data) for name, array in state.items()}
    assert find_fault(model, spec, replace(EAGER, **{part: fault}), by_rows=True)
    assert list(model.base_model.layers) == before
    assert {name: bytes(array.data) for name, array in engine.snapshot().arrays.items()} == kept
    assert find_fault(model, spec, EAGER, by_rows=True) is None
    assert isinstance(model.base_model.layers[0], FastLayer)


def test_a_kernel_that_fails_is_no_kernel(folder: Callable[[str], Path]) -> None:
    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    spec = build_spec(folder("llama"))
    model: Any = build_engine(spec)._model
    reason = find_fault(model, spec, replace(EAGER, gate=broken), by_rows=True)
    assert reason == "failed here: no kernel image is available"
    assert not isinstance(model.base_model.layers[0], FastLayer)


def test_a_backward_pass_that_fails_leaves_no_gradients(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def broken(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("no kernel image is available")
        return EAGER.norm_backward_add(*args)

    spec = build_spec(folder("llama"))
    model: Any = build_engine(spec)._model
    reason = find_fault(model, spec, replace(EAGER, norm_backward_add=broken), by_rows=True)
    assert reason == "failed here: no kernel image is available"
    assert all(parameter.grad is None for parameter in model.parameters())

    monkeypatch.setattr(passes, "batch_loss", lambda *args, **kwargs: broken())
    reason = find_fault(model, spec, EAGER, by_rows=True)
    assert reason == "the plain layers failed here: no kernel image is available"
    assert not isinstance(model.base_model.layers[0], FastLayer)


def test_replacing_layers_needs_a_known_family(folder: Callable[[str], Path]) -> None:
    spec = build_spec(folder("phi3"))
    model: Any = build_engine(spec)._model
    assert why_plain(model, spec) == "Phi3DecoderLayer is not known"
    with pytest.raises(AttributeError):
        replace_layer(model, 0, EAGER)


def test_adapters_on_some_modules_only(folder: Callable[[str], Path]) -> None:
    figures = []
    for kernels in ("plain", "fast"):
        spec = build_spec(folder("llama"), kernels=kernels, adapter={"targets": ("q_proj", "v_proj")})
        engine = build_engine(spec)
        for _ in range(2):
            engine.forward_backward([PACKED], denominator=total_weight(DOCUMENTS))
            stats = engine.optim_step(lr=1e-2, skip_above=None).read()
        figures.append((stats.sums.loss, stats.gradient_norm))
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)


def test_the_planner_counts_with_the_families_that_have_fast_layers() -> None:
    assert {name.removesuffix("DecoderLayer").lower() for name in NORM_SHIFTS} == FAMILIES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_serves_all_row_counts_and_knows_its_width() -> None:
    ops = compile_elementwise(torch.device("cpu"))

    def count(rows: int, width: int) -> int:
        x, weight = torch.randn(rows, width), torch.ones(width)
        torch.testing.assert_close(ops.norm(x, weight, 1e-6, 0.0), EAGER.norm(x, weight, 1e-6, 0.0))
        return counters["stats"]["unique_graphs"]

    first = count(5, 24)
    # Also as many rows as columns, which says nothing of either.
    assert [count(rows, 24) for rows in (24, 64, 7)] == [first] * 3
    assert count(5, 40) == first + 1
