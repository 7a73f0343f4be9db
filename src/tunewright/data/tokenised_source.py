"""All rows of a source, tokenised: from the cache when the same was done before, else now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tunewright.cache import CACHE_VARIABLE, cache_folder, make_cached
from tunewright.config.schema import DataConfig, SourceConfig
from tunewright.data.line_index import file_changed
from tunewright.data.sources import find_named_files
from tunewright.data.templates import ChatTokenizer
from tunewright.data.token_table import DamagedTable, TokenTable, map_table, parse_table
from tunewright.data.tokenise import SourceTokens, choose_processes
from tunewright.data.tokenise_pool import WorkerDied
from tunewright.files import hash_file

CACHED_ABOVE_BYTES = 2**20
"""Size of a source from which its tokens are kept. Less is tokenised in about a second."""
_SETTINGS = {"seq_len", "overlong", "train_on", "thinking", "control_tokens"}
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "numpy")

Say = Callable[[str], None]
Files = list[tuple[Path, str]]


def ignore(line: str) -> None:
    """For callers without a person to tell."""


def open_tokenised(
    config: SourceConfig, data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path, say: Say
) -> TokenTable:
    """Every row of a source, rendered and tokenised once for all runs that would make the same of it.

    say: gets a line when the cache or a worker process fails; the rows are the same then. Raises as open_rows
    does, ModelError, and DataError `data.file-changed`.
    """
    files = find_named_files(base_dir / config.path, config.path)
    size = sum(file.stat().st_size for file, _ in files)
    tokens = SourceTokens(config, data, tokenizer, base_dir, choose_processes(size))
    keep = size >= CACHED_ABOVE_BYTES
    try:
        return _open(tokens, files, say, keep=keep)
    except WorkerDied:
        say(f"warning: a process that tokenised {config.path} was killed: again, in one process")
        return _open(replace(tokens, processes=1), files, say, keep=keep)


def is_quick(config: SourceConfig, data: DataConfig, tokenizer: ChatTokenizer, base_dir: Path) -> bool:
    """Whether open_tokenised takes about a second: little data, or tokenised before. Raises DataError."""
    files = find_named_files(base_dir / config.path, config.path)
    if sum(file.stat().st_size for file, _ in files) < CACHED_ABOVE_BYTES:
        return True
    return _cached_path(SourceTokens(config, data, tokenizer, base_dir, processes=1), files).exists()


def _open(tokens: SourceTokens, files: Files, say: Say, *, keep: bool) -> TokenTable:
    if keep:
        try:
            return _open_cached(tokens, files, say)
        except OSError as error:
            say(
                f"warning: the tokens of {tokens.config.path} cannot be kept in "
                f"{error.filename or cache_folder()}: {error.strerror or error}; {CACHE_VARIABLE} names "
                "another folder"
            )
    return parse_table(b"".join(tokens.iter_table()))


def _open_cached(tokens: SourceTokens, files: Files, say: Say) -> TokenTable:
    before = [_state(file) for file, _ in files]
    path = _cached_path(tokens, files)
    found: list[TokenTable] = []

    def is_good() -> bool:
        if not path.exists():
            return False
        try:
            found.append(map_table(path))
        except DamagedTable as damage:
            say(f"warning: {path} is damaged ({damage}): {tokens.config.path} is tokenised again")
        return bool(found)

    def build() -> Iterator[bytes]:
        yield from tokens.iter_table()
        for (file, shown), state in zip(files, before, strict=True):
            if _state(file) != state:
                raise file_changed(shown, "a change while it was read")

    cached = make_cached(path, is_good, build)
    return replace(found[0] if found else map_table(path), cached=cached)


def _cached_path(tokens: SourceTokens, files: Files) -> Path:
    return cache_folder() / "data" / f"{_key(tokens, files)}.tokens"


def _key(tokens: SourceTokens, files: Files) -> str:
    """Another one whenever any row could give other tokens, weights or findings."""
    told = {
        "code": _code_hash(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "files": [(shown, hash_file(file).sha256) for file, shown in files],
        "source": tokens.config.model_dump(mode="json", include={"path", "format", "columns"}),
        "tokenizer": (tokens.tokenizer.digest(), tokens.tokenizer.stop_ids),
        "settings": tokens.data.model_dump(mode="json", include=_SETTINGS),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _code_hash() -> str:
    """Of the code that makes tokens from files: nobody has to remember to raise a version."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _state(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns
