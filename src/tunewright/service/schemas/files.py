"""Files as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from tunewright.service.records import FileRecord
from tunewright.service.schemas.lists import ApiModel, ApiObject

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
UPLOAD_PURPOSES: tuple[str, ...] = get_args(UploadPurpose)
TRAINING = "fine-tune"
RESULTS = "fine-tune-results"
UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "title": "Upload",
                "description": "A form. The upload is read as it comes, so that FastAPI never sees this.",
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "The bytes."},
                    "purpose": {
                        "type": "string",
                        "enum": UPLOAD_PURPOSES,
                        "description": "`fine-tune` for rows to train or evaluate on.",
                    },
                    "expires_after": {
                        "type": "string",
                        "description": 'The next two as JSON: `{"anchor": "created_at", "seconds": 3600}`.',
                    },
                    "expires_after[anchor]": {
                        "type": "string",
                        "enum": ["created_at"],
                        "description": "What the next one counts from.",
                    },
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": 3600,
                        "maximum": 2_592_000,
                        "description": "Seconds until the file is deleted.",
                    },
                },
            }
        }
    },
}
"""For the OpenAPI document. A form may have these fields and no others."""
UPLOAD_FIELDS = frozenset(
    UPLOAD_BODY["content"]["multipart/form-data"]["schema"]["properties"],
)


class FileObject(ApiObject):
    """An uploaded or result file."""

    object: Literal["file"] = "file"
    bytes: int
    """Size."""
    created_at: int
    """Unix time in seconds."""
    expires_at: int | None = None
    """When it is deleted; left out for never."""
    filename: str
    """The name it was uploaded under; a label only."""
    purpose: str
    """What it may be used for; `fine-tune` for rows, `fine-tune-results` for what a job wrote."""
    status: Literal["processed"] = "processed"
    """Always `processed`: rows are read when a job names the file."""


class FilePage(ApiModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    """The files of this page."""
    first_id: str
    """Id of the first of them; empty on an empty page."""
    last_id: str
    """Id of the last of them: `after` of the next page."""
    has_more: bool
    """Whether there is another page."""


def file_page(files: Sequence[FileObject], has_more: bool) -> FilePage:
    """The page of these files."""
    return FilePage(
        data=list(files),
        first_id=files[0].id if files else "",
        last_id=files[-1].id if files else "",
        has_more=has_more,
    )


def file_object(file: FileRecord) -> FileObject:
    """The API object of a file."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )
