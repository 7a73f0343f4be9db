"""`--data-dir`: files that the operator laid ready, which a job names in place of an upload.

A name is looked up in the listing of the folder and never joined to a path, so that none can lead elsewhere.
The job gets a file of its own with the bytes of that moment.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tunewright.service.context import Service
from tunewright.service.db.database import clock
from tunewright.service.db.files import add_file
from tunewright.service.ids import FILE, new_id
from tunewright.service.quotas import check_file_quota
from tunewright.service.records import FileRecord, KeyRecord
from tunewright.service.schemas.files import TRAINING
from tunewright.service.store import CHUNK_BYTES
from tunewright.service.stored import record_blob, store_chunks


def take_ready_file(service: Service, key: KeyRecord, name: str | None) -> str | None:
    """The id of a new file with the bytes of the ready file of this name; None when there is none of it.

    Raises ApiError 429 when the project has no room for it, and OSError.
    """
    folder = service.settings.data_dir
    if folder is None or name is None or name.startswith(FILE):
        return None
    return _store(service, key, folder / name) if name in os.listdir(folder) else None


def _store(service: Service, key: KeyRecord, path: Path) -> str | None:
    # Without O_NONBLOCK a pipe would hold the request for ever.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    with os.fdopen(handle, "rb") as file:
        sha256, size = store_chunks(service, iter(lambda: file.read(CHUNK_BYTES), b""))
    record_blob(service, sha256, size)
    with service.database.write() as connection:
        check_file_quota(connection, key.project, service.settings.limits, size)
        made = FileRecord(
            id=new_id(FILE),
            project=key.project,
            filename=path.name,
            purpose=TRAINING,
            bytes=size,
            sha256=sha256,
            created_at=clock(connection),
            expires_at=None,
        )
        add_file(connection, made)
    return made.id
