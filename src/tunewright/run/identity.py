"""Hashes that say whether two runs have the same data and the same base model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tunewright.data.example_rows import ExampleRows
from tunewright.files import sample_pages


def examples_hash(sources: Iterable[tuple[ExampleRows, float]]) -> str:
    """sha256 over what each source says of its rows, in order."""
    digest = hashlib.sha256()
    for rows, weight in sources:
        rows.update_digest(digest, weight)
    return digest.hexdigest()


def model_hash(folder: Path) -> str:
    """sha256 over config.json and, of each weight file, its size and 256 evenly spaced 4 KiB pages.

    Reading a 15 GB model whole would cost more than the start-up itself; other weights of the same shape
    differ in every page.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for page in sample_pages(path):
            digest.update(page)
    return digest.hexdigest()
