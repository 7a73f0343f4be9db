"""The result files of a job that succeeded: written first, recorded with the end of its attempt.

Writing them takes a second for a long job, in which no transaction that writes may be open: SQLite has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunewright.service.context import Service
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import read_metrics
from tunewright.service.db.files import add_file
from tunewright.service.ids import FILE, new_id
from tunewright.service.records import FileRecord, JobRecord
from tunewright.service.results import ALL_NAME, RESULTS_NAME, Rows, all_metrics_csv, result_csv
from tunewright.service.schemas.files import RESULTS
from tunewright.service.stored import keep_blob, record_blob, store_chunks


@dataclass(frozen=True, slots=True)
class ResultFile:
    """Bytes that are stored and that nobody sees yet."""

    name: str
    sha256: str
    bytes: int


def write_results(service: Service, job_id: str) -> list[ResultFile]:
    """Store the bytes of OpenAI's result CSV and of the one with every figure, in this order."""
    # In the order in which they first appear.
    names: dict[str, None] = {}
    with service.database.read() as connection:
        rows = _noting(names, read_metrics(connection, job_id))
        written = [_write(service, RESULTS_NAME, result_csv(rows))]
        # Again, as the header comes before the first row.
        rows = read_metrics(connection, job_id)
        written.append(_write(service, ALL_NAME, all_metrics_csv(names, rows)))
    for file in written:
        record_blob(service, file.sha256, file.bytes)
    return written


def record_results(
    service: Service, connection: Connection, job: JobRecord, written: Iterable[ResultFile]
) -> tuple[str, ...]:
    """Make files of the job's project of them; returns their ids. Raises as keep_blob."""
    return tuple(_record(service, connection, job, file) for file in written)


def _noting(names: dict[str, None], rows: Rows) -> Rows:
    for step, row in rows:
        names.update(dict.fromkeys(row))
        yield step, row


def _write(service: Service, name: str, chunks: Iterator[bytes]) -> ResultFile:
    sha256, size = store_chunks(service, chunks)
    return ResultFile(name, sha256, size)


def _record(service: Service, connection: Connection, job: JobRecord, written: ResultFile) -> str:
    file = FileRecord(
        id=new_id(FILE),
        project=job.project,
        filename=written.name,
        purpose=RESULTS,
        bytes=written.bytes,
        sha256=written.sha256,
        created_at=clock(connection),
        expires_at=None,
    )
    keep_blob(service, connection, written.sha256, written.bytes)
    add_file(connection, file)
    return file.id
