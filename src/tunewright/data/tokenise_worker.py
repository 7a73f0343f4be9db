"""The worker process of tokenise_pool: chunks of rows come in, blocks of tokens go out."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import Any

from tunewright.errors import TunewrightError


def main() -> None:
    """Answer chunks until the input ends, which it also does when the parent is gone."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up between the answers.
    os.dup2(2, 1)
    try:
        tokeniser: Any = pickle.load(asked)
        while True:
            answer = _answer(tokeniser, pickle.load(asked))
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        # Nobody is left to read the rest: neither this process nor its open files may complain.
        os._exit(0)


def _answer(tokeniser: Any, rows: Any) -> object:
    try:
        return tokeniser.tokenise(rows)
    except TunewrightError as error:
        return error
