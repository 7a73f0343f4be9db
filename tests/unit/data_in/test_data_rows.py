import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tunewright.config.schema import SourceConfig
from tunewright.data import faults
from tunewright.data.rows import RowSource, read_rows
from tunewright.errors import DataError

GOOD = {"instruction": "q", "output": "a"}
LINE = json.dumps(GOOD) + "\n"


def read(folder: Path, content: str, name: str = "train.jsonl", **settings: object) -> RowSource:
    (folder / name).write_text(content)
    return read_rows(SourceConfig(path=name, **settings), folder)


def refused(folder: Path, content: str, **settings: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, content, **settings)
    return caught.value


def test_good_and_bad_rows_are_kept_apart(tmp_path: Path) -> None:
    content = LINE + "{broken\n" + LINE + '{"instruction": "q", "output": ""}\n' + LINE
    source = read(tmp_path, content)
    assert [row.source.line for row in source.rows] == [1, 3, 5]
    assert [(error.where, error.code) for error in source.bad] == [
        ("train.jsonl:2", "data.broken-json"), ("train.jsonl:4", "data.no-answer"),
    ]  # fmt: skip
    assert (source.bad_count, source.rows_read) == (2, 5)
    assert source.format == "alpaca"
    assert source.found == "alpaca, found by the keys instruction, output in the first 4 rows"


def test_bad_rows_are_counted_beyond_those_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(faults, "FAULTS_KEPT", 10)
    source = read(tmp_path, LINE + '{"instruction": "q"}\n' * 50)
    assert (len(source.bad), source.bad_count, source.rows_read) == (10, 50, 51)


def test_kept_faults_do_not_keep_the_text_of_their_rows(tmp_path: Path) -> None:
    broken = '{"instruction": "' + "x" * 100_000 + '"\n'
    wrong = json.dumps({**GOOD, "history": "[" + "1, " * 30_000}) + "\n"
    (tmp_path / "train.jsonl").write_text(LINE + (broken + wrong) * 100)
    tracemalloc.start()
    source = read_rows(SourceConfig(path="train.jsonl"), tmp_path)
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.bad_count == 200
    assert left < 1_000_000


def test_a_file_without_a_readable_row_raises_its_first_fault(tmp_path: Path) -> None:
    assert refused(tmp_path, "not json\n" * 3000).where == "train.jsonl:1"


def test_rows_beyond_the_sample_are_of_the_format_found(tmp_path: Path) -> None:
    source = read(tmp_path, LINE * 30 + '{"text": "x"}\n')
    assert (len(source.rows), [error.code for error in source.bad]) == (30, ["data.missing-field"])


def test_a_named_format_wins(tmp_path: Path) -> None:
    row = json.dumps({**GOOD, "prompt": "p", "completion": "c"}) + "\n"
    assert refused(tmp_path, row).code == "data.ambiguous-format"
    source = read(tmp_path, row, format="prompt_completion")
    assert source.rows[0].segments == (("p", 0.0), ("c", 1.0))
    assert source.found == "prompt_completion, as named"


def test_columns_are_mapped(tmp_path: Path) -> None:
    row = '{"question": "q", "answer": "a", "output": "not this"}\n'
    source = read(tmp_path, row, columns={"instruction": "question", "output": "answer"})
    assert [message.content for message in source.rows[0].messages] == ["q", "a"]


def test_a_preference_file_can_be_mapped_to_its_better_answers(tmp_path: Path) -> None:
    row = '{"prompt": "p", "chosen": "c", "rejected": "r"}\n'
    assert refused(tmp_path, row).code == "data.preference"
    assert read(tmp_path, row, columns={"completion": "chosen"}).format == "prompt_completion"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"instructions": "question"}, "fields that the format does not have: instructions"),
        ({"instruction": "query"}, "columns that the file does not have: query"),
    ],
)
@pytest.mark.parametrize("format_", ["auto", "alpaca"])
def test_a_wrong_mapping_is_named(tmp_path: Path, format_: str, columns: dict[str, str], words: str) -> None:
    error = refused(tmp_path, LINE, columns=columns, format=format_)
    assert error.code == "data.bad-columns"
    assert words in str(error)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.json"])
def test_kinds_of_file_agree(tmp_path: Path, name: str) -> None:
    rows = [{"instruction": f"q{i}", "input": "", "output": 'a, "b"\n'} for i in range(3)]
    path = tmp_path / name
    if name == "a.csv":
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif name == "a.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows, indent=2))
    source = read_rows(SourceConfig(path=name), tmp_path)
    lines = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [row.messages for row in source.rows] == [row.messages for row in lines.rows]
    assert [row.source.line for row in source.rows] == ([2, 4, 6] if name == "a.csv" else [1, 2, 3])


def test_reading_loads_no_array_library(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINE)
    code = (
        "import sys; from pathlib import Path; from tunewright.config.schema import SourceConfig\n"
        "from tunewright.data.rows import read_rows; read_rows(SourceConfig(path='train.jsonl'), Path())\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_messages_stay_short_whatever_the_row_holds(tmp_path: Path) -> None:
    long = "x" * 100_000
    answer = {"role": "assistant", "content": "a"}
    call = {"role": "assistant", "tool_calls": [{"id": long, "function": {"name": "f", "arguments": "{}"}}]}
    rows = [
        {"messages": [{"role": long, "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": long}]}]},
        {"messages": [call, {"role": "tool", "content": "a", "tool_call_id": long + "y"}]},
        {"messages": [answer], "tools": long},
        {"messages": long},
        {"messages": [{**answer, "weight": long}]},
    ]
    lines = [
        *(json.dumps(row) for row in rows),
        f'{{"{long}": 1, "{long}": 2}}',
        f'{{"messages": {long}}}',
        f'"{long}"',
    ]
    source = read(tmp_path, json.dumps({"messages": [answer]}) + "\n" + "\n".join(lines))
    assert len(source.bad) == len(lines)
    assert max(len(str(error)) for error in source.bad) < 600
    assert len(str(refused(tmp_path, json.dumps({long: 1})))) < 900
