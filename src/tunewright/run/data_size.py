"""How much data a run has, estimated from a few rows of each file, so that nothing large is read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.prepare_memory import held_out_source
from tunewright.data.prepare_row import prepare_row
from tunewright.data.rows import open_rows
from tunewright.data.sources import find_named_files
from tunewright.data.templates import ChatTokenizer
from tunewright.errors import DataError
from tunewright.types import Row, TextRow

SAMPLED_ROWS = 200
# Of text in most tokenizers; used where the model's tokenizer is not on disk.
_BYTES_PER_TOKEN = 4
_HEAD_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class DataSize:
    """rows: of one epoch, source weights counted. tokens_per_row: mean. sampled: rows looked at. tokenised:
    the model's tokenizer counted; else four bytes were taken for a token. exact: every row was looked at.
    held_out_tokens: of all held-out rows, None for not known."""

    rows: int
    tokens_per_row: float
    sampled: int
    tokenised: bool
    exact: bool = False
    held_out_tokens: float | None = None


def estimate_data(data: DataConfig, base_dir: Path, tokenizer: ChatTokenizer | None) -> DataSize | None:
    """The size of the training data; None when a file is not there or can be read only once.

    Raises DataError for files that hold no readable row.
    """
    paths = [base_dir / Path(source.path).expanduser() for source in data.train]
    if not all(path.is_file() or path.is_dir() for path in paths):
        return None
    rows, tokens, sampled = 0.0, 0.0, 0
    for source in data.train:
        lengths, mean_bytes = _sample(source, data, base_dir, tokenizer)
        count = source.weight * _count_rows(source, base_dir, mean_bytes)
        rows += count
        tokens += count * sum(lengths) / max(1, len(lengths))
        sampled += len(lengths)
    held_out = _held_out_tokens(data, base_dir, tokenizer, tokens)
    if isinstance(data.eval, float):
        rows, tokens = rows * (1 - data.eval), tokens * (1 - data.eval)
    return DataSize(
        max(1, round(rows)),
        tokens / max(1.0, rows),
        sampled,
        tokenizer is not None,
        held_out_tokens=held_out,
    )


def _held_out_tokens(
    data: DataConfig, base_dir: Path, tokenizer: ChatTokenizer | None, tokens: float
) -> float | None:
    """tokens: of all training files. None where the held-out file is not there, bad, or can be read only
    once."""
    source = held_out_source(data)
    if source is None:
        return tokens * data.eval if isinstance(data.eval, float) else None
    path = base_dir / Path(source.path).expanduser()
    if not (path.is_file() or path.is_dir()):
        return None
    try:
        lengths, mean_bytes = _sample(source, data, base_dir, tokenizer)
    except DataError:
        # `data check` names it; the training data can be planned all the same.
        return None
    return _count_rows(source, base_dir, mean_bytes) * sum(lengths) / max(1, len(lengths))


def _sample(
    source: SourceConfig, data: DataConfig, base_dir: Path, tokenizer: ChatTokenizer | None
) -> tuple[list[int], float]:
    """Lengths in tokens of the first rows, and the mean bytes of their text."""
    lengths: list[int] = []
    sizes: list[int] = []
    for row in islice(open_rows(source, base_dir).rows, SAMPLED_ROWS):
        if isinstance(row, DataError):
            continue
        sizes.append(_text_bytes(row))
        if tokenizer is None:
            lengths.append(min(data.seq_len, max(1, sizes[-1] // _BYTES_PER_TOKEN)))
            continue
        try:
            lengths.append(sum(len(example) for example in prepare_row(row, tokenizer, data)))
        except DataError:
            # `data check` names faults; a plan is about size.
            lengths.append(data.seq_len)
    return lengths, sum(sizes) / max(1, len(sizes))


def _text_bytes(row: Row) -> int:
    texts = (
        [text for text, _ in row.segments]
        if isinstance(row, TextRow)
        else [turn.content for turn in row.messages]
    )
    return sum(len(text.encode()) for text in texts)


def _count_rows(source: SourceConfig, base_dir: Path, mean_bytes: float) -> float:
    """Rows of all files of a source: by the mean line of the head where a row is a line, else by the mean
    text of a row."""
    rows = 0.0
    for path, _ in find_named_files(base_dir / Path(source.path).expanduser(), source.path):
        size = path.stat().st_size
        if path.suffix.lower() not in (".jsonl", ".csv"):
            rows += max(1.0, size / max(1.0, mean_bytes))
            continue
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        lines = sum(bool(line.strip()) for line in head.splitlines())
        rows += lines * size / len(head) if head else 0
    return rows
