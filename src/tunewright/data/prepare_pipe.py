"""Data that comes through a pipe, ready to train on before a row of it was read."""

from __future__ import annotations

from pathlib import Path

from tunewright.config.schema import STDIN, DataConfig, SourceConfig
from tunewright.data.pipe import PipedRows
from tunewright.data.prepare_memory import read_held_out_file
from tunewright.data.prepared import PreparedData
from tunewright.data.row_survey import RowSurvey
from tunewright.data.templates import ChatTokenizer
from tunewright.data.tokenised_source import Say
from tunewright.data.windows import Windows
from tunewright.errors import ConfigError


def find_pipe(data: DataConfig, base_dir: Path) -> SourceConfig | None:
    """The source of a run that trains from a pipe. Raises ConfigError (`config.pipe`) for settings that need
    data which can be read more than once."""
    pipes = [source for source in data.train if _is_pipe(source.path, base_dir)]
    if not pipes:
        return None
    if len(data.train) > 1:
        raise _refused("data.train", f"{len(data.train)} sources", "the pipe alone")
    if pipes[0].weight != 1:
        raise _refused("data.train.0.weight", f"{pipes[0].weight:g}", "1")
    if isinstance(data.eval, float) and data.eval > 0:
        raise _refused("data.eval", f"a share of {data.eval:g}", "a file with held-out rows, or 0")
    return pipes[0]


def prepare_pipe(
    data: DataConfig, source: SourceConfig, tokenizer: ChatTokenizer, base_dir: Path, say: Say
) -> PreparedData:
    """The windows of a pipe, and the held-out file whole."""
    survey = RowSurvey(data, tokenizer)
    held_out = read_held_out_file(survey, data, base_dir, say)
    rows = PipedRows(source, base_dir, survey, [file.report() for file in held_out])
    examples = tuple(example for file in held_out for example in file.rows().known())
    windows = Windows(rows, data.window)
    return PreparedData((), examples, rows.report(), tuple(survey.errors), windows, recount=windows.report)


def _is_pipe(path: str, base_dir: Path) -> bool:
    return path == STDIN or (base_dir / path).is_fifo()


def _refused(where: str, got: str, expected: str) -> ConfigError:
    return ConfigError(
        "data that comes through a pipe can be read only once",
        where=where,
        got=got,
        expected=expected,
        hint="write the data to a file to use all settings",
        code="config.pipe",
    )
