"""Limits for what is foreign in a model: its chat template and its tokenizer, in one call of them at a time.

Off unless the environment of the process says so, as that of the check of an uploaded file does. The system
itself ends a process that computes too long in one call, since nothing else interrupts a tokenizer; the exit
code tells whoever waits for it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunewright.errors import ModelError

VARIABLE = "TUNEWRIGHT_FOREIGN_LIMITS"
SECONDS = 3.0
BYTES = 768 * 2**20
"""For one call, beside what a long text needs."""
NO_MEMORY = 75
"""Exit code of a process in which a call wanted too much memory."""
CHARACTERS_PER_SECOND = 200_000
BYTES_PER_CHARACTER = 600
_FRESH_SECONDS = 0.02
_is_on = bool(os.environ.get(VARIABLE))
_is_inside = False
_known_bytes, _known_at = 0, -1.0


@contextmanager
def foreign(given: object = "") -> Generator[None]:
    """Around a call of foreign code. given: what it works on.

    The process ends with NO_MEMORY when it wants too much of it, and with SIGPROF when it computes too long.
    Raises ModelError (`model.bad-tokenizer`) for what is no error of Python's.
    """
    global _is_inside
    if not _is_on or _is_inside:
        yield
        return
    _is_inside = True
    characters = len(given) if isinstance(given, str) else len(str(given))
    before = _limit_memory(BYTES + BYTES_PER_CHARACTER * characters)
    signal.setitimer(signal.ITIMER_PROF, SECONDS + characters / CHARACTERS_PER_SECOND)
    try:
        yield
    except MemoryError:
        # What is left of the call cannot be trusted to leave memory for the next one.
        os._exit(NO_MEMORY)
    except Exception:
        raise
    except BaseException as error:
        # A panic of the tokenizers' Rust is no Exception.
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        what = f"the tokenizer of the model fails: {type(error).__name__}: {error}"
        raise ModelError(what, code="model.bad-tokenizer") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        _is_inside = False


def costly() -> ModelError:
    """What is said of a model whose template or tokenizer takes too much."""
    return ModelError(
        f"the chat template or the tokenizer of the model takes more than {SECONDS:.0f} s of computing or "
        f"{BYTES >> 20} MiB of memory for one row",
        code="model.costly-to-read",
    )


def _limit_memory(more: int) -> tuple[int, int] | None:
    """The limits before; None where only the time is limited. Only Linux counts what is written."""
    global _known_bytes, _known_at
    if sys.platform != "linux":
        return None
    if time.process_time() - _known_at > _FRESH_SECONDS:
        _known_bytes, _known_at = _data_bytes(), time.process_time()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_known_bytes + more, before[1]))
    return before


def _data_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmData:")).split()[1])
