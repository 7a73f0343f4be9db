"""Which modules get an adapter on models whose layers are not all nn.Linear, and what PEFT makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from causal_types import make_causal_type
from engine_cases import build_spec, draw_documents, lay_out, total_weight
from tunewright.engines.torch.engine import TorchEngine, build_engine
from tunewright.engines.torch.load import set_attention
from tunewright.errors import ConfigError, EngineError
from tunewright.models.resolve import resolve_model

DOCUMENTS = draw_documents([9, 14, 7])


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_of(type): the checked copy of a tiny model."""
    made: dict[str, Path] = {}

    def make(model_type: str) -> Path:
        if model_type not in made:
            folder = make_causal_type(model_type, tmp_path_factory.mktemp(model_type))
            made[model_type] = resolve_model(str(folder)).folder
        return made[model_type]

    return make


def _build(folder: Path, **adapter: Any) -> TorchEngine:
    return build_engine(build_spec(folder, attention="auto", adapter=adapter))


@pytest.mark.parametrize(
    ("model_type", "adapted", "not_adapted"),
    [
        ("phimoe", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"router": 2}),
        ("afmoe", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"router.gate": 1, "shared_experts.up_proj": 1}),
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}, {}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}, {}),
    ],
)
def test_all_linear_takes_what_computes_a_linear_layer_and_names_the_rest(
    model_type: str, adapted: set[str], not_adapted: dict[str, int], model_of: Callable[[str], Path]
) -> None:
    facts = _build(model_of(model_type)).facts
    assert set(facts.adapted) == adapted
    assert not_adapted.items() <= facts.not_adapted.items()
    experts = {key: count for key, count in facts.not_adapted.items() if key.startswith("experts.")}
    assert set(experts) == ({"experts.gate_up_proj", "experts.down_proj"} if "moe" in model_type else set())


def test_a_router_that_is_named_is_refused(model_of: Callable[[str], Path]) -> None:
    with pytest.raises(EngineError) as caught:
        _build(model_of("phimoe"), targets=("q_proj", "router"))
    assert caught.value.code == "engine.target-not-linear"
    assert "mlp.router" in str(caught.value)


def test_the_hint_for_a_weight_of_fused_experts_names_modules_that_are_there(
    model_of: Callable[[str], Path],
) -> None:
    with pytest.raises(ConfigError) as caught:
        _build(model_of("mixtral"), targets=("q_proj", "w1"))
    assert (caught.value.hint or "").endswith("k_proj, lm_head, o_proj, q_proj, v_proj")


# PEFT asks for an attribute that transformers has renamed, and looks for the base at its name on the hub.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("model_type", ["gpt2", "qwen3_next", "zaya"])
def test_peft_computes_with_the_export_what_was_trained(
    model_type: str, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    engine = _build(model_of(model_type))
    engine.forward_backward([lay_out([[one]]) for one in DOCUMENTS], denominator=total_weight(DOCUMENTS))
    engine.optim_step(lr=1e-2, skip_above=None).read()
    for name, merge in (("adapter", False), ("merged", True)):
        (tmp_path / name).mkdir()
        engine.export(tmp_path / name, merge=merge)
    set_attention(engine._model, "eager")
    base = AutoModelForCausalLM.from_pretrained(model_of(model_type), dtype=torch.float32)
    trained, before = _logits(engine._model), _logits(base)
    assert float((before - trained).norm() / trained.norm()) > 1e-3
    served = _logits(PeftModel.from_pretrained(base, str(tmp_path / "adapter")))
    torch.testing.assert_close(served, trained, rtol=1e-4, atol=1e-5)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(_logits(merged), trained, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    tokens_BT = torch.from_numpy(DOCUMENTS[1][0].astype("int64"))[None]
    return model.eval()(input_ids=tokens_BT, use_cache=False).logits
