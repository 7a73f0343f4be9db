"""Rows of text for the benchmark of a real model, tokenised once for every program that trains on them.

Real rows are Alpaca's, from a file. Without one, texts are made of this repository's pages, with lengths and
prompts as in workload.draw_documents(), which is what speed depends on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from workload import draw_documents

from tunewright.types import Example, SourceRef

PAGES = Path(__file__).resolve().parent.parent / "docs"


def write_rows(model: Path, data: Path | None, file: Path, *, count: int, longest: int) -> None:
    """Up to `count` rows for the tokenizer of a model folder."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rows = _made(tokenizer, count, longest) if data is None else _alpaca(tokenizer, data, longest)
    kept = [row for row, _ in zip(rows, range(count), strict=False)]
    arrays: dict[str, Any] = {f"tokens_{n}": row.tokens_T for n, row in enumerate(kept)}
    arrays |= {f"weights_{n}": row.weights_T for n, row in enumerate(kept)}
    np.savez(file, **arrays)


def read_rows(file: str | Path) -> list[Example]:
    """The rows that write_rows() left."""
    with np.load(file) as arrays:
        return [
            Example(arrays[f"tokens_{n}"], arrays[f"weights_{n}"], SourceRef(str(file), n + 1))
            for n in range(len(arrays) // 2)
        ]


def _made(tokenizer: Tokenizer, count: int, longest: int) -> Iterator[Example]:
    texts = [page.read_text(encoding="utf-8") for page in sorted(PAGES.rglob("*.md"))]
    ids = np.array(list(chain.from_iterable(tokenizer.encode(text).ids for text in texts)), np.int32)
    start = 0
    shapes = draw_documents("conversations", count, longest=longest, vocabulary=len(ids))
    for row in shapes:
        yield replace(row, tokens_T=np.take(ids, range(start, start + len(row)), mode="wrap"))
        start += len(row)


def _alpaca(tokenizer: Tokenizer, data: Path, longest: int) -> Iterator[Example]:
    rows = json.loads(data.read_text(encoding="utf-8"))
    for number, row in enumerate(rows, start=1):
        asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        parts = (
            f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n",
            f"{row['output']}<|im_end|>\n",
        )
        prompt, answer = (tokenizer.encode(part).ids for part in parts)
        weights = [*repeat(0.0, len(prompt)), *repeat(1.0, len(answer))]
        if len(prompt) < longest:
            tokens_T = np.array([*prompt, *answer][:longest], np.int32)
            yield Example(tokens_T, np.array(weights[:longest], np.float32), SourceRef(str(data), number))
