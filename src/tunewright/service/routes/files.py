"""/v1/files: upload, list, read and delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from tunewright.service.context import Service, ServiceArg, UserArg
from tunewright.service.db.database import Connection, clock
from tunewright.service.db.files import add_file, delete_file, find_file, list_files
from tunewright.service.db.jobs import is_file_in_use
from tunewright.service.db.pages import Page
from tunewright.service.envelope import UNLIMITED
from tunewright.service.expiry import read_life
from tunewright.service.faults import ApiError, bad_value, no_such_file
from tunewright.service.ids import FILE, new_id
from tunewright.service.quotas import check_file_quota
from tunewright.service.records import FileRecord, KeyRecord
from tunewright.service.repeats import Repeat, RepeatArg, check_caller
from tunewright.service.schemas.files import (
    UPLOAD_BODY,
    UPLOAD_PURPOSES,
    FileObject,
    FilePage,
    file_object,
    file_page,
)
from tunewright.service.schemas.lists import Deleted
from tunewright.service.stored import record_blob
from tunewright.service.upload import Received, receive_upload

router = APIRouter(prefix="/v1/files", tags=["Files"])

BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}

FileId = Annotated[str, Path(description="Id of the file.")]


# receive_upload counts the bytes of the file by itself.
@router.post(
    "",
    max_body_size=UNLIMITED,
    openapi_extra={"requestBody": UPLOAD_BODY},
    response_model_exclude_none=True,
)
async def create(request: Request, service: ServiceArg, key: UserArg, repeat: RepeatArg) -> FileObject:
    """Store an upload. The same upload sent again after a lost answer gives the first one's file."""
    await to_thread.run_sync(_check_room, service, key)
    received = await receive_upload(request, service.blobs, service.settings.limits)
    await check_caller(request)
    return file_object(await to_thread.run_sync(_record, service, key, received, repeat))


# OpenAI's schemas of files know no null.
@router.get("", response_model_exclude_none=True)
def list_(
    service: ServiceArg,
    key: UserArg,
    purpose: Annotated[str | None, Query(description="Only files with this purpose.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Objects on a page.")] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of upload.")] = "desc",
    after: Annotated[str | None, Query(description="The page after the object with this id.")] = None,
) -> FilePage:
    """The project's files."""
    with service.database.read() as connection:
        found = list_files(connection, key.project, purpose, Page(limit, after, order))
    if found is None:
        raise bad_value(f"'after' names no file of this list: {after}", "after")
    return file_page([file_object(file) for file in found[0]], found[1])


@router.get("/{file_id}", response_model_exclude_none=True)
def retrieve(file_id: FileId, service: ServiceArg, key: UserArg) -> FileObject:
    """One file."""
    with service.database.read() as connection:
        return file_object(_found(connection, key, file_id))


@router.get("/{file_id}/content", response_class=Response, responses=BYTES)
def content(file_id: FileId, service: ServiceArg, key: UserArg) -> StreamingResponse:
    """The bytes of a file, as they were uploaded."""
    with service.database.read() as connection:
        file = _found(connection, key, file_id)
    headers = {"content-length": str(file.bytes), "content-disposition": "attachment"}
    chunks = service.blobs.read(file.sha256)
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
def delete(file_id: FileId, service: ServiceArg, key: UserArg) -> Deleted:
    """Delete a file that no live job reads."""
    with service.database.write() as connection:
        file = _found(connection, key, file_id)
        if is_file_in_use(connection, file.id):
            raise ApiError(
                400,
                f"{file.id} is used by a job that is not over; cancel the job first",
                param="file_id",
                code="file_in_use",
            )
        delete_file(connection, file.id)
    return Deleted(id=file.id, object="file")


def _found(connection: Connection, key: KeyRecord, file_id: str) -> FileRecord:
    file = find_file(connection, key.project, file_id)
    if file is None:
        raise no_such_file(file_id)
    return file


def _check_room(service: Service, key: KeyRecord) -> None:
    """Refuse before the bytes come; how many they are is checked with the entry."""
    with service.database.read() as connection:
        check_file_quota(connection, key.project, service.settings.limits, 0)


def _record(service: Service, key: KeyRecord, received: Received, repeat: Repeat) -> FileRecord:
    record_blob(service, received.sha256, received.size)
    fields = received.fields
    if "purpose" not in fields:
        raise bad_value("Missing required parameter: 'purpose'", "purpose", "missing_required_parameter")
    purpose = fields["purpose"]
    if purpose not in UPLOAD_PURPOSES:
        raise bad_value(f"'purpose' must be one of {', '.join(UPLOAD_PURPOSES)}", "purpose")
    life = read_life(fields)
    call = repeat.of(key, purpose, received.filename, received.sha256, str(life))
    with service.database.write() as connection:
        made = call.find(connection)
        known = find_file(connection, key.project, made) if made else None
        if known is not None:
            return known
        check_file_quota(connection, key.project, service.settings.limits, received.size)
        now = clock(connection)
        file = FileRecord(
            id=new_id(FILE),
            project=key.project,
            filename=received.filename,
            purpose=purpose,
            bytes=received.size,
            sha256=received.sha256,
            created_at=now,
            expires_at=None if life is None else now + life,
        )
        add_file(connection, file)
        call.remember(connection, file.id)
    return file
