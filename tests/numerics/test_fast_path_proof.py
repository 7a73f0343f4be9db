"""The proof of the fast layers on trained weights: right ones pass in every number format, and a fault in a
single layer is named. On the model of the package, a family with windows, and a real model if it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from engine_cases import build_spec
from planted_layer_faults import LAYER_FAULTS, Plant, shifted_label_rows
from real_model_folder import REAL_MODEL, needs_real_model
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.fast import proof
from tunewright.engines.torch.fast.build import decoder_layers, replace_layer
from tunewright.engines.torch.fast.compiled import compile_elementwise
from tunewright.engines.torch.fast.elementwise import EAGER, Elementwise
from tunewright.engines.torch.fast.layer import FastLayer
from tunewright.engines.torch.fast.proof import find_fault
from tunewright.models.resolve import resolve_model

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
FolderOf = Callable[[str], Path]
HALF = {"dtype": "bf16", "precision": "bf16"}
FORMATS = {
    "fp32": {},
    "bf16": HALF,
    "nf4": {**HALF, "quantization": "nf4"},
    "nf4 in fp32": {"quantization": "nf4"},
    "dropout": {**HALF, "adapter": {"dropout": 0.1}},
    "two modules": {**HALF, "adapter": {"targets": ("q_proj", "v_proj")}},
}
MODELS = ("tiny", "mistral", pytest.param("real", marks=needs_real_model))
TEXTS = (
    "Give three tips for staying healthy.",
    "1. Eat a balanced diet with plenty of vegetables and fruit. 2. Move every day. 3. Sleep eight hours.",
    "What are the three primary colors?",
    "The three primary colors are red, blue and yellow. They cannot be made by mixing other colors.",
    "Describe the structure of an atom.",
    "An atom has a nucleus of protons and neutrons, and electrons that travel around it in shells.",
)


@pytest.fixture
def spec_of(family_folder: FolderOf) -> Callable[..., EngineSpec]:
    def build(model: str, **changes: Any) -> EngineSpec:
        folder = family_folder(model) if model == "mistral" else REAL_MODEL
        folder = resolve_model("builtin:tiny", None).folder if model == "tiny" else folder
        return build_spec(folder, sample=_encode(folder), kernels="plain", **changes)

    return build


def _encode(folder: Path) -> tuple[NDArray[np.int32], ...]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tuple(np.array(tokenizer.encode(text).ids, np.int32) for text in TEXTS)


def _prove(spec: EngineSpec, ops: Elementwise = EAGER) -> tuple[Any, str | None]:
    model: Any = build_engine(spec)._model
    return model, find_fault(model, spec, ops, by_rows=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("changes", FORMATS.values(), ids=FORMATS)
def test_right_layers_are_proved(
    model: str, changes: dict[str, Any], spec_of: Callable[..., EngineSpec]
) -> None:
    found, fault = _prove(spec_of(model, **changes))
    assert fault is None
    assert all(isinstance(layer, FastLayer) for layer in decoder_layers(found))


@pytest.mark.parametrize("model", MODELS)
def test_right_layers_are_proved_without_rows_of_data(
    model: str, spec_of: Callable[..., EngineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_fast_path_proof._encode", lambda folder: ())
    assert _prove(spec_of(model, **HALF))[1] is None


@pytest.mark.parametrize("model", ["tiny", pytest.param("real", marks=needs_real_model)])
def test_compiled_layers_are_proved(model: str, spec_of: Callable[..., EngineSpec]) -> None:
    assert _prove(spec_of(model, **HALF), compile_elementwise(torch.device("cpu")))[1] is None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("changes", [FORMATS["bf16"], FORMATS["nf4"]], ids=["bf16", "nf4"])
def test_a_fault_in_one_layer_is_named(
    changes: dict[str, Any], model: str, spec_of: Callable[..., EngineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(model, **changes)
    found: Any = build_engine(spec)._model
    for plant in LAYER_FAULTS:
        monkeypatch.setattr(proof, "replace_layer", partial(_replace_and_plant, plant))
        fault = str(find_fault(found, spec, EAGER, by_rows=True))
        assert fault.startswith("layer 1: "), f"{plant.__name__}: {fault}"
        assert not any(isinstance(layer, FastLayer) for layer in decoder_layers(found))


def _replace_and_plant(plant: Plant, model: Any, number: int, ops: Elementwise) -> FastLayer:
    layer = replace_layer(model, number, ops)
    if number == 1:
        plant(layer)
    return layer


@pytest.mark.parametrize("model", MODELS)
def test_a_fault_around_the_layers_is_named(
    model: str, spec_of: Callable[..., EngineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer alone is right."""
    spec = spec_of(model, **HALF)
    found: Any = build_engine(spec)._model
    compare, norm = proof._Trial.compare_whole, found.base_model.norm
    faults: list[Callable[[Any], object]] = [
        lambda base: shifted_label_rows(base.layers[-1]),
        lambda base: setattr(base, "norm", nn.Identity()),
        lambda base: _swap_first(base.layers),
    ]
    for number, plant in enumerate(faults):

        def planted(trial: Any, plant: Any = plant) -> Any:
            plant(found.base_model)
            return compare(trial)

        monkeypatch.setattr(proof._Trial, "compare_whole", planted)
        fault = str(find_fault(found, spec, EAGER, by_rows=True))
        assert fault.startswith("what the output head reads"), number
        found.base_model.norm = norm


def _swap_first(layers: Any) -> None:
    layers[0], layers[1] = layers[1], layers[0]


@needs_real_model
@pytest.mark.parametrize("changes", [FORMATS["bf16"], FORMATS["nf4"]], ids=["bf16", "nf4"])
def test_a_real_model_takes_the_fast_path_by_itself(changes: dict[str, Any]) -> None:
    spec = build_spec(REAL_MODEL, sample=_encode(REAL_MODEL), kernels="auto", **changes)
    assert build_engine(spec).facts.path == "fast"
