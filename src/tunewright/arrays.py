"""The safetensors container as bytes, without NumPy or torch: an 8-byte length, a JSON header, raw data.

Checkpoints and adapter exports are written here, so that every byte passes `files.write_file`, and base
models are checked here before an engine opens them. A header is untrusted: all of it is checked first.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from tunewright.files import FileDigest, write_file
from tunewright.types import Array

MOST_HEADER_BYTES = 10 * 2**20
MOST_TENSORS = 100_000
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


class ArrayFileError(ValueError):
    """A safetensors file is damaged or lies about itself. The message says what; callers add whose file."""


class HeaderEntry(NamedTuple):
    """One tensor of a file. span: first byte and byte after the last, counted from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    span: tuple[int, int]


def write_arrays(
    path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> FileDigest:
    """Write a safetensors file that every reader of the format opens. The same arrays give the same bytes.

    Raises ValueError when an array's bytes do not fit its dtype and shape.
    """
    # Wide types first, so that every tensor starts at a multiple of its item size.
    names = sorted(arrays, key=lambda name: (-DTYPE_BITS.get(arrays[name].dtype, 0), name))
    return write_file(path, _chunks(_header(names, arrays, metadata), names, arrays))


def read_arrays(path: Path) -> dict[str, Array]:
    """All tensors of a file by name, as views into a memory map: nothing is read before it is used.

    Raises ArrayFileError as read_header does.
    """
    header, data_start = _read_header(path)
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[data_start:]
    return {
        name: Array(entry.dtype, entry.shape, data[entry.span[0] : entry.span[1]])
        for name, entry in header.items()
    }


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """What a file holds, read from its header alone, in the order of the data.

    Raises ArrayFileError unless the header has at most 10 MiB and 100,000 tensors, every size agrees with
    its dtype and shape, and the tensors fill the file exactly, without gap or overlap.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[dict[str, HeaderEntry], int]:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8:
            raise ArrayFileError(f"{file_bytes} bytes are too few for a safetensors file")
        if 8 + header_bytes > file_bytes:
            raise ArrayFileError(f"the header claims {header_bytes} bytes, the file has {file_bytes}")
        if header_bytes > MOST_HEADER_BYTES:
            raise ArrayFileError(f"the header has {header_bytes} bytes, at most {MOST_HEADER_BYTES} are read")
        text = file.read(header_bytes)
    values = _parse(text)
    _check_metadata(values.pop("__metadata__", None))
    if len(values) > MOST_TENSORS:
        raise ArrayFileError(f"the header names {len(values)} tensors, at most {MOST_TENSORS} are read")
    entries = {name: _entry(name, value) for name, value in values.items()}
    return _check_cover(entries, file_bytes - 8 - header_bytes), 8 + header_bytes


def _header(names: list[str], arrays: Mapping[str, Array], metadata: Mapping[str, str] | None) -> bytes:
    values: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        array, start = arrays[name], end
        size = _size(name, array.dtype, array.shape)
        given = memoryview(array.data).nbytes
        if size != given:
            raise ArrayFileError(f"tensor {name}: {given} bytes do not fit {array.dtype} {list(array.shape)}")
        end += size
        values[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(names) > MOST_TENSORS or len(text) > MOST_HEADER_BYTES or "__metadata__" in arrays:
        raise ArrayFileError(
            f"{len(names)} tensors with a header of {len(text)} bytes could not be read back"
        )
    return len(text).to_bytes(8, "little") + text


def _chunks(header: bytes, names: list[str], arrays: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    yield header
    for name in names:
        yield arrays[name].data


def _parse(text: bytes) -> dict[str, object]:
    try:
        values: object = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ArrayFileError(f"the header is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ArrayFileError("the header is not a JSON object")
    return cast("dict[str, object]", values)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ArrayFileError("the header names a key twice")
    return values


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    values = cast("dict[object, object]", metadata).values() if isinstance(metadata, dict) else [None]
    if not all(isinstance(value, str) for value in values):
        raise ArrayFileError("__metadata__ is not a map from text to text")


def _entry(name: str, value: object) -> HeaderEntry:
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if len(fields) != 3 or not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
        raise ArrayFileError(f"tensor {name}: needs exactly dtype, shape and data_offsets")
    sizes, ends = cast("list[int]", shape), cast("list[int]", offsets)
    if len(ends) != 2 or ends[1] - ends[0] != _size(name, dtype, tuple(sizes)):
        raise ArrayFileError(f"tensor {name}: bytes {ends} do not fit {dtype} {sizes}")
    return HeaderEntry(dtype, tuple(sizes), (ends[0], ends[1]))


def _are_counts(value: object) -> bool:
    # bool is an int to Python, and true is not a size.
    return isinstance(value, list) and all(
        type(item) is int and item >= 0 for item in cast("list[object]", value)
    )


def _size(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in DTYPE_BITS:
        raise ArrayFileError(f"tensor {name}: unknown dtype {dtype!r}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8:
        raise ArrayFileError(f"tensor {name}: {dtype} {list(shape)} does not end on a byte")
    return bits // 8


def _check_cover(entries: dict[str, HeaderEntry], data_bytes: int) -> dict[str, HeaderEntry]:
    ordered = sorted(entries.items(), key=lambda item: item[1].span)
    at = 0
    for name, entry in ordered:
        if entry.span[0] != at:
            raise ArrayFileError(f"tensor {name}: starts at byte {entry.span[0]} of the data, expected {at}")
        at = entry.span[1]
    if at != data_bytes:
        raise ArrayFileError(f"the tensors need {at} bytes, the file holds {data_bytes}")
    return dict(ordered)
