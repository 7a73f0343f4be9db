"""Servable exports of a run: adapter or merged model with tokenizer, chat template and certificate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from tunewright.engines.protocol import Engine
from tunewright.files import write_file, write_json
from tunewright.run.folder import RunFolder, new_folder
from tunewright.trackers.protocol import Emit

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    GENERATION_CONFIG,
)


@dataclass(frozen=True, slots=True)
class Exports:
    """Where exports go and what goes with them. chat_template: file that replaces the model's own. stop_ids:
    tokens at which a trained answer ends."""

    engine: Engine
    emit: Emit
    folder: RunFolder
    model_folder: Path
    chat_template: Path | None
    keep: int
    stop_ids: Sequence[int] = ()

    def write(self, name: str, step: int, *, merge: bool) -> Path:
        """Export into exports/<name>; replaces an older one of that name."""
        started = perf_counter()
        final = self.folder.exports / name
        with new_folder(final) as folder:
            certificate = self.engine.export(folder, merge=merge)
            self._copy_tokenizer(folder)
            _add_stops(folder / GENERATION_CONFIG, self.stop_ids)
            write_json(folder / "certificate.json", {"step": step, **certificate})
        kind = "adapter" if (final / "adapter_config.json").exists() else "model"
        if certificate.get("compared") == "nothing":
            message = f"{final} was written, not loaded again and compared: {certificate['reason']}"
            self.emit("warning", step, message=message)
        difference = certificate.get("quantization_difference")
        cost = {} if difference is None else {"quantization_difference": difference}
        self.emit("export", step, path=str(final), kind=kind, seconds=perf_counter() - started, **cost)
        return final

    def write_step(self, step: int) -> None:
        """The export of a step on the way; the oldest of these goes."""
        self.write(f"step-{step:06d}", step, merge=False)
        steps = sorted(self.folder.exports.glob("step-*"))
        for old in steps[: -self.keep]:
            shutil.rmtree(old)

    def _copy_tokenizer(self, folder: Path) -> None:
        files = {name: self.model_folder / name for name in TOKENIZER_FILES}
        if self.chat_template:
            files["chat_template.jinja"] = self.chat_template
        for name, source in files.items():
            # Exports of whole models come with a generation_config.json of their own.
            if source.exists() and not (folder / name).exists():
                write_file(folder / name, [source.read_bytes()])


def _add_stops(path: Path, stop_ids: Sequence[int]) -> None:
    """Name the ends of trained answers in generation_config.json, beside those that it has.

    The template of a base model often ends turns with another token than the model's own end of text;
    transformers and vLLM would write on past it. A file that has them all keeps its bytes.
    """
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    stored = cast("int | list[int] | None", config.get("eos_token_id"))
    present = stored if isinstance(stored, list) else [] if stored is None else [stored]
    stops = [*present, *(i for i in stop_ids if i not in present)]
    if len(stops) > len(present):
        write_json(path, {**config, "eos_token_id": stops[0] if len(stops) == 1 else stops})
