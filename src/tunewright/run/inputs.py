"""Read and check everything that a run is made from, before an engine exists or a file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunewright.config.schema import RunConfig
from tunewright.data.prepare import prepare_data
from tunewright.data.prepared import PreparedData
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import ConfigError, ModelError
from tunewright.models.arch import Arch, load_arch
from tunewright.models.resolve import ModelFiles, resolve_model
from tunewright.run.identity import examples_hash, model_hash


@dataclass(frozen=True, slots=True)
class Inputs:
    """Model files, tokenizer and tokenised data of one run. base_dir: what relative paths are relative to."""

    config: RunConfig
    model: ModelFiles
    arch: Arch
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
    if config.model.revision and model.revision is None:
        say(f"warning: model.revision is not used, {model.name} is not a hub model")
    template = base_dir / config.data.chat_template if config.data.chat_template else None
    tokenizer = load_tokenizer(model.folder, template)
    data = prepare_data(config.data, tokenizer, base_dir, config.train.seed, say)
    arch = load_arch(model.folder)
    check_data_fits(data, arch, config, tokenizer)
    return Inputs(
        config=config,
        model=model,
        arch=arch,
        tokenizer=tokenizer,
        chat_template=template,
        data=data,
        data_hash=examples_hash(data.train_sources),
        model_hash=model_hash(model.folder),
    )


def check_data_fits(data: PreparedData, arch: Arch, config: RunConfig, tokenizer: ChatTokenizer) -> None:
    """Positions and token ids must exist in the model, or training fails late or learns nonsense.

    Where not every row was looked at, data.seq_len and the whole tokenizer must fit. Raises ConfigError
    (`config.positions`) and ModelError (`model.vocabulary`).
    """
    if data.extent is not None:
        longest, largest = data.extent.longest, data.extent.largest_id
        got = f"a row of {longest:,} tokens"
    else:
        longest, largest = config.data.seq_len, tokenizer.largest_id
        got = f"{longest:,}, and rows that are read when their turn comes"
    if arch.max_positions is not None and longest > arch.max_positions:
        raise ConfigError(
            "a row is longer than the positions the model was made for",
            where="data.seq_len",
            got=got,
            expected=f"at most {arch.max_positions:,}",
            hint=f"set data.seq_len to {arch.max_positions}, and data.overlong for longer rows",
            code="config.positions",
        )
    if largest >= arch.vocab_size:
        raise ModelError(
            "the tokenizer makes a token that the model has no embedding for",
            where=config.model.name,
            got=f"token id {largest}",
            expected=f"below {arch.vocab_size}",
            hint="use the tokenizer that belongs to the model",
            code="model.vocabulary",
        )
