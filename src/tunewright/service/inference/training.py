"""Chats and training on one accelerator: training goes first."""

from __future__ import annotations

import socket

from tunewright.service.context import Service
from tunewright.service.db.accelerators import is_accelerator_busy
from tunewright.service.inference.asking import busy
from tunewright.service.inference.process import ModelProcess

RETRY_SECONDS = 30


def refuse_while_training(service: Service, process: ModelProcess) -> None:
    """Raise ApiError 503 while a job has the accelerator that answers would need. What loaded models take is
    freed then, so that the job has all of it."""
    if make_way(service, process):
        message = "A job trains on the accelerator; ask again later, or serve with --inference cpu"
        raise busy(message, RETRY_SECONDS)


def make_way(service: Service, process: ModelProcess) -> bool:
    """Whether a job has the accelerator that answers would need. If so, the model server is ended."""
    if service.settings.inference.policy != "wait":
        return False
    # A worker on this machine has its name, unless it was given another one.
    with service.database.read() as connection:
        is_busy = is_accelerator_busy(connection, socket.gethostname())
    if is_busy:
        process.stop()
    return is_busy
