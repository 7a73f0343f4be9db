"""Tokenise the rows of a source in worker processes, blocks in the order of the file.

Workers are started by a command line of their own, not by multiprocessing: that would import the main
program again, and its pipes would outlive it. A worker ends when its input ends, so none is left behind by a
parent that was killed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from typing import IO, Any, cast

from tunewright.data.token_block import RowTokeniser, TokenBlock
from tunewright.data.unread_rows import UnreadRow

_COMMAND = (sys.executable, "-P", "-c", "from tunewright.data.tokenise_worker import main; main()")
# The processes are the parallelism: threads inside them would only take each other's cores.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class WorkerDied(Exception):
    """A worker process ended in the middle of its work."""


def tokenise_in_processes(
    tokeniser: RowTokeniser, chunks: Iterable[Sequence[UnreadRow]], processes: int
) -> Generator[TokenBlock]:
    """`tokeniser.tokenise` of each chunk, in order.

    Memory is bounded: each process holds one chunk and one block. Raises WorkerDied, and what `tokenise`
    raises. Closing the iterator ends the processes.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(tokeniser)) for _ in range(processes)]
        busy: deque[_Worker] = deque()
        for number, chunk in enumerate(chunks):
            worker = workers[number % processes]
            # One chunk at a time: a worker that waits to hand over its block reads nothing.
            if len(busy) == processes:
                yield busy.popleft().receive()
            worker.send(chunk)
            busy.append(worker)
        while busy:
            yield busy.popleft().receive()


class _Worker:
    def __init__(self, tokeniser: RowTokeniser) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._asked = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        self.send(tokeniser)

    def send(self, what: object) -> None:
        try:
            # Both ends are this program on this machine: pickle reads nothing foreign here.
            pickle.dump(what, self._asked, protocol=pickle.HIGHEST_PROTOCOL)
            self._asked.flush()
        except OSError as error:
            raise WorkerDied from error

    def receive(self) -> TokenBlock:
        try:
            answer: Any = pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError) as error:
            raise WorkerDied from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.kill()
        self._process.communicate()
