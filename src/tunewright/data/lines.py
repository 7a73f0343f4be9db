"""Lines and text of a file in bounded memory, whatever the file holds."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from tunewright.errors import DataError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line, and longest row of a JSON array in characters."""
CHUNK_BYTES = 1024 * 1024


def iter_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers from 1 and lines with their line end; None for a line above MAX_LINE_BYTES, skipped."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            _skip_line(file)
            yield number, None
        else:
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def decode_line(line: bytes | None, where: str) -> str:
    """Text of a line of iter_lines. Raises DataError when it was too long or is not UTF-8."""
    if line is None:
        raise too_long(where)
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error


def iter_text(file: BinaryIO, path: str) -> Iterator[str]:
    """The file as text, chunk by chunk, without a byte order mark. Raises DataError where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    while True:
        chunk = file.read(CHUNK_BYTES)
        try:
            text = decoder.decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            good = error.object[: error.start].decode().removeprefix("\ufeff")
            yield good
            line += good.count("\n")
            raise _not_utf8(f"{path} line {line}", error) from error
        line += text.count("\n")
        yield text
        if not chunk:
            return


def too_long(where: str) -> DataError:
    """The error for a line or row above the limit."""
    return DataError(
        "the row is too long to read",
        where=where,
        got=f"more than {MAX_LINE_BYTES // 1024**2} MiB without an end",
        hint="a data file holds one row per line; is this another kind of file?",
        code="data.line-too-long",
    )


def _skip_line(file: BinaryIO) -> None:
    while (piece := file.readline(CHUNK_BYTES)) and not piece.endswith(b"\n"):
        pass


def _not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        "the text is not UTF-8",
        where=where,
        got=f"byte 0x{error.object[error.start]:02x}",
        hint="save the file as UTF-8, for example with `iconv -f CP1252 -t UTF-8`",
        code="data.not-utf8",
    )
