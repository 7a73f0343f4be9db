"""Packed logits equal the model's own eager forward of each document alone, whatever the documents.

Gradients follow in test_equalities.py; this looks for lengths at which the attention goes another way: around
the window, a group step, the longest grouped document, and rows with a single token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from engine_cases import Document, draw_documents, lay_out
from families import FAMILIES, WINDOW
from reference_equalities import load_eager
from tunewright.engines.torch.attention import ATTENTION_NAME
from tunewright.engines.torch.documents import GROUP_STEP, LONGEST_GROUPED, Documents
from tunewright.engines.torch.load import set_attention
from tunewright.engines.torch.precision import compute_in

FolderOf = Callable[[str], Path]
EDGES = sorted({1, 2, *(n + d for n in (WINDOW, 2 * WINDOW, GROUP_STEP) for d in (-1, 0, 1))})
LENGTH = st.sampled_from(EDGES) | st.integers(1, 3 * WINDOW)
ROWS = st.lists(st.lists(LENGTH, min_size=1, max_size=4), min_size=1, max_size=3)
pytestmark = pytest.mark.usefixtures("one_thread")
# The fixtures are of the session and hold no state between examples.
quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@lru_cache(maxsize=1)
def load(folder: Path) -> PreTrainedModel:
    return load_eager(folder)


@torch.no_grad()
def largest_difference(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], precision: str = "fp32"
) -> float:
    """Of any logit, over the largest logit. `precision` is that of the packed side; eager stays in fp32."""
    drawn = iter(draw_documents([length for lengths in rows for length in lengths], seed=len(rows)))
    documents = [[next(drawn) for _ in lengths] for lengths in rows]
    set_attention(model, "eager")
    alone = [[eager_logits(model, document) for document in row] for row in documents]
    set_attention(model, ATTENTION_NAME)
    batch = lay_out(documents, width=max(map(sum, rows)) + 3)
    with compute_in(precision, model.device):
        packed_BTV = model(
            input_ids=torch.from_numpy(batch.tokens_BT.astype(np.int64)),
            position_ids=torch.from_numpy(batch.positions_BT.astype(np.int64)),
            use_cache=False,
            documents=Documents(batch.doc_lengths),
        ).logits.float()
    size = max(float(logits.abs().max()) for row in alone for logits in row)
    together = [torch.cat(row) for row in alone]
    return max(
        float((packed_TV[: len(expected)] - expected).abs().max()) / size
        for packed_TV, expected in zip(packed_BTV, together, strict=True)
    )


def eager_logits(model: PreTrainedModel, document: Document) -> torch.Tensor:
    return model(input_ids=torch.from_numpy(document[0].astype(np.int64))[None], use_cache=False).logits[0]


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "phi3", "qwen2"])
@quick
@example(rows=[[1]])
@example(rows=[[1, 1, 1], [WINDOW]])
@example(rows=[[WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW], [2 * WINDOW + 1]])
@given(rows=ROWS)
def test_any_documents(family: str, rows: list[list[int]], family_folder: FolderOf) -> None:
    assert largest_difference(load(family_folder(family)), rows) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_beyond_the_longest_group(family: str, family_folder: FolderOf) -> None:
    rows = [[LONGEST_GROUPED - 1, 1, LONGEST_GROUPED + 1], [LONGEST_GROUPED, WINDOW]]
    assert largest_difference(load(family_folder(family)), rows) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_documents_stay_near_fp32(family: str, family_folder: FolderOf) -> None:
    """A single logit, not a mean: bf16 rounds by up to 0.4 % in each of three or four layers."""
    difference = largest_difference(load(family_folder(family)), [[41, 1, WINDOW], [60]], precision="bf16")
    assert 1e-4 < difference <= 3e-2
