"""Specs and batches for tests of engines. Documents are (tokens, loss weights), the same for every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.config.schema import AdapterConfig
from tunewright.engines.protocol import EngineSpec
from tunewright.types import Batch

Document = tuple[NDArray[np.int32], NDArray[np.float32]]


def build_spec(folder: Path, **changes: Any) -> EngineSpec:
    """A small LoRA spec in fp32 on the CPU; `changes` replace fields; `adapter` may be a dict."""
    adapter = changes.pop("adapter", {})
    if isinstance(adapter, dict):
        adapter = AdapterConfig(**{"rank": 4, "alpha": 8, **adapter})
    fields: dict[str, Any] = {
        "model_folder": folder,
        "model_name": "tests/tiny",
        "device": "cpu",
        "dtype": "fp32",
        "precision": "fp32",
        "attention": "sdpa",
        "adapter": adapter,
        "adapter_folder": None,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "betas": (0.9, 0.999),
        "epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "checkpointed_layers": 0,
        "deterministic": False,
        "seed": 7,
    }
    return EngineSpec(**{**fields, **changes})


def draw_documents(lengths: list[int], *, seed: int = 0, vocabulary: int = 256) -> list[Document]:
    """Random documents whose first third is a prompt (weight 0); some labels weigh 0.5."""
    draw = np.random.Generator(np.random.Philox(seed))
    documents = []
    for length in lengths:
        tokens = draw.integers(4, vocabulary, size=length).astype(np.int32)
        weights = np.where(draw.random(length) < 0.2, 0.5, 1.0).astype(np.float32)
        weights[: max(1, length // 3)] = 0
        documents.append((tokens, weights))
    return documents


def lay_out(rows: list[list[Document]], width: int | None = None) -> Batch:
    """Rows of documents end to end, padded with zeros to `width` or the longest row."""
    width = width or max(sum(len(tokens) for tokens, _ in row) for row in rows)
    tokens_BT = np.zeros((len(rows), width), np.int32)
    positions_BT = np.zeros((len(rows), width), np.int32)
    weights_BT = np.zeros((len(rows), width), np.float32)
    for b, row in enumerate(rows):
        start = 0
        for tokens, weights in row:
            stop = start + len(tokens)
            tokens_BT[b, start:stop], weights_BT[b, start:stop] = tokens, weights
            positions_BT[b, start:stop] = np.arange(len(tokens))
            start = stop
    lengths = tuple(tuple(len(tokens) for tokens, _ in row) for row in rows)
    return Batch(tokens_BT, positions_BT, weights_BT, lengths)


def total_weight(documents: list[Document]) -> float:
    """The denominator of a step on these documents."""
    return float(sum(weights.sum(dtype=np.float64) for _, weights in documents))
