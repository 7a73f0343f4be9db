"""Read and check everything that a run is made from, before an engine exists or a file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunewright.config.schema import RunConfig
from tunewright.data.prepare import PreparedData, prepare_data
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.models.resolve import ModelFiles, resolve_model
from tunewright.run.identity import examples_hash, model_hash


@dataclass(frozen=True, slots=True)
class Inputs:
    """Model files, tokenizer and tokenised data of one run. base_dir: what relative paths are relative to."""

    config: RunConfig
    model: ModelFiles
    tokenizer: ChatTokenizer
    chat_template: Path | None
    data: PreparedData
    data_hash: str
    model_hash: str


def read_inputs(config: RunConfig, base_dir: Path, say: Callable[[str], None]) -> Inputs:
    """Resolve the model, load its tokenizer, read and tokenise the data.

    Raises ModelError and DataError; `say` gets one line for each thing that was stripped or left out.
    """
    model = resolve_model(config.model.name, config.model.revision)
    for warning in model.warnings:
        say(f"warning: {warning}")
    template = base_dir / config.data.chat_template if config.data.chat_template else None
    tokenizer = load_tokenizer(model.folder, template)
    data = prepare_data(config.data, tokenizer, base_dir, config.train.seed)
    return Inputs(
        config=config,
        model=model,
        tokenizer=tokenizer,
        chat_template=template,
        data=data,
        data_hash=examples_hash(data.train_sources),
        model_hash=model_hash(model.folder),
    )
