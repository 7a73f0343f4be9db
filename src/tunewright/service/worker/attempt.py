"""One claimed job from its lease to its end."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from tunewright.errors import ServiceError
from tunewright.service.schemas.lease import Finish, Lease
from tunewright.service.worker.checking import check_files
from tunewright.service.worker.client import LeaseLost, ServerClient
from tunewright.service.worker.inputs import fetch_inputs
from tunewright.service.worker.keeper import LeaseKeeper
from tunewright.service.worker.training import Training
from tunewright.service.worker.transfer import Transfer

log = logging.getLogger("tunewright.worker")
_DOING = {"validate": "reads its files", "train": "trains"}


def work_on(client: ServerClient, lease: Lease, root: Path, stopping: Callable[[], bool]) -> None:
    """Do what the lease says and report it. Returns when the job is out of this worker's hands.

    root: the folder that job folders lie in. stopping: whether this worker was asked to end.
    """
    folder = root / lease.job
    log.info("%s: %s", lease.job, _DOING[lease.phase])
    with LeaseKeeper(client, lease) as keeper:
        try:
            finish = _work(client, lease, folder, keeper, stopping)
            keeper.call(lambda: client.finish(lease, finish))
        except LeaseLost:
            log.warning("lost the lease of %s", lease.job)
            return
    log.info("%s: %s", lease.job, _told(finish, keeper.wanted))
    if finish.outcome == "succeeded" or keeper.wanted == "cancel":
        shutil.rmtree(folder, ignore_errors=True)


def _told(finish: Finish, wanted: str) -> str:
    if wanted == "cancel":
        return "cancelled"
    return f"failed: {finish.message}" if finish.outcome == "failed" else finish.outcome


def _work(
    client: ServerClient, lease: Lease, folder: Path, keeper: LeaseKeeper, stopping: Callable[[], bool]
) -> Finish:
    transfer = Transfer(client, lease, keeper)
    try:
        fetch_inputs(lease, folder, transfer)
        if lease.phase == "validate":
            return check_files(lease, folder, keeper, stopping)
        return Training(client, lease, folder, keeper, transfer).train(stopping)
    except ServiceError as error:
        return Finish(outcome="failed", code=error.code, message=str(error), exit_code=None)
    except OSError as error:
        message = f"The worker could not read or write its files: {error.strerror or error}"
        return Finish(outcome="failed", code="worker_disk", message=message, exit_code=None)
