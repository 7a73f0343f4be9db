"""One batch of sequences going through a model token by token, with its key-value cache. B rows, T tokens."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewright.errors import EngineError


class Decoder:
    """Feeds left-padded prompts, then one token a row; gives the logits of the last position each time."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._takes = inspect.signature(model.forward).parameters
        self._mask_BT = torch.empty(0)
        self._cache: Any = None

    def start(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feed the prompts (none empty); returns logits, [B, V]."""
        width = max(len(prompt) for prompt in prompts)
        tokens = [[self._pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._mask_BT = torch.tensor(mask, device=self._model.device)
        self._cache = None
        return self._feed(torch.tensor(tokens, device=self._model.device))

    def next(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Feed one token a row; returns logits, [B, V]."""
        self._mask_BT = torch.nn.functional.pad(self._mask_BT, (0, 1), value=1)
        return self._feed(tokens_B[:, None])

    def keep(self, rows_B: torch.Tensor) -> None:
        """Go on with some of the rows only, given by their places in the batch."""
        self._mask_BT = self._mask_BT[rows_B]
        self._cache.batch_select_indices(rows_B)

    def _feed(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        inputs: dict[str, Any] = {"input_ids": tokens_BT, "attention_mask": self._mask_BT}
        if "position_ids" in self._takes:
            # A padded place gets position 0; nothing attends to it.
            positions_BT = (self._mask_BT.cumsum(dim=-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions_BT[:, -tokens_BT.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        output = self._model(**inputs, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        if self._cache is None:
            raise EngineError(
                f"{type(self._model).__name__} keeps no key-value cache, without which nothing is generated",
                code="engine.no-cache",
            )
        return output.logits[:, -1]
