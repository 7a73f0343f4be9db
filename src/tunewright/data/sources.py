"""From a path to raw rows: which files it names, and the reader of each kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tunewright.data.csv_rows import iter_csv_rows
from tunewright.data.faults import detach
from tunewright.data.json_rows import iter_json_rows
from tunewright.data.parquet_rows import iter_parquet_rows
from tunewright.data.raw_row import RawRow
from tunewright.errors import DataError

READERS: dict[str, Callable[[Path, str], Iterator[RawRow | DataError]]] = {
    ".json": iter_json_rows,
    ".jsonl": iter_json_rows,
    ".parquet": iter_parquet_rows,
    ".csv": iter_csv_rows,
}
COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".7z", ".tar", ".tgz"})
_KINDS = ", ".join(READERS)


def iter_raw_rows(path: Path, shown: str) -> Iterator[RawRow | DataError]:
    """Rows of a file or folder, lazily; a fault of one row comes as a value in its place.

    Raises DataError for a fault of a file. shown: the name of `path` in messages and in each row's source.
    """
    for file, name in find_named_files(path, shown):
        yield from iter_file(file, name)


def iter_file(path: Path, shown: str) -> Iterator[RawRow | DataError]:
    """Rows of one data file, a fault of a row in its place. Raises DataError for a fault of the file."""
    is_empty = True
    try:
        for row in READERS[path.suffix.lower()](path, shown) if path.stat().st_size else ():
            is_empty = False
            yield detach(row) if isinstance(row, DataError) else row
    except OSError as error:
        raise unreadable(shown, error) from error
    if is_empty:
        raise empty_file(shown)


def empty_file(shown: str) -> DataError:
    """The error for a file without rows."""
    return DataError("the file is empty: it holds no rows", where=shown, code="data.empty-file")


def unreadable(shown: str, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    return DataError(
        f"the file cannot be read: {error.strerror or error}", where=shown, code="data.unreadable-file"
    )


def find_named_files(path: Path, shown: str) -> list[tuple[Path, str]]:
    """As find_files, each with its name in messages."""
    return [
        (file, shown if file == path else str(Path(shown) / file.name)) for file in find_files(path, shown)
    ]


def _hint_for_missing(path: Path) -> str:
    """The part of the path that is there; a dataset of the hub is often named like a folder."""
    found = next(parent for parent in path.parents if parent.exists())
    missing = path.relative_to(found).parts[0]
    hint = f"{found} has no {missing}; relative paths start at the folder of the run file"
    if path.suffix:
        return hint
    return f"{hint}. Datasets of the hub are not fetched: download one with `hf download --repo-type dataset`"


def find_files(path: Path, shown: str) -> list[Path]:
    """The file itself, or the data files of a folder by name. Raises DataError when there is none."""
    if not path.exists():
        raise DataError(
            "no such file or folder",
            where=shown,
            hint=_hint_for_missing(path.absolute()),
            code="data.no-such-file",
        )
    if path.is_dir():
        return _files_in(path, shown)
    if not path.is_file():
        raise DataError("not a regular file", where=shown, expected=_KINDS, code="data.unsupported-file")
    _check_kind(path, shown)
    return [path]


def _files_in(folder: Path, shown: str) -> list[Path]:
    entries = sorted(
        entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")
    )
    names = {entry.name for entry in folder.iterdir()}
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names:
        raise _saved_dataset(folder, shown, is_dict="dataset_dict.json" in names)
    for entry in entries:
        # Leaving out half of a data set because it is compressed would go unnoticed.
        if entry.suffix.lower() in {*COMPRESSED, ".arrow"}:
            _check_kind(entry, str(Path(shown) / entry.name))
    files = [entry for entry in entries if entry.suffix.lower() in READERS]
    if not files:
        names = ", ".join(entry.name for entry in entries[:5])
        raise DataError(
            "the folder has no data files",
            where=shown,
            got=names or "no files",
            expected=f"files ending in {_KINDS}",
            hint="folders inside it are not searched",
            code="data.no-data-files",
        )
    return files


def _saved_dataset(folder: Path, shown: str, *, is_dict: bool) -> DataError:
    split = "['train']" if is_dict else ""
    return DataError(
        "this is a folder that the datasets library saved (save_to_disk), which cannot be read",
        where=shown,
        got="a folder for each split" if is_dict else "Arrow files",
        expected=f"files ending in {_KINDS}",
        hint="convert it once, in Python: from datasets import load_from_disk; "
        f"load_from_disk({str(folder)!r}){split}.to_json('rows.jsonl')",
        code="data.unsupported-file",
    )


def _check_kind(path: Path, shown: str) -> None:
    kind = path.suffix.lower()
    if kind in READERS:
        return
    hint = "decompress it first" if kind in COMPRESSED else "convert it, for example to JSONL"
    if kind == ".arrow":
        hint = "convert it once, in Python: from datasets import Dataset; "
        hint += f"Dataset.from_file({str(path)!r}).to_json('rows.jsonl')"
    raise DataError(
        "this kind of file cannot be read",
        where=shown,
        got=kind or "a name without an ending",
        expected=_KINDS,
        hint=hint,
        code="data.unsupported-file",
    )
