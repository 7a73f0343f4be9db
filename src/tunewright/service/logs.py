"""What serve and worker log: lines for a person or JSON for a collector, with request ids, without keys."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is answered here; threads that work for it see it too."""

_SECRET = re.compile(r"ftk_[A-Za-z0-9_-]{8,}|(?i:bearer)\s+\S+")
_HIDDEN = "ftk_***"


def configure_logging(form: LogFormat) -> None:
    """Send every log of this process to stderr. text: warnings and errors; json: one line a request too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tunewright").setLevel(logging.INFO if form == "json" else logging.WARNING)
    # uvicorn brings handlers of its own, which would tell everything a second time.
    for name in ("uvicorn", "uvicorn.error"):
        found = logging.getLogger(name)
        found.handlers, found.propagate = [], True


def without_secrets(text: str) -> str:
    """The text with every API key made unreadable."""
    return _SECRET.sub(_HIDDEN, text)


class TextLines(logging.Formatter):
    """`warning: message (req_…)`, with a traceback below where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with a traceback."""
        text = f"{record.levelname.lower()}: {super().format(record)}"
        here = request_id.get()
        return without_secrets(f"{text} ({here})" if here else text)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id; of a request its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **getattr(record, "request", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        found = {name: value for name, value in told.items() if value is not None}
        return without_secrets(json.dumps(found, default=str))
