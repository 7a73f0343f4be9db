"""A document is computed with its own rotary frequencies, whatever lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from engine_cases import build_spec, draw_documents, lay_out
from tunewright.engines.torch.engine import build_engine
from tunewright.engines.torch.long_rope import long_documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    half = 8
    config = Phi3Config(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, original_max_position_embeddings=64,
        pad_token_id=0, initializer_range=0.2,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
            "short_factor": [1.0] * half, "long_factor": [8.0] * half,
            "original_max_position_embeddings": 64,
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("phi3")
    Phi3ForCausalLM(config).save_pretrained(path)
    return path


def test_long_and_short_documents_packed_together_lose_what_they_lose_alone(folder: Path):
    engine = build_engine(build_spec(folder))
    documents = draw_documents([100, 20, 64, 65])
    alone = sum(engine.evaluate(lay_out([[one]])).loss for one in documents)
    assert engine.evaluate(lay_out([documents])).loss == pytest.approx(alone, rel=1e-5)
    rows = lay_out([[one] for one in documents])
    assert engine.evaluate(rows).loss == pytest.approx(alone, rel=1e-5)


def test_a_document_is_long_from_the_first_position_past_the_limit():
    positions_BT = torch.tensor([[0, 1, 2, 0, 1, 0], [3, 4, 0, 1, 2, 3]])
    expected = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert long_documents(positions_BT, 2).int().tolist() == expected
