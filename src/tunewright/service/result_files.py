"""Store the result files of a job that succeeded."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright.service.context import Service
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.events import read_metrics
from tunewright.service.db.files import add_file
from tunewright.service.ids import FILE, new_id
from tunewright.service.records import FileRecord, JobRecord
from tunewright.service.results import ALL_NAME, RESULTS_NAME, all_metrics_csv, result_csv
from tunewright.service.schemas.files import RESULTS
from tunewright.service.stored import keep_blob, store_chunks


def store_results(service: Service, connection: Connection, job: JobRecord) -> tuple[str, ...]:
    """Write OpenAI's result CSV and the one with every figure; returns their file ids in this order."""
    figures = read_metrics(connection, job.id)
    # Step 0 is the look before training; OpenAI's file starts at 1.
    trained = {step: row for step, row in figures.items() if step > 0}
    return (
        _store(service, connection, job, RESULTS_NAME, result_csv(trained)),
        _store(service, connection, job, ALL_NAME, all_metrics_csv(figures)),
    )


def _store(
    service: Service, connection: Connection, job: JobRecord, name: str, chunks: Iterator[bytes]
) -> str:
    sha256, size = store_chunks(service, chunks)
    file = FileRecord(
        id=new_id(FILE),
        project=job.project,
        filename=name,
        purpose=RESULTS,
        bytes=size,
        sha256=sha256,
        created_at=clock(connection),
        expires_at=None,
    )
    keep_blob(service, connection, sha256, size)
    add_file(connection, file)
    return file.id
