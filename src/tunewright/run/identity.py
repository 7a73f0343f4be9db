"""Hashes that say whether two runs have the same data and the same base model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tunewright.types import Example

SAMPLED_PAGES = 256
PAGE_BYTES = 4096


def examples_hash(sources: Iterable[tuple[Sequence[Example], float]]) -> str:
    """sha256 over every token, loss weight and source weight in order: tokenizer and template included."""
    digest = hashlib.sha256()
    for examples, weight in sources:
        digest.update(f"source {len(examples)} {weight!r}\n".encode())
        for example in examples:
            digest.update(len(example).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(example.tokens_T, dtype="<i4").data)
            digest.update(np.ascontiguousarray(example.weights_T, dtype="<f4").data)
    return digest.hexdigest()


def model_hash(folder: Path) -> str:
    """sha256 over config.json and, of each weight file, its size and 256 evenly spaced 4 KiB pages.

    Reading a 15 GB model whole would cost more than the start-up itself; other weights of the same shape
    differ in every page.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for page in range(SAMPLED_PAGES):
                file.seek(page * max(size - PAGE_BYTES, 0) // (SAMPLED_PAGES - 1))
                digest.update(file.read(PAGE_BYTES))
    return digest.hexdigest()
