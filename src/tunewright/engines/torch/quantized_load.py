"""How transformers' loader is told to pack linear layers: one weight at a time, as it comes from its file.

The loader reads a weight only when its turn comes, so what is held is the packed model so far and one weight
in full. Names that a file writes in another way, and weights that belong together, are its business as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunewright.engines.torch.linear import computes_linear
from tunewright.engines.torch.mapped_weight import release_weight
from tunewright.engines.torch.quantize import Linear4bit
from tunewright.errors import ModelError
from tunewright.models.lora import is_named

_METHOD = "tunewright_nf4"


class PackOnLoad(QuantizationConfigMixin):
    """Pack every linear layer that stays frozen, but not the output head.

    device: where the packed weight is made and stays. kept: names of modules that train in full. failures:
    what went wrong while packing, since the loader tells of no exception but its own.
    """

    def __init__(self, device: torch.device, compute_dtype: torch.dtype, kept: Sequence[str] = ()) -> None:
        method: Any = _METHOD
        super().__init__(method)
        self.device, self.compute_dtype, self.kept = device, compute_dtype, kept
        self.failures: list[Exception] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> PackOnLoad:
        # transformers copies a config; what goes wrong must reach whoever made this one.
        return self


@register_quantizer(_METHOD)
class _Packer(HfQuantizer):
    """transformers' own interface for storing weights otherwise than their files do."""

    def __init__(self, quantization_config: PackOnLoad, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self._config = quantization_config
        self._names: set[str] = set()

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> Any:
        head = model.get_output_embeddings()
        modules = dict(model.named_modules())
        kept = [name for name in modules if any(is_named(name, want) for want in self._config.kept)]
        self._names = {
            f"{name}.weight"
            for name, module in modules.items()
            if isinstance(module, nn.Linear)
            and computes_linear(type(module))
            and module is not head
            and not any(name == outer or name.startswith(f"{outer}.") for outer in kept)
        }

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self._names

    def get_quantize_ops(self) -> Any:
        return _Pack(self._config)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> Any:
        # To everything else it is the model that its config says.
        self.remove_quantization_config(model)

    def is_serializable(self) -> Any:
        return False

    @property
    def is_trainable(self) -> Any:
        return True


class _Pack(ConversionOps):
    """Puts a packed layer in the place of a linear one whose weight has just been read."""

    def __init__(self, config: PackOnLoad) -> None:
        self._config = config

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: Any, target_patterns: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """input_dict: name → weight, or a list of one. Returns no tensor for the loader to store."""
        model: nn.Module = kwargs["model"]
        for name, value in input_dict.items():
            weight: torch.Tensor = value[0] if isinstance(value, list) else value
            try:
                _pack(model, name, weight, self._config)
            except Exception as error:
                self._config.failures.append(error)
                raise
            kwargs["missing_keys"].discard(name)
        return {}


def _pack(model: nn.Module, name: str, weight: torch.Tensor, config: PackOnLoad) -> None:
    path = name.removesuffix(".weight")
    parent, _, child = path.rpartition(".")
    linear = cast(nn.Linear, model.get_submodule(path))
    if weight.shape != linear.weight.shape:
        raise ModelError(
            "weights have another shape",
            where=name,
            got=str(list(weight.shape)),
            expected=str(list(linear.weight.shape)),
            hint="fetch the model again",
            code="model.incomplete",
        )
    bias = cast("nn.Parameter | None", linear.bias)
    layer: Any = Linear4bit(weight.to(config.device), bias, config.compute_dtype)
    release_weight(weight)
    # Else the loader would draw start values for it.
    layer._is_hf_initialized = True
    setattr(model.get_submodule(parent) if parent else model, child, layer)
