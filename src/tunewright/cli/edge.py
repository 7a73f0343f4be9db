"""The process edge: whatever ends a command becomes a message on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, cast

import typer

from tunewright import __version__
from tunewright.errors import ConfigErrors, ExitCode, TunewrightError

# What shells report for a process ended by SIGINT and by SIGPIPE.
INTERRUPTED = 130
BROKEN_PIPE = 141

# Typer brings its own copy of click in newer versions; the base of BadParameter is UsageError in all of them.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])


def exit_code_of(run: Callable[[], int]) -> int:
    """Run a command and return its exit code, with every failure told in one clean message."""
    try:
        code = run()
        sys.stdout.flush()
    except typer.Exit as error:
        return error.exit_code
    except _UsageError as error:
        return _report_usage(error)
    except TunewrightError as error:
        return _report(error)
    except (KeyboardInterrupt, typer.Abort):
        _write("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except MemoryError:
        _write_error(
            "this machine has no memory left", "use a smaller model, data.seq_len or train.micro_batch_size"
        )
        return int(ExitCode.OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - the one place where a fault of ours must not become a traceback
        return _report_internal(error)
    return code


def _report(error: TunewrightError) -> int:
    for fault in error.errors if isinstance(error, ConfigErrors) else [error]:
        # The hint is a field and the last line of the text; only the field says where it starts.
        text = str(fault)
        if fault.hint:
            text = text.removesuffix(f"\nhint: {fault.hint}")
        _write_error(text, fault.hint, f"error[{fault.code}]")
    return int(error.exit_code)


def _report_usage(error: typer.BadParameter) -> int:
    context: Any = error.ctx
    message = error.format_message().strip().removesuffix(".")
    path = context.command_path if context else "tunewright"
    _write_error(message[:1].lower() + message[1:], f"see {path} --help")
    return int(ExitCode.USAGE)


def _report_internal(error: Exception) -> int:
    summary = " ".join(str(error).split())[:300]
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="tunewright-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"tunewright {__version__}, python {sys.version}, {sys.platform}\n\n{text}")
        hint = f"this is a fault of tunewright, not yours; the traceback is in {path}"
    except OSError:
        # A full disk may be the very fault; the traceback must not be lost with it.
        _write(text)
        hint = "this is a fault of tunewright, not yours; the traceback is above"
    _write_error(
        f"{type(error).__name__}: {summary}" if summary else type(error).__name__, hint, "internal error"
    )
    return int(ExitCode.INTERNAL)


def _write_error(message: str, hint: str | None, label: str = "error") -> None:
    _write(f"{_styled(label, '1;31')}: {message}")
    if hint:
        _write(f"{_styled('hint', '1;36')}: {hint}")


def _styled(word: str, code: str) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    return word if plain else f"\033[{code}m{word}\033[0m"


def _write(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except (BrokenPipeError, ValueError):
        # Nobody reads the message any more; the exit code still tells.
        return


def _silence_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not try the pipe again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
