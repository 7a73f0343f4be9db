"""The base model from its sanitised folder: safetensors only, offline, no remote code, every weight found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunewright.engines.torch.device import is_out_of_memory
from tunewright.engines.torch.long_rope import rotate_by_document
from tunewright.engines.torch.quantized_load import PackOnLoad
from tunewright.errors import EngineError, ModelError
from tunewright.models.sanitise import read_json
from tunewright.models.weights import not_finite

# Buffers that older releases of transformers stored: computed from the config now.
_OLD_BUFFERS = ("rotary_emb.inv_freq", ".attn.masked_bias", ".attention.masked_bias")


def load_model(
    folder: Path, *, dtype: torch.dtype, device: torch.device, pack: PackOnLoad | None = None
) -> PreTrainedModel:
    """The causal language model in `folder`, frozen, in evaluation mode, with its own eager attention.

    pack: store frozen linear layers in 4 bits, made weight by weight. Prints nothing and leaves the global
    random state alone. Raises ModelError when a weight is missing, has another shape, or the folder cannot be
    read as a model.
    """
    _refuse_packed(folder)
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **({} if pack is None else {"quantization_config": pack}),
            )
        except Exception as error:
            # The config is foreign data, and the library answers a senseless one with any kind of exception.
            if pack is not None and pack.failures:
                raise pack.failures[0] from None
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                raise
            raise ModelError(
                f"the model cannot be loaded: {_first_line(error)}",
                where=str(folder),
                hint="its config.json and weights must be those of one sound model",
                code="model.unreadable",
            ) from error
    model, info = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    _check_complete(folder, info)
    _check_finite(folder, model)
    model.config.use_cache = False
    model.requires_grad_(False).eval()
    rotate_by_document(model)
    torch.nn.Module.to(model, device)
    return model


def _refuse_packed(folder: Path) -> None:
    if read_json(folder / "config.json").get("quantization"):
        raise ModelError(
            "the model is packed for MLX",
            where=str(folder),
            got="config.json: quantization",
            hint="set engine: mlx, or use the model's unquantised version",
            code="model.quantized",
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the embedding: every token id must be below."""
    return cast(torch.nn.Embedding, model.get_input_embeddings()).weight.shape[0]


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Switch the attention function of every layer."""
    with _quiet(), suppress(ValueError):
        # What it raises for a family that knows no such function; others it passes over.
        model.set_attn_implementation(name)
    if model.config.get_text_config()._attn_implementation != name:
        raise EngineError(
            f"{type(model).__name__} does not take another attention function",
            where="model.attention",
            got=name,
            hint="set model.attention: auto",
            code="engine.attention-mismatch",
        )


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    for key, what in (
        ("missing_keys", "weights are missing"),
        ("mismatched_keys", "weights have another shape"),
        ("unexpected_keys", "weights have no place in the model"),
    ):
        names = sorted(str(name) for name in info.get(key) or () if not str(name).endswith(_OLD_BUFFERS))
        if names:
            raise ModelError(
                what,
                where=str(folder),
                got=", ".join(names[:5]) + (" …" if len(names) > 5 else ""),
                hint="its config.json and weights must be those of one sound model; nothing is left out or "
                "made up for them",
                code="model.incomplete",
            )


def _check_finite(folder: Path, model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        # A sum is one pass without a copy of the weight, and not finite where one of its terms is not.
        if parameter.is_floating_point() and not parameter.sum(dtype=torch.float32).isfinite():
            raise not_finite(folder, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and notices of the libraries off the terminal, and put the settings back after."""
    level = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = offline
