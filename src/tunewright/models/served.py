"""What MODEL means to a person who wants answers: a model, an export of a run, or a whole run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewright.errors import ModelError
from tunewright.models.adapter_files import is_adapter_folder, read_adapter, read_base_name
from tunewright.models.resolve import ModelFiles, resolve_model

EXPORTS = "exports"
FINAL = "final"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Base, the adapter on top of it, and the folder whose tokenizer and chat template go with them."""

    model: ModelFiles
    adapter: Path | None
    tokenizer_folder: Path


def resolve_served(name: str, adapter: Path | None = None) -> ServedModel:
    """Resolve a model name as resolve_model does, an export folder, or a run folder (its newest export).

    An adapter's base comes from its adapter_config.json. Raises ModelError when a run has no export yet, an
    adapter is given on top of another, or is not sound.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = _newest_export(folder)
        if is_adapter_folder(folder):
            if adapter is not None:
                raise ModelError(
                    "the model is an adapter already, and one answers at a time",
                    where=str(folder),
                    hint=f"name the base model and --adapter {adapter}",
                    code="model.two-adapters",
                )
            name, adapter = read_base_name(folder), folder
        elif folder != Path(name).expanduser():
            name = str(folder)
    if adapter is not None:
        adapter = _newest_export(adapter.expanduser())
        read_adapter(adapter)
    model = resolve_model(name)
    own_tokenizer = adapter is not None and (adapter / "tokenizer.json").is_file()
    return ServedModel(model, adapter, adapter if adapter is not None and own_tokenizer else model.folder)


def _newest_export(folder: Path) -> Path:
    """`folder` itself, or when it is a run folder its final export, else that of the last step."""
    exports = folder / EXPORTS
    if not (folder / "config.yaml").is_file() and not exports.is_dir():
        return folder
    steps = sorted(path for path in exports.glob("step-*") if path.is_dir())
    for export in (exports / FINAL, *reversed(steps)):
        if export.is_dir():
            return export
    raise ModelError(
        "the run has not exported a model yet",
        where=str(folder),
        expected=f"{EXPORTS}/{FINAL}",
        hint=f"go on with the run: tunewright train --resume {folder}",
        code="model.no-export",
    )
