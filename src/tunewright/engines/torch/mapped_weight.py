"""Weights that lie in a mapped file: torch reads them there, and what was read stays in memory."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")


def release_weight(weight: torch.Tensor) -> None:
    """Let go of the resident pages of a weight that nobody reads again, where it lies in a mapped file.

    Its base counts twice otherwise: once packed, once as pages of the file, which live as long as any other
    weight of that file does. Reading it after all would read the file again. Pages that it shares with its
    neighbours stay, and so does memory that is no file, which would lose its content.
    """
    page = mmap.PAGESIZE
    first = -(-weight.data_ptr() // page) * page
    size = (weight.data_ptr() + weight.nbytes) // page * page - first
    if size > 0 and weight.is_contiguous() and _lies_in_file(first, first + size):
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _lies_in_file(first: int, end: int) -> bool:
    """Whether these addresses are one private mapping of a weight file; no where nothing tells."""
    with suppress(OSError):
        for line in _MAPS.read_text().splitlines():
            span, access, _, _, _, *path = line.split(maxsplit=5)
            low, high = (int(address, 16) for address in span.split("-"))
            if low <= first and end <= high:
                return access.endswith("p") and bool(path) and path[0].endswith(".safetensors")
    return False
