"""From data files to tokenised examples and the data report, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from tunewright.config.schema import DataConfig
from tunewright.data.check import check_rows
from tunewright.data.prepare_indexed import prepare_indexed
from tunewright.data.prepare_memory import prepare_in_memory
from tunewright.data.prepare_pipe import find_pipe, prepare_pipe
from tunewright.data.prepared import Checked, PreparedData, check_prepared
from tunewright.data.report import Loading
from tunewright.data.sources import find_files
from tunewright.data.templates import ChatTokenizer
from tunewright.data.tokenised_source import Say, ignore

INDEXED_ABOVE_BYTES = 256 * 2**20
"""Size of all training files from which `data.loading: auto` leaves the rows on disk."""


def prepare_data(
    data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int, say: Say = ignore
) -> PreparedData:
    """All data of a run, ready to train on. Raises one DataError that lists the faults of the rows looked at:
    all rows where they are held in memory, a sample and the held-out rows where they are indexed. say: see
    open_tokenised."""
    prepared = survey_data(data, tokenizer, base_dir, seed, say)
    check_prepared(prepared.checked, data)
    return prepared


def survey_data(
    data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, seed: int, say: Say = ignore
) -> PreparedData:
    """As prepare_data, but bad rows only show in the report and in `errors`."""
    if pipe := find_pipe(data, base_dir):
        return prepare_pipe(data, pipe, tokenizer, base_dir, say)
    if resolve_loading(data, base_dir) == "memory":
        return prepare_in_memory(data, tokenizer, base_dir, seed, say)
    return prepare_indexed(data, tokenizer, base_dir, seed, say)


def check_data(data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, say: Say = ignore) -> Checked:
    """Look at every row of the training data, held in memory or not. say: see open_tokenised."""
    if resolve_loading(data, base_dir) == "memory":
        return prepare_in_memory(data, tokenizer, base_dir, seed=0, say=say).checked
    return check_rows(data, tokenizer, base_dir)


def resolve_loading(data: DataConfig, base_dir: Path) -> Loading:
    """Where rows are held, `auto` settled by the size of the training files. Raises DataError when one is not
    there."""
    if data.loading != "auto":
        return data.loading
    files = [file for source in data.train for file in find_files(base_dir / source.path, source.path)]
    return "indexed" if sum(file.stat().st_size for file in files) > INDEXED_ABOVE_BYTES else "memory"
