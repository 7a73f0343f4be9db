"""Servable models: the adapter in PEFT format, or merged weights, each with a certificate of the proof."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tunewright.arrays import write_arrays
from tunewright.config.schema import AdapterConfig
from tunewright.engines.protocol import EngineSpec
from tunewright.engines.torch.arrays import to_array, to_tensor
from tunewright.engines.torch.certificate import Recent, certify_merge, log_probs
from tunewright.engines.torch.load import vocabulary_size
from tunewright.engines.torch.lora import LoraLinear, lora_layers
from tunewright.engines.torch.precision import DTYPES
from tunewright.errors import EngineError, ModelError
from tunewright.files import write_file, write_json
from tunewright.models.adapter_files import read_adapter, write_adapter
from tunewright.types import Array

# Large enough for few files, small enough to fetch again when one breaks.
SHARD_BYTES = 4 * 2**30


def export_adapter(model: PreTrainedModel, spec: EngineSpec, folder: Path) -> Mapping[str, object]:
    """Write what trains as a PEFT adapter and read it back. Raises EngineError when the bytes differ."""
    arrays = {name: to_array(parameter) for name, parameter in _trained(model)}
    targets = [name for name, _ in lora_layers(model)]
    write_adapter(folder, arrays, spec.adapter, base_name=spec.model_name, targets=targets)
    found = read_adapter(folder).arrays
    keys_equal = set(found) == set(arrays)
    bytes_equal = keys_equal and all(bytes(found[name].data) == bytes(arrays[name].data) for name in arrays)
    if not bytes_equal:
        raise EngineError(
            "the adapter read back differs from the one in memory",
            where=str(folder),
            hint="check the disk, then export again",
            code="engine.certificate",
        )
    changes = any(bool(torch.any(layer.lora_B.weight)) for _, layer in lora_layers(model))
    return {
        "kind": "adapter",
        "arrays": len(arrays),
        "keys_equal": keys_equal,
        "bytes_equal": bytes_equal,
        "changes_the_base": changes,
    }


def load_adapter(model: PreTrainedModel, folder: Path, config: AdapterConfig) -> None:
    """Start from a PEFT adapter. config: what `model` was given. Raises ModelError unless names and shapes
    fit what trains, both ways, and the adapter was trained under the same scale."""
    files = read_adapter(folder)
    _check_scale(folder, files.config, config)
    found = files.arrays
    trained = dict(_trained(model))
    missing, unknown = sorted(trained.keys() - found.keys()), sorted(found.keys() - trained.keys())
    wrong = [n for n in sorted(trained.keys() & found.keys()) if found[n].shape != tuple(trained[n].shape)]
    for what, names in (("lacks", missing), ("also holds", unknown), ("has another shape of", wrong)):
        if names:
            raise ModelError(
                f"the adapter {what} {len(names)} arrays",
                where=str(folder),
                got=", ".join(names[:3]),
                hint="give rank, targets, bias and modules_to_save as in its adapter_config.json",
                code="model.adapter-mismatch",
            )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(to_tensor(found[name]))


def _check_scale(folder: Path, trained: AdapterConfig, wanted: AdapterConfig) -> None:
    """The same arrays under another scale are another model, and nothing else would show it."""
    before, now = (f"alpha {c.alpha:g}, rslora {str(c.rslora).lower()}" for c in (trained, wanted))
    if before != now:
        raise ModelError(
            "the adapter was trained under another scale",
            where=str(folder),
            got=now,
            expected=before,
            hint="give adapter.alpha and adapter.rslora as in its adapter_config.json",
            code="model.adapter-mismatch",
        )


def export_model(
    model: PreTrainedModel, spec: EngineSpec, folder: Path, recent: Recent
) -> Mapping[str, object]:
    """Write all weights, adapters merged in, as safetensors shards with config.json, then load and compare.

    Weights are stored in `spec.dtype`. Raises EngineError when log-probabilities differ beyond the bound.
    """
    rows = recent.rows(vocabulary_size(model))
    reference = log_probs(model, rows, spec.precision)
    weights = MergedWeights(model, DTYPES[spec.dtype])
    _write_shards(folder, weights)
    _write_config(spec, folder, tied=weights.tied)
    return certify_merge(folder, reference, rows, spec, model.device)


class MergedWeights(Mapping[str, Array]):
    """Name → merged weight, made when it is asked for, so that one tensor at a time is in memory twice."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._layers = {f"{name}.weight": layer for name, layer in lora_layers(model)}
        self._tensors = _unique_tensors(model, set(self._layers))
        head = model.get_output_embeddings()
        # A head that was adapted or trained on its own no longer equals the embedding.
        self.tied = (
            head is not None
            and not isinstance(head, LoraLinear)
            and (head.weight is model.get_input_embeddings().weight)
        )

    def __getitem__(self, name: str) -> Array:
        layer = self._layers.get(name)
        with torch.no_grad():
            tensor = self._tensors[name] if layer is None else layer.merged_weight()
            return to_array(tensor.to(self._dtype) if tensor.is_floating_point() else tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def size_bytes(self, name: str) -> int:
        """Bytes of one weight in the file."""
        tensor = self._tensors[name]
        return tensor.numel() * (self._dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)


def _unique_tensors(model: PreTrainedModel, merged: set[str]) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of the base, tied ones once."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_A." in name or ".lora_B." in name or (id(tensor) in seen and plain not in merged):
            continue
        seen.add(id(tensor))
        tensors[plain] = tensor
    return tensors


def _write_shards(folder: Path, weights: MergedWeights) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name in weights:
        if shards[-1] and size + weights.size_bytes(name) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += weights.size_bytes(name)
    if len(shards) == 1:
        write_arrays(folder / "model.safetensors", weights, {"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_arrays(folder / file, _Part(weights, names), {"format": "pt"})
        index.update(dict.fromkeys(names, file))
    total = sum(weights.size_bytes(name) for name in weights)
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index}
    )


class _Part(Mapping[str, Array]):
    """Some of the weights, still made on demand."""

    def __init__(self, weights: MergedWeights, names: Sequence[str]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Array:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write_config(spec: EngineSpec, folder: Path, *, tied: bool) -> None:
    config = json.loads((spec.model_folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(DTYPES[spec.dtype]).removeprefix("torch.")
    config["tie_word_embeddings"] = tied
    write_json(folder / "config.json", config)
    generation = spec.model_folder / "generation_config.json"
    if generation.exists():
        write_file(folder / generation.name, [generation.read_bytes()])


def _trained(model: PreTrainedModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
