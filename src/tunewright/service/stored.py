"""Store bytes of the server's own, and record what lies in the blob store. What is not recorded is found by
nobody, and never removed."""

from __future__ import annotations

from collections.abc import Iterable

from tunewright.service.context import Service
from tunewright.service.db.blobs import add_blob, is_known
from tunewright.service.db.database import Connection, DatabaseFault
from tunewright.service.faults import SERVER, ApiError
from tunewright.service.room import is_full


def store_chunks(service: Service, chunks: Iterable[bytes]) -> tuple[str, int]:
    """(sha256, size) of bytes that are in the store now, to be recorded. Raises OSError and keeps nothing."""
    writer = service.blobs.writer()
    try:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit(), writer.size
    finally:
        writer.abort()


def record_blob(service: Service, sha256: str, size: int) -> None:
    """Record stored bytes before anything refers to them: if nothing ever does, they go after a while.

    Raises as keep_blob.
    """
    try:
        with service.database.write() as connection:
            keep_blob(service, connection, sha256, size)
    except DatabaseFault as error:
        if is_full(error):
            _forget(service, sha256)
        raise


def _forget(service: Service, sha256: str) -> None:
    """Remove bytes that could not be recorded: on a disk that is full nobody else would."""
    with service.database.read() as connection:
        known = is_known(connection, sha256)
    if not known:
        service.blobs.remove(sha256)


def keep_blob(service: Service, connection: Connection, sha256: str, size: int) -> None:
    """The same within a transaction.

    Raises ApiError 503 when the collection of unused bytes removed them between their storing and this
    call, which it cannot do from here on. The official client sends them again by itself.
    """
    add_blob(connection, sha256, size)
    if not service.blobs.has(sha256):
        raise ApiError(503, "The bytes have to be sent again", type=SERVER, headers={"retry-after": "1"})
