"""Every error a user can meet, with a stable code and an exit code. Imports nothing of the project.

To add one: subclass the family whose fault it is, or raise the family with a new `code`
(`family.what-is-wrong`), and give that code a heading in docs/reference/errors.md.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. A supervisor's retry rule reads only this and the last event."""

    DONE = 0
    USER_ERROR = 1
    USAGE = 2
    DATA_ERROR = 3
    OUT_OF_MEMORY = 4
    PREEMPTED = 5
    STALLED = 6
    INTERNAL = 70


class TunewrightError(Exception):
    """A fault the user can act on: where it is, what is wrong, what was got, what was expected, a hint.

    Args:
        what: the fault in one sentence without a full stop.
        where: file and line, setting, or object; comes first in the message.
        got: the offending value; None leaves it out.
        expected: what would have been right; None leaves it out.
        hint: the next thing to do; printed on its own line after `hint:`.
        code: stable code `family.what-is-wrong`, documented in docs/reference/errors.md.
    """

    family = "error"
    exit_code: ExitCode = ExitCode.USER_ERROR
    http_status = 400

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.expected = expected
        self.hint = hint
        self.code = code or f"{self.family}.invalid"

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.got is not None:
            text += f", got {self.got}"
        if self.expected is not None:
            text += f", expected {self.expected}"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by default, and worker processes send these.
        return (_rebuild, (type(self), self.what, dict(self.__dict__)))


def _rebuild(kind: type[TunewrightError], what: str, state: dict[str, object]) -> TunewrightError:
    error = kind(what)
    error.__dict__.update(state)
    return error


class ConfigError(TunewrightError, ValueError):
    """The run file, a flag or an override asks for something that does not exist or cannot work."""

    family = "config"


class ConfigErrors(ConfigError):
    """Several faults of one configuration, reported together."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(str(error) for error in errors), code="config.invalid")
        self.errors = errors

    def __reduce__(self) -> tuple[object, ...]:
        return (ConfigErrors, (self.errors,))


class DataError(TunewrightError, ValueError):
    """A data file or row cannot be trained on."""

    family = "data"
    exit_code = ExitCode.DATA_ERROR


class ModelError(TunewrightError, ValueError):
    """A model or adapter folder is missing, unsafe or of a kind that cannot be trained."""

    family = "model"


class CheckpointError(TunewrightError, ValueError):
    """A checkpoint cannot be read, written or continued from."""

    family = "checkpoint"


class RunError(TunewrightError, RuntimeError):
    """The run folder is taken, belongs to another run, or cannot be written."""

    family = "run"


class EngineError(TunewrightError, RuntimeError):
    """The engine cannot do what was asked on this machine."""

    family = "engine"


class EngineOutOfMemory(EngineError):
    """The device has no memory left. Weights and random state are as before the call."""

    family = "engine"
    exit_code = ExitCode.OUT_OF_MEMORY


class ServiceError(TunewrightError, RuntimeError):
    """A server or worker of the fine-tuning service cannot start, or the two cannot work together."""

    family = "service"
