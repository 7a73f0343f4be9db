"""Building, refusing, running out of memory, and state that does not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import make_family
from tunewright.engines.batches import Recent
from tunewright.engines.torch import loss as loss_module
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.lora import lora_layers
from tunewright.errors import CheckpointError, EngineError, EngineOutOfMemory, ModelError
from tunewright.types import Array, EngineState


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_family("qwen2", tmp_path_factory.mktemp("e") / "qwen2")


def _weights(engine):
    return {name: bytes(array.data) for name, array in engine.snapshot().arrays.items()}


def _batch(lengths=(9, 12), seed=0):
    documents = draw_documents(list(lengths), seed=seed)
    return lay_out([documents]), total_weight(documents)


def test_facts(folder):
    facts = build_engine(build_spec(folder)).facts
    assert (facts.engine, facts.device, facts.attention) == ("torch", "cpu", "sdpa")
    assert facts.trainable_parameters < facts.parameters
    assert facts.versions["torch"] == torch.__version__


def test_building_prints_nothing_and_keeps_the_global_random_state(folder, capfd):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    engine = build_engine(build_spec(folder, adapter={"dropout": 0.5}))
    batch, weight = _batch()
    engine.forward_backward([batch], denominator=weight)
    assert torch.equal(torch.get_rng_state(), before)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_same_seed_same_start_and_same_dropout(folder):
    batch, weight = _batch()
    norms = []
    for seed in (1, 1, 2):
        engine = build_engine(build_spec(folder, adapter={"dropout": 0.5}, seed=seed))
        engine.forward_backward([batch], denominator=weight)
        norms.append(engine.optim_step(lr=0.1, skip_above=None).read().gradient_norm)
    assert norms[0] == norms[1] != norms[2]


def test_dropout_is_off_in_evaluation(folder):
    batch, _ = _batch()
    plain, dropping = (build_engine(build_spec(folder, adapter={"dropout": d})) for d in (0.0, 0.9))
    for engine in (plain, dropping):
        state = engine.snapshot()
        ones = {
            n: dataclasses.replace(a, data=np.full(a.shape, 0.05, np.float32).tobytes())
            for n, a in state.arrays.items()
            if n.endswith("lora_B.weight") and n.startswith("weight/")
        }
        engine.restore(EngineState({**state.arrays, **ones}, state.values))
    assert plain.evaluate(batch) == dropping.evaluate(batch)


def test_label_sums_equal_float64(folder):
    engine = build_engine(build_spec(folder))
    documents = draw_documents([20, 11])
    batch = lay_out([documents], width=40)
    with torch.no_grad():
        engine._model.set_attn_implementation("eager")
        loss, correct, labels = 0.0, 0, 0
        for tokens, weights in documents:
            ids = torch.from_numpy(tokens.astype(np.int64))
            logits = engine._model(input_ids=ids[None]).logits[0, :-1].numpy().astype(np.float64)
            top = logits.max(-1, keepdims=True)
            logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
            loss -= float((logp[np.arange(len(ids) - 1), tokens[1:]] * weights[1:]).sum())
            correct += int(((logits.argmax(-1) == tokens[1:]) & (weights[1:] > 0)).sum())
            labels += int((weights > 0).sum())
    engine._model.set_attn_implementation("tunewright_documents")
    sums = engine.evaluate(batch)
    assert sums.loss == pytest.approx(loss, rel=1e-6)
    assert (sums.correct, sums.tokens) == (correct, labels)
    assert sums.weight == pytest.approx(total_weight(documents))


def test_chunks_and_full_logits_change_nothing(folder, monkeypatch):
    batch, weight = _batch((30, 25))
    results = []
    for elements, by_rows in ((2**24, True), (384 * 7, True), (2**24, False)):
        monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", elements)
        engine = build_engine(build_spec(folder))
        engine._built = dataclasses.replace(engine._built, by_rows=by_rows)
        engine.forward_backward([batch], denominator=weight)
        results.append(engine.optim_step(lr=0.1, skip_above=None).read())
    for other in results[1:]:
        assert other.sums.loss == pytest.approx(results[0].sums.loss, rel=1e-6)
        assert other.sums.correct == results[0].sums.correct
        assert other.gradient_norm == pytest.approx(results[0].gradient_norm, rel=1e-5)


def test_head_check_refuses_an_unknown_transform(folder, monkeypatch):
    engine = build_engine(build_spec(folder))
    assert loss_module.check_head(engine._model)
    monkeypatch.setattr(loss_module, "_head_logits", lambda model, hidden: 2 * model.lm_head(hidden))
    assert not loss_module.check_head(engine._model)
    monkeypatch.setattr(engine._model, "get_output_embeddings", lambda: None)
    assert not loss_module.check_head(engine._model)


def test_batch_without_labels_adds_nothing(folder):
    engine = build_engine(build_spec(folder))
    tokens, weights = draw_documents([8])[0]
    engine.forward_backward([lay_out([[(tokens, weights * 0)]])], denominator=1.0)
    stats = engine.optim_step(lr=0.1, skip_above=None).read()
    assert stats.sums.tokens == 0
    assert stats.gradient_norm == 0


class _Failing(torch.nn.Module):
    """Takes the place of a module and, on its n-th call, runs out of memory for real."""

    def __init__(self, inner, call):
        super().__init__()
        self.inner, self.left = inner, call

    def forward(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            torch.empty(2**60, dtype=torch.uint8)
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("earlier", [False, True])
def test_out_of_memory_leaves_everything_as_it_was(earlier, folder):
    spec = build_spec(folder, adapter={"dropout": 0.5})
    first, weight = _batch()
    second, _ = _batch(seed=1)

    def run(fails):
        engine = build_engine(spec)
        if earlier:
            engine.forward_backward([first], denominator=weight)
        if fails:
            norm = engine._model.model.norm
            engine._model.model.norm = _Failing(norm, call=2)
            before = _weights(engine)
            with pytest.raises(EngineOutOfMemory):
                engine.forward_backward([second, second], denominator=weight)
            assert _weights(engine) == before
            engine._model.model.norm = norm
        engine.forward_backward([second], denominator=weight)
        return engine.optim_step(lr=0.1, skip_above=None).read(), _weights(engine)

    assert run(True) == run(False)


def test_evaluation_out_of_memory(folder):
    engine = build_engine(build_spec(folder))
    engine._model.model.norm = _Failing(engine._model.model.norm, call=1)
    with pytest.raises(EngineOutOfMemory):
        engine.evaluate(_batch()[0])


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "dtype", "steps"])
def test_state_that_does_not_fit_is_refused_untouched(change, folder):
    engine = build_engine(build_spec(folder))
    state = engine.snapshot()
    arrays, values = dict(state.arrays), dict(state.values)
    name = next(n for n in arrays if n.startswith("weight/"))
    if change == "missing":
        del arrays[name]
    elif change == "unknown":
        arrays["weight/other"] = arrays[name]
    elif change == "shape":
        arrays[name] = Array("F32", (1,), bytes(4))
    elif change == "dtype":
        arrays[name] = dataclasses.replace(arrays[name], dtype="I32")
    else:
        values["optimizer_steps"] = None
    other = build_engine(build_spec(folder, seed=8))
    before = _weights(other)
    with pytest.raises(CheckpointError) as caught:
        other.restore(EngineState(arrays, values))
    assert caught.value.code == "checkpoint.engine-mismatch"
    assert _weights(other) == before


def test_changed_buffers_come_back(folder):
    spec = build_spec(folder)
    engine = build_engine(spec)
    buffers = dict(engine._model.named_buffers())
    name = next(n for n in buffers if n.endswith("inv_freq"))
    assert not any(n.startswith("buffer/") for n in engine.snapshot().arrays)
    buffers[name].mul_(2)
    state = engine.snapshot()
    fresh = build_engine(spec)
    start = fresh.snapshot()
    fresh.restore(state)
    assert torch.equal(dict(fresh._model.named_buffers())[name], buffers[name])
    fresh.restore(start)
    assert not torch.equal(dict(fresh._model.named_buffers())[name], buffers[name])


def test_fp16_overflow_is_skipped_and_scaled_down(folder):
    engine = build_engine(build_spec(folder, dtype="fp32", precision="fp16"))
    batch, weight = _batch()
    engine.forward_backward([batch], denominator=weight * 1e-9)
    start = engine.snapshot()
    stats = engine.optim_step(lr=0.1, skip_above=None).read()
    after = engine.snapshot()
    assert stats.skipped
    assert stats.rescaled
    assert after.values["loss_scale"] == start.values["loss_scale"] / 2
    assert after.values["optimizer_steps"] == 0
    engine.forward_backward([batch], denominator=weight)
    assert not engine.optim_step(lr=0.1, skip_above=None).read().skipped
    again = build_engine(build_spec(folder, dtype="fp32", precision="fp16"))
    again.restore(engine.snapshot())
    assert again.snapshot().values == engine.snapshot().values


def test_masters_are_fp32_whatever_the_base_is(folder):
    adapter = {"bias": "all", "modules_to_save": ("norm",)}
    engine = build_engine(build_spec(folder, dtype="bf16", precision="bf16", adapter=adapter))
    dtypes = {p.requires_grad: p.dtype for p in engine._model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    batch, weight = _batch()
    engine.forward_backward([batch], denominator=weight)
    assert not engine.optim_step(lr=0.1, skip_above=None).read().skipped


@pytest.mark.parametrize(("bias", "count"), [("none", 0), ("lora_only", 3), ("all", 9)])
def test_which_biases_train(bias, count, folder):
    engine = build_engine(build_spec(folder, adapter={"bias": bias, "targets": ("q_proj", "o_proj")}))
    names = [n for n, p in engine._model.named_parameters() if p.requires_grad and n.endswith(".bias")]
    assert len(names) == count
    assert (engine.facts.trainable_biases > 0) == (count > 0)


def test_targets_must_be_linear_and_saved_modules_exist(folder):
    with pytest.raises(EngineError, match="embed_tokens") as caught:
        build_engine(build_spec(folder, adapter={"targets": ("embed_tokens",)}))
    assert caught.value.code == "engine.target-not-linear"
    with pytest.raises(EngineError) as caught:
        build_engine(build_spec(folder, adapter={"modules_to_save": ("score",)}))
    assert caught.value.code == "engine.unknown-module"


def test_merged_layer_equals_layer(folder):
    engine = build_engine(build_spec(folder))
    _, layer = next(lora_layers(engine._model))
    torch.nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(3, layer.base_layer.in_features)
    merged = x @ layer.merged_weight().T + layer.bias
    torch.testing.assert_close(merged, layer(x), rtol=1e-5, atol=1e-4)


def test_incomplete_model_is_refused(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"model\.norm\.weight") as caught:
        build_engine(build_spec(tmp_path))
    assert caught.value.code == "model.incomplete"


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "x"}, {"num_attention_heads": 0}, {"layer_types": ["foo"]}, {"hidden_act": "no"}],
)
def test_a_senseless_config_is_refused(change, folder, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **change}))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        build_engine(build_spec(tmp_path))
    assert caught.value.code == "model.unreadable"


def test_pickle_weights_and_empty_folders_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        build_engine(build_spec(tmp_path))
    assert caught.value.code == "model.unreadable"
    with pytest.raises(ModelError):
        build_engine(build_spec(tmp_path / "absent"))


def test_a_token_without_embedding_is_refused(folder):
    engine = build_engine(build_spec(folder))
    batch, weight = _batch()
    batch.tokens_BT[0, 3] = 100_000
    for use in (lambda: engine.forward_backward([batch], denominator=weight), lambda: engine.evaluate(batch)):
        with pytest.raises(ModelError, match="token 100000") as caught:
            use()
        assert caught.value.code == "model.vocabulary"


def test_adapter_of_another_shape_is_refused(folder, tmp_path):
    build_engine(build_spec(folder)).export(tmp_path, merge=False)
    with pytest.raises(ModelError) as caught:
        build_engine(build_spec(folder, adapter={"rank": 5}, adapter_folder=tmp_path))
    assert caught.value.code == "model.adapter-mismatch"
    with pytest.raises(ModelError, match="lacks"):
        build_engine(build_spec(folder, adapter={"bias": "all"}, adapter_folder=tmp_path))


@pytest.mark.parametrize("change", [{"alpha": 9}, {"rslora": True}])
def test_adapter_of_another_scale_is_refused(change, folder, tmp_path):
    build_engine(build_spec(folder)).export(tmp_path, merge=False)
    with pytest.raises(ModelError, match="scale") as caught:
        build_engine(build_spec(folder, adapter=change, adapter_folder=tmp_path))
    assert caught.value.code == "model.adapter-mismatch"


def test_damaged_merge_is_not_certified(folder, tmp_path, monkeypatch):
    engine = build_engine(build_spec(folder))
    real = loss_module.PreTrainedModel.state_dict

    def damaged(self, *args, **kwargs):
        state = real(self, *args, **kwargs)
        return {**state, "model.norm.weight": state["model.norm.weight"] * 1.5}

    monkeypatch.setattr(loss_module.PreTrainedModel, "state_dict", damaged)
    with pytest.raises(EngineError, match="log-probabilities") as caught:
        engine.export(tmp_path, merge=True)
    assert caught.value.code == "engine.certificate"


def test_generation_config_goes_with_a_merge(folder, tmp_path):
    engine = build_engine(build_spec(folder))
    engine.export(tmp_path, merge=True)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert (tmp_path / "generation_config.json").exists() == Path(folder / "generation_config.json").exists()


def test_recent_rows_are_cut_documents():
    recent = Recent()
    assert len(recent.rows(50)) == 8
    assert all(row.max() < 50 for row in recent.rows(50))
    recent.remember([lay_out([draw_documents([300, 1, 4])])])
    assert [len(row) for row in recent.rows(50)] == [256, 4]


def test_discarded_gradients_are_gone(folder):
    engine = build_engine(build_spec(folder))
    batch, weight = _batch()
    engine.forward_backward([batch], denominator=weight)
    engine.discard_gradients()
    stats = engine.optim_step(lr=0.1, skip_above=None).read()
    assert (stats.gradient_norm, stats.sums.tokens) == (0, 0)
