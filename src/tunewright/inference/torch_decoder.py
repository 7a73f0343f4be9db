"""Decoding on the PyTorch engine, with the cache classes of transformers. torch_base.py loads the model.

B rows, T tokens fed, S tokens in the cache, K tokens in play, V vocabulary, N changes,
R rows of a grammar.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from transformers import PreTrainedModel

from tunewright.engines.torch.device import raise_out_of_memory
from tunewright.errors import EngineError
from tunewright.inference.decoder import PromptScores
from tunewright.inference.torch_cache import can_join, join_caches, select_rows

_CACHE_NAMES = ("past_key_values", "cache_params")
# The head over a long prompt would be T x V numbers at once.
_SCORED_TOKENS = 512


class TorchLogits:
    """Implements inference.decoder.Logits."""

    def __init__(self, logits_BV: torch.Tensor) -> None:
        self._logits_BV = logits_BV

    def likeliest(self) -> NDArray[np.int64]:
        return self._logits_BV.argmax(dim=-1).cpu().numpy()

    def top(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        vocabulary = self._logits_BV.shape[-1]
        values_BK, tokens_BK = self._logits_BV.float().topk(min(count or vocabulary, vocabulary), sorted=True)
        return values_BK.cpu().numpy(), tokens_BK.cpu().numpy()

    def masses(self, temperatures_B: NDArray[np.float32]) -> NDArray[np.float32]:
        by = torch.from_numpy(temperatures_B).to(self._logits_BV.device)[:, None]
        return (self._logits_BV.float() / by).logsumexp(dim=-1).cpu().numpy()

    def of(self, tokens_B: NDArray[np.int64]) -> NDArray[np.float32]:
        places_B1 = torch.from_numpy(tokens_B).to(self._logits_BV.device)[:, None]
        return self._logits_BV.gather(-1, places_B1)[:, 0].float().cpu().numpy()

    def rows(self, places: Sequence[int]) -> TorchLogits:
        return TorchLogits(self._logits_BV[torch.tensor(places, device=self._logits_BV.device)])

    def changed(
        self, rows_N: NDArray[np.int64], tokens_N: NDArray[np.int64], amounts_N: NDArray[np.float32]
    ) -> TorchLogits:
        device = self._logits_BV.device
        places = tuple(torch.from_numpy(values).to(device) for values in (rows_N, tokens_N))
        amounts = torch.from_numpy(amounts_N).to(device)
        return TorchLogits(self._logits_BV.float().index_put(places, amounts, accumulate=True))

    def masked(self, rows_R: NDArray[np.int64], allowed_RV: NDArray[np.bool_]) -> TorchLogits:
        logits_BV = self._logits_BV.clone()
        width = min(allowed_RV.shape[1], logits_BV.shape[1])
        rows = torch.from_numpy(rows_R).to(logits_BV.device)
        allowed = torch.from_numpy(allowed_RV[:, :width]).to(logits_BV.device)
        kept_RV = logits_BV[rows, :width]
        logits_BV[rows] = float("-inf")
        logits_BV[rows, :width] = kept_RV.masked_fill(~allowed, float("-inf"))
        return TorchLogits(logits_BV)


class TorchDecoder:
    """Implements inference.decoder.Decoder: prompts are padded on the left."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters
        # Models without attention keep a state, under another name.
        self._cache_name = next((name for name in _CACHE_NAMES if name in self._takes), _CACHE_NAMES[0])
        self._mask_BS = torch.empty(0)
        self._is_padded = False
        self._cache: Any = None

    def start(self, prompts: Sequence[Sequence[int]]) -> TorchLogits:
        width = max(len(prompt) for prompt in prompts)
        padding = [width - len(prompt) for prompt in prompts]
        tokens = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        self._mask_BS = torch.tensor(mask, device=self._model.device)
        self._is_padded = any(padding)
        self._cache = None
        return TorchLogits(self._feed(torch.tensor(tokens, device=self._model.device))[:, -1])

    def next(self, tokens_B: NDArray[np.int64]) -> TorchLogits:
        self._mask_BS = F.pad(self._mask_BS, (0, 1), value=1)
        return TorchLogits(self._feed(torch.from_numpy(tokens_B).to(self._model.device)[:, None])[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        # The cache was made in inference mode, and only there may it be changed.
        with raise_out_of_memory(self._model.device), torch.inference_mode():
            rows_B = torch.tensor(rows, device=self._model.device)
            mask_BS = self._mask_BS[rows_B]
            # Places in which no row that stays has a token.
            unused = int(mask_BS.argmax(dim=-1).min()) if self._is_padded else 0
            unused = select_rows(self._cache, rows_B, unused)
            self._mask_BS = mask_BS[:, unused:]
            self._is_padded = self._is_padded and not bool(self._mask_BS.all())

    def can_join(self) -> bool:
        return can_join(self._cache)

    def join(self, other: Self) -> None:
        with raise_out_of_memory(self._model.device), torch.inference_mode():
            join_caches(self._cache, other._cache)
            width = max(self._mask_BS.shape[1], other._mask_BS.shape[1])
            masks = [F.pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask_BS, other._mask_BS)]
            self._mask_BS = torch.cat(masks)
            self._is_padded = not bool(self._mask_BS.all())

    def score(self, prompt: Sequence[int], count: int) -> PromptScores:
        tokens = torch.tensor(prompt, device=self._model.device)
        self._mask_BS = torch.ones((1, len(prompt)), dtype=torch.long, device=tokens.device)
        self._is_padded, self._cache = False, None
        chosen, values, likeliest = [], [], []
        logits_TV = self._feed(tokens[None], keep_all=True)[0]
        for piece_TV, labels_T in zip(
            logits_TV[:-1].split(_SCORED_TOKENS), tokens[1:].split(_SCORED_TOKENS), strict=True
        ):
            log_probs_TV = piece_TV.float().log_softmax(dim=-1)
            chosen.append(log_probs_TV.gather(-1, labels_T[:, None])[:, 0])
            top = log_probs_TV.topk(min(count, log_probs_TV.shape[-1]))
            values.append(top.values)
            likeliest.append(top.indices)
        return _on_host(chosen), _on_host(values), _on_host(likeliest)

    def _feed(self, tokens_BT: torch.Tensor, *, keep_all: bool = False) -> torch.Tensor:
        """Logits of the last position, or of all, [B, T, V]."""
        inputs: dict[str, Any] = {"input_ids": tokens_BT}
        takes_positions = "position_ids" in self._takes
        if self._cache_name == "cache_params":
            # The mask has as many places as tokens are fed, and none of a single one is padding.
            needs_mask = self._is_padded and self._cache is None
        else:
            needs_mask = self._is_padded or not takes_positions
        if needs_mask:
            inputs["attention_mask"] = self._mask_BS
        if takes_positions:
            # A padded place gets position 0; nothing attends to it.
            positions_BS = (self._mask_BS.cumsum(dim=-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions_BS[:, -tokens_BT.shape[1] :]
        if "logits_to_keep" in self._takes and not keep_all:
            inputs["logits_to_keep"] = 1
        # Entered anew for each step: a generator that is not read to its end must not leave the mode on.
        with raise_out_of_memory(self._model.device), torch.inference_mode():
            output = self._model(**inputs, **{self._cache_name: self._cache}, use_cache=True)
            self._cache = getattr(output, self._cache_name, None)
            if self._cache is None:
                raise EngineError(
                    "the model gives no cache of what it has read, without which nothing is generated",
                    where="model",
                    got=type(self._model).__name__,
                    hint="answer with another program: an export holds all that it needs",
                    code="engine.no-cache",
                )
            return output.logits


def _on_host(parts: list[torch.Tensor]) -> NDArray[Any]:
    return torch.cat(parts).cpu().numpy()
