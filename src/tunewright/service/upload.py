"""Receive a multipart upload piece by piece, straight into the blob store. Never whole in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tunewright.service.faults import ApiError, bad_value, unknown_field
from tunewright.service.schemas.files import TRAINING, UPLOAD_FIELDS
from tunewright.service.settings import Limits
from tunewright.service.store import BlobStore, BlobWriter
from tunewright.service.upload_check import ContentCheck

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

ENVELOPE_BYTES = 64 * 1024
"""What the parts around the file may take: their headers and the form fields."""
LONGEST_NAME = 200
"""Letters of an unknown field's name that are told."""


@dataclass(frozen=True, slots=True)
class Received:
    """A stored upload: its form fields, the name the client gave the file, and the file's bytes."""

    fields: dict[str, str]
    filename: str
    sha256: str
    size: int


async def receive_upload(request: Request, blobs: BlobStore, limits: Limits) -> Received:
    """Read a form with one file part named `file`.

    Raises ApiError: 400 for a body that is no such form or a file that is not taken, 413 for one above its
    limit. Nothing stays behind then.
    """
    most_bytes = limits.file_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes + ENVELOPE_BYTES:
        raise too_large(most_bytes)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:
        raise _bad_form("Send the file as multipart/form-data, with the parts 'purpose' and 'file'")
    writer = await to_thread.run_sync(blobs.writer)
    try:
        form = _Form(writer, most_bytes, ContentCheck(limits.line_bytes))
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            # Parsing also hashes and writes, which may wait for the disk.
            await to_thread.run_sync(parser.write, chunk)
        parser.finalize()
        form.check_lines()
        if not form.ended or form.filename is None:
            raise bad_value("Missing required parameter: 'file'", "file", "missing_required_parameter")
        sha256 = await to_thread.run_sync(writer.commit)
    except FormParserError as error:
        raise _bad_form("The form of the upload is broken: it is not valid multipart/form-data") from error
    finally:
        await to_thread.run_sync(writer.abort)
    return Received(form.fields, form.filename, sha256, writer.size)


def too_large(most_bytes: int) -> ApiError:
    """413 for a file above the limit."""
    return ApiError(
        413,
        f"The file is too large: the limit is {most_bytes:,} bytes. Split it into several files",
        param="file",
        code="file_too_large",
    )


@dataclass(slots=True)
class _Form:
    """What the parser calls while it reads."""

    writer: BlobWriter
    most_bytes: int
    content: ContentCheck
    fields: dict[str, str] = field(default_factory=dict[str, str])
    filename: str | None = None
    ended: bool = False
    _around: int = 0
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    _name: str = ""
    _in_file: bool = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _begin(self) -> None:
        self._headers.clear()
        self._header.clear()
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_around(end - start)
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_around(end - start)
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._in_file = b"filename" in options
        if self._in_file:
            if self._name != "file" or self.filename is not None:
                raise bad_value("The form needs exactly one file, in the part 'file'", "file")
            self.filename = label_of(options[b"filename"].decode(errors="replace"))
        elif self._name not in UPLOAD_FIELDS:
            # Before the bytes of the file come, where the field stands before it.
            raise unknown_field(self._name[:LONGEST_NAME])
        elif self._name in self.fields:
            raise bad_value(f"The form has '{self._name}' twice", self._name)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._count_around(end - start)
            self._value += data[start:end]
            return
        piece = data[start:end]
        self.content.feed(piece)
        self.check_lines()
        self.writer.write(piece)
        if self.writer.size > self.most_bytes:
            raise too_large(self.most_bytes)

    def check_lines(self) -> None:
        """Raise ApiError 400 for a training file with an endless line, as soon as the purpose is known."""
        if self.fields.get("purpose") == TRAINING:
            self.content.check_lines()

    def _on_part_end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _on_end(self) -> None:
        self.ended = True

    def _count_around(self, size: int) -> None:
        self._around += size
        if self._around > ENVELOPE_BYTES:
            raise _bad_form(f"The form's fields are too long: at most {ENVELOPE_BYTES:,} bytes")


def _bad_form(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_form")


def label_of(filename: str) -> str:
    """A file name as a label: its last component, printable, at most 255 letters. No path is made of it."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:255] or "upload"
