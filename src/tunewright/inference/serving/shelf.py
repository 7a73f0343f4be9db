"""The loaded models: bases with adapters on top, the least used put away when memory runs short."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.errors import EngineError
from tunewright.inference.decoder import Base, Decoders
from tunewright.inference.generator import load_base
from tunewright.inference.serving.request import ModelName
from tunewright.models.adapter_files import is_adapter_folder
from tunewright.models.arch import load_arch
from tunewright.models.resolve import resolve_model


class ShelfFull(Exception):
    """The models in use leave no room for another one now."""


@dataclass(slots=True)
class _Loaded:
    base: Base
    adapters: OrderedDict[str, tuple[Decoders, int]] = field(default_factory=OrderedDict)

    @property
    def bytes(self) -> int:
        return self.base.bytes + sum(size for _, size in self.adapters.values())


class Shelf:
    """Loaded models within `budget` bytes. Not thread-safe: one thread loads and computes."""

    def __init__(self, budget: int, device: str) -> None:
        self._budget = budget
        self._device = device
        # By what resolve_model takes, least recently used first.
        self._bases: OrderedDict[str, _Loaded] = OrderedDict()

    @property
    def bytes(self) -> int:
        """What all models take."""
        return sum(loaded.bytes for loaded in self._bases.values())

    def names(self) -> list[str]:
        """What is loaded: bases, each with its adapters after it; the least recently used first."""
        return [name for base, loaded in self._bases.items() for name in (base, *loaded.adapters)]

    def take(self, model: ModelName, in_use: Collection[ModelName]) -> Decoders:
        """Decoders of a model, loaded if need be.

        Raises ShelfFull when only models in use could make room, EngineError when it cannot fit at all, and
        as load_base and Base.adapted do.
        """
        key = base_key(model)
        loaded = self._bases.get(key) or self._load(key, in_use)
        self._bases.move_to_end(key)
        if model.folder is None or key == str(model.folder):
            return loaded.base.decoders()
        if model.name not in loaded.adapters:
            self._make_room(_file_bytes(model.folder), {*in_use, model})
            loaded.adapters[model.name] = loaded.base.adapted(model.folder)
        loaded.adapters.move_to_end(model.name)
        return loaded.adapters[model.name][0]

    def forget(self, name: str) -> None:
        """Put away a model that was deleted. Answers in the making end first."""
        for key, loaded in list(self._bases.items()):
            loaded.adapters.pop(name, None)
            if Path(key).name == name:
                del self._bases[key]

    def _load(self, key: str, in_use: Collection[ModelName]) -> _Loaded:
        files = resolve_model(key)
        # In fp32; the 16 bits of a GPU need half of it.
        need = 4 * load_arch(files.folder).parameters
        if need > self._budget:
            raise no_memory(key)
        self._make_room(need, in_use)
        loaded = self._bases[key] = _Loaded(load_base(files, device=self._device))
        return loaded

    def _make_room(self, need: int, in_use: Collection[ModelName]) -> None:
        names = {model.name for model in in_use}
        keys = {base_key(model) for model in in_use}
        while self.bytes + need > self._budget:
            if not self._put_one_away(names, keys):
                raise ShelfFull

    def _put_one_away(self, names: Collection[str], keys: Collection[str]) -> bool:
        for key, loaded in self._bases.items():
            for name in loaded.adapters:
                if name not in names:
                    del loaded.adapters[name]
                    return True
            if key not in keys:
                del self._bases[key]
                return True
        return False


def no_memory(name: str) -> EngineError:
    """The refusal of a model that fits in no way."""
    return EngineError(
        "the model is larger than the memory for answering",
        where=name,
        hint="give tunewright serve more with --inference-memory",
        code="engine.inference-memory",
    )


def base_key(model: ModelName) -> str:
    """What has to be loaded in full for a model: its base, or its own folder when it has all weights."""
    if model.folder is None or is_adapter_folder(model.folder):
        return model.base
    return str(model.folder)


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
