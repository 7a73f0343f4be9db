"""Training and evaluation as this engine means them: in both, the base model draws nothing at random.

Many families bring dropout of their pre-training, drop whole layers or jitter their routers in transformers'
training mode. The loss of a step would then depend on how it is split into micro-batches, which is promised
to change nothing. Only `adapter.dropout` is drawn, by LoRA layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from transformers import PreTrainedModel

from tunewright.engines.torch.fast.layer import FastLayer
from tunewright.engines.torch.lora import LoraLinear

# Of heads that a causal language model does not have.
_OTHER_HEADS = ("classifier", "summary", "seq_")


def set_training(model: PreTrainedModel) -> None:
    """Let LoRA layers drop what their adapter config says, and everything else compute as in evaluation."""
    model.eval()
    for module in model.modules():
        if isinstance(module, (LoraLinear, FastLayer)):
            module.training = True


def list_idle_noise(model: PreTrainedModel) -> str:
    """Settings of the base model that are off here, for a person: `attention_dropout 0.1, layerdrop 0.1`."""
    config = cast("dict[str, Any]", model.config.get_text_config().to_dict())
    return ", ".join(sorted(f"{name} {value:g}" for name, value in _noise(config)))


def _noise(config: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in config.items():
        if isinstance(value, dict):
            named = cast("dict[object, Any]", value)
            yield from _noise({str(key): inner for key, inner in named.items()})
        is_noise = any(word in name for word in ("drop", "jitter")) and not name.startswith(_OTHER_HEADS)
        if is_noise and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            yield name, value
