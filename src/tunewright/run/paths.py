"""Make a configuration independent of the folder it was read from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunewright.config.load import LoadedConfig
from tunewright.config.schema import STDIN


def absolute_paths(loaded: LoadedConfig) -> LoadedConfig:
    """The same configuration with every data, template and adapter path absolute, so that a copy in the run
    folder means the same."""
    config, base = loaded.config, loaded.base_dir

    def absolute(path: str | None) -> str | None:
        if not path or path == STDIN:
            return path
        whole = base / Path(path).expanduser()
        # /dev/fd/63 is a pipe of this process, and what it links to is no path at all.
        return str(whole.absolute() if whole.is_fifo() else whole.resolve())

    sources = tuple(source.model_copy(update={"path": absolute(source.path)}) for source in config.data.train)
    held_out = absolute(config.data.eval) if isinstance(config.data.eval, str) else config.data.eval
    data = config.data.model_copy(
        update={"train": sources, "eval": held_out, "chat_template": absolute(config.data.chat_template)}
    )
    adapter = config.adapter.model_copy(update={"start_from": absolute(config.adapter.start_from)})
    model = config.model
    if (base / model.name).is_dir():
        model = model.model_copy(update={"name": absolute(model.name)})
    return replace(
        loaded, config=config.model_copy(update={"data": data, "adapter": adapter, "model": model})
    )
