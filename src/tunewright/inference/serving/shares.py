"""How much of a model server one project may take: rows of the batches, and bytes of key-value cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunewright.inference.serving.request import Job

MOST_ROWS = 256
SPARE = 1.5
"""Times what one project may take: what lies above is for those that take little, so that they need not wait
until the answers of another end."""


def has_room(job: Job, active: Sequence[Job], cache_bytes: int) -> bool:
    """Whether a request can begin beside the active ones. One that alone needs more is answered alone."""
    if not active:
        return True
    rows, cost = _sum((*active, job))
    own_rows, own_cost = _sum([job, *(each for each in active if each.project == job.project)])
    takes_little = own_rows <= MOST_ROWS // 2 and own_cost <= cache_bytes // 2
    share = SPARE if takes_little and own_rows < rows else 1.0
    return rows <= share * MOST_ROWS and cost <= share * cache_bytes


def next_job(heads: Iterable[Job], active: Sequence[Job], cache_bytes: int) -> Job | None:
    """Which of the first ones of all projects begins now.

    One that has to wait holds up the projects behind it that have answers in the making: else a large request
    would never have its turn. A project that has none is not held up.
    """
    is_held = False
    for job in heads:
        if is_held and any(each.project == job.project for each in active):
            continue
        if has_room(job, active, cache_bytes):
            return job
        is_held = True
    return None


def _sum(jobs: Iterable[Job]) -> tuple[int, int]:
    rows = cost = 0
    for job in jobs:
        rows += len(job.answers)
        cost += job.cost
    return rows, cost
