"""The safetensors container as bytes, without NumPy or an engine.

Layout: 8 bytes little-endian header length, JSON header {name: {dtype, shape, data_offsets}}, data. Source:
https://github.com/huggingface/safetensors (format description).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tunewright.files import FileDigest, write_file
from tunewright.types import Array

ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
MOST_HEADER_BYTES = 10 * 2**20
MOST_TENSORS = 100_000
# Readers map the data; 8-byte alignment of its start keeps every element aligned.
ALIGNMENT = 8

Header = dict[str, tuple[str, tuple[int, ...], tuple[int, int]]]


class ArrayFileError(ValueError):
    """The file is not a well-formed safetensors file."""


def write_arrays(
    path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> FileDigest:
    """Write arrays in sorted order of their names. Raises ValueError when shape and bytes do not agree."""
    names = sorted(arrays)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in names:
        array = arrays[name]
        end = start + memoryview(array.data).nbytes
        if end - start != math.prod(array.shape) * ITEM_BYTES[array.dtype]:
            raise ValueError(f"{name}: {end - start} bytes do not make {array.dtype} {list(array.shape)}")
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    return write_file(path, _chunks(header, (arrays[name] for name in names)))


def _chunks(header: Mapping[str, Any], arrays: Iterator[Array]) -> Iterator[bytes | memoryview]:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays:
        yield array.data


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays as views into a memory map of the file; bytes are read when used.

    Raises ArrayFileError for a malformed file, OSError for one that cannot be read.
    """
    header, data_start = _read_header(path)
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[data_start:]
    return {name: Array(dtype, shape, data[start:end]) for name, (dtype, shape, (start, end)) in header.items()}


def read_header(path: Path) -> Header:
    """{name: (dtype, shape, (start, end))} with offsets into the data part, checked against the file's size.

    Raises ArrayFileError when anything in the header disagrees with itself or with the file.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[Header, int]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ArrayFileError(f"the header claims {length} bytes, the file has {size}")
        if length > MOST_HEADER_BYTES:
            raise ArrayFileError(f"the header has {length} bytes, at most {MOST_HEADER_BYTES} are read")
        try:
            parsed = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ArrayFileError(f"the header is not JSON: {error}") from error
    if not isinstance(parsed, dict) or len(cast("dict[str, Any]", parsed)) > MOST_TENSORS:
        raise ArrayFileError(f"the header is not a mapping of at most {MOST_TENSORS} tensors")
    entries = cast("dict[str, Any]", parsed)
    header = {name: _entry(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    _check_cover(header, size - 8 - length)
    return header, 8 + length


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    try:
        dtype, shape, (start, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, end)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ArrayFileError(f"{name}: shape and offsets must be whole numbers from 0 on")
        expected = math.prod(shape) * ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArrayFileError):
            raise
        raise ArrayFileError(f"{name}: the header entry is malformed") from error
    if end - start != expected:
        raise ArrayFileError(f"{name}: {dtype} {list(shape)} needs {expected} bytes, the header says {end - start}")
    return dtype, shape, (start, end)


def _check_cover(header: Header, data_bytes: int) -> None:
    """The tensors must fill the data part without gap or overlap."""
    at = 0
    for name, (_, _, (start, end)) in sorted(header.items(), key=lambda item: item[1][2]):
        if start != at:
            raise ArrayFileError(f"{name}: starts at byte {start} of the data, expected {at}")
        at = end
    if at != data_bytes:
        raise ArrayFileError(f"the tensors need {at} bytes, the file holds {data_bytes}")
