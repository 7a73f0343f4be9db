"""Model folders whose weights are not those of the config, on every engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunewright.assets.files import TINY_MODEL
from tunewright.engines.mlx import load as mlx_load
from tunewright.engines.torch import load as torch_load
from tunewright.errors import ModelError

Weights = dict[str, torch.Tensor]
LOADERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda folder: torch_load.load_model(folder, dtype=torch.float32, device=torch.device("cpu")),
    "mlx": lambda folder: mlx_load.load_model(folder, dtype=mx.float32),
}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return LOADERS[request.param]


def edited(folder: Path, edit: Callable[[Weights], object], **config: object) -> Path:
    """builtin:tiny with other weights and config values."""
    shutil.copytree(TINY_MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, **config}))
    return folder


def refusal(load: Callable[[Path], object], folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return caught.value


def test_weights_that_the_config_has_no_place_for_are_not_left_out(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    name = "model.layers.3.self_attn.q_proj.bias"
    error = refusal(load, edited(tmp_path / "bias", lambda weights: weights.update({name: torch.ones(192)})))
    assert (error.code, error.got) == ("model.incomplete", name)
    error = refusal(load, edited(tmp_path / "layers", lambda weights: None, num_hidden_layers=4))
    assert error.code == "model.incomplete"


def test_frequencies_that_older_releases_stored_are_no_weights(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(edited(tmp_path / "model", lambda weights: weights.update({name: torch.ones(16)})))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(
    load: Callable[[Path], object], tmp_path: Path, value: float
) -> None:
    name = "model.layers.2.mlp.up_proj.weight"

    def spoil(weights: Weights) -> None:
        weights[name][3, 3] = value

    error = refusal(load, edited(tmp_path / "model", spoil))
    assert (error.code, error.got) == ("model.not-finite", name)


def test_a_head_that_differs_from_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    folder = edited(tmp_path / "model", lambda weights: None, tie_word_embeddings=True)
    # transformers computes with the head of the file then, and mlx-lm's classes cannot.
    assert refusal(LOADERS["mlx"], folder).code == "model.tied-head"
    same = tmp_path / "same"

    def tie(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    LOADERS["mlx"](edited(same, tie, tie_word_embeddings=True))
