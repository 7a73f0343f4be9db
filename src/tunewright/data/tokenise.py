"""Read, render and tokenise all rows of a source, in this process or in several."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.rows import settle_format, take_head
from tunewright.data.sources import iter_raw_rows
from tunewright.data.templates import ChatTokenizer
from tunewright.data.token_block import RowTokeniser, TokenBlock
from tunewright.data.token_table import iter_table
from tunewright.data.tokenise_pool import tokenise_in_processes
from tunewright.data.unread_rows import UnreadRow, iter_chunks
from tunewright.host_cpu import usable_cores

PROCESS_BYTES = 8 * 2**20
"""Work of a process: with less, its start would take too large a part of the time that it saves."""
MOST_PROCESSES = 16


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """One source and all that decides about the tokens of its rows. processes: 1 is this one alone."""

    config: SourceConfig
    data: DataConfig
    tokenizer: ChatTokenizer
    base_dir: Path
    processes: int

    def iter_table(self) -> Iterator[bytes]:
        """The bytes of its token table. Raises as open_rows does, ModelError and WorkerDied."""
        path, shown = self.base_dir / self.config.path, self.config.path
        format_, found = settle_format(self.config, take_head(iter_raw_rows(path, shown)))
        tokeniser = RowTokeniser(self.config, format_, self.data, self.tokenizer)
        chunks = iter_chunks(path, shown)
        with closing(_tokenise(tokeniser, chunks, self.processes)) as blocks:
            yield from iter_table(tokeniser, found, blocks)


def choose_processes(size: int) -> int:
    """Processes for a source of `size` bytes: at most one a core that this process may use."""
    return max(1, min(usable_cores(), MOST_PROCESSES, size // PROCESS_BYTES))


def _tokenise(
    tokeniser: RowTokeniser, chunks: Iterable[Sequence[UnreadRow]], processes: int
) -> Generator[TokenBlock]:
    if processes == 1:
        yield from map(tokeniser.tokenise, chunks)
    else:
        yield from tokenise_in_processes(tokeniser, chunks, processes)
