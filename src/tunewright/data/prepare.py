"""From data files to tokenised examples and the data report, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from tunewright.config.schema import DataConfig
from tunewright.data.prepare_memory import prepare_in_memory
from tunewright.data.prepared import PreparedData, check_prepared
from tunewright.data.templates import ChatTokenizer


def prepare_data(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """Read, render and tokenise all data of a run. Raises one DataError that lists the faults of all rows."""
    prepared = survey_data(data, tokenizer, base_dir, seed)
    check_prepared(prepared)
    return prepared


def survey_data(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int) -> PreparedData:
    """As prepare_data, but bad rows only show in the report and in `errors`."""
    return prepare_in_memory(data, tokenizer, base_dir, seed)
