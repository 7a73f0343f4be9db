"""Rows read when their turn comes are the rows held in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.collate import BatchShape
from tunewright.data.holdout import MOST_PICKED, pick_held_out, spread_evenly
from tunewright.data.indexed_rows import IndexedRows
from tunewright.data.prepare import check_data, prepare_data, resolve_loading, survey_data
from tunewright.data.prepared import PreparedData, check_prepared
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import DataError
from tunewright.types import StepBatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("indexed")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ChatTokenizer:
    return load_tokenizer(write_tokenizer(folder / "model", CHATML), None)


@pytest.fixture(autouse=True)
def cache_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))


def chat(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}) + "\n"


def write_rows(path: Path, count: int, *, bad: dict[int, str] | None = None) -> str:
    """`count` rows of different lengths with blank lines between some; `bad` replaces lines by number."""
    lines = [chat(f"What is {n}?", "word " * (1 + n % 7)) + "\n" * (n % 3 == 0) for n in range(count)]
    for number, text in (bad or {}).items():
        lines[number] = text + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    return path.name


def load(
    folder: Path, tokenizer: ChatTokenizer, names: list[str], loading: str, **values: object
) -> PreparedData:
    sources = [{"path": name, "weight": 1 + 0.5 * n} for n, name in enumerate(names)]
    data = DataConfig.model_validate({"train": sources, "eval": 0.0, "loading": loading, **values})
    return survey_data(data, tokenizer, folder, seed=3)


def steps(prepared: PreparedData, seed: int, position: int, packing: bool) -> list[StepBatch]:
    shape = BatchShape(micro_batch_size=2, seq_len=64, packing=packing, pad_id=0)
    stream = StepStream(prepared.train_sources, StepRule(5, None, shape), seed=seed)
    return list(islice(stream.steps(position), 4))


def contents(step: StepBatch) -> object:
    arrays = [
        (b.tokens_BT.tobytes(), b.weights_BT.tobytes(), b.positions_BT.tobytes(), b.doc_lengths)
        for b in step.micro_batches
    ]
    return arrays, replace(step, micro_batches=())


@pytest.fixture(scope="module")
def both(folder: Path, tokenizer: ChatTokenizer) -> Callable[[str], tuple[PreparedData, PreparedData]]:
    names = [write_rows(folder / "a.jsonl", 23), write_rows(folder / "b.jsonl", 9)]

    @cache
    def prepare(rule: str) -> tuple[PreparedData, PreparedData]:
        # The shortest rows are 44 tokens, the longest 74.
        values: dict[str, object] = {"seq_len": 64, "overlong": rule}
        in_memory = load(folder, tokenizer, names, "memory", **values)
        return in_memory, load(folder, tokenizer, names, "indexed", **values)

    return prepare


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.sampled_from(["truncate", "split"]),
    seed=st.integers(0, 2**32 - 1),
    position=st.integers(0, 150),
    packing=st.booleans(),
)
def test_both_ways_give_the_same_steps(both, rule: str, seed: int, position: int, packing: bool) -> None:
    in_memory, indexed = both(rule)
    expected = [contents(step) for step in steps(in_memory, seed, position, packing)]
    assert [contents(step) for step in steps(indexed, seed, position, packing)] == expected


def test_a_dropped_row_is_an_empty_row(both) -> None:
    in_memory, indexed = both("drop")
    (rows, _), (whole, _) = indexed.train_sources[0], in_memory.train_sources[0]
    examples = [example for number in range(len(rows)) for example in rows.row(number)]
    assert len(rows) == 23 > len(whole)
    assert [e.tokens_T.tolist() for e in examples] == [e.tokens_T.tolist() for e in whole.known()]
    assert indexed.report.rows_dropped == in_memory.report.rows_dropped > 0


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_held_out_and_trained_rows_partition_each_source(counts: list[int], share: float, seed: int) -> None:
    held_out = pick_held_out(counts, share=share, seed=seed)
    assert sum(map(len, held_out)) <= min(MOST_PICKED, max(1, round(share * sum(counts))))
    for count, held_out_H in zip(counts, held_out, strict=True):
        rows = IndexedRows(range(count), None, None, held_out_H, None)  # type: ignore[arg-type]
        trained = [rows.place(number) for number in range(len(rows))]
        assert len(rows) >= 1
        assert trained == sorted(trained)
        assert sorted([*trained, *held_out_H.tolist()]) == list(range(count))


def test_a_share_of_one_source_holds_out_what_was_asked() -> None:
    (few,), (many,) = (pick_held_out([n], share=0.05, seed=1) for n in (1000, 10**9))
    assert (len(few), len(many)) == (50, MOST_PICKED)
    assert len(np.unique(many)) == MOST_PICKED
    assert many.max() > 9e8


@given(wanted=st.integers(0, 3000), counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
def test_a_quota_is_spread_without_a_rest(wanted: int, counts: list[int]) -> None:
    quotas = spread_evenly(wanted, counts)
    assert sum(quotas) == min(wanted, sum(counts))
    assert all(0 <= quota <= count for quota, count in zip(quotas, counts, strict=True))


def test_the_report_says_what_was_looked_at(folder: Path, tokenizer: ChatTokenizer) -> None:
    name = write_rows(folder / "many.jsonl", 1500)
    prepared = load(folder, tokenizer, [name], "indexed", eval=0.1)
    report = prepared.report
    assert (report.loading, report.rows_read, report.rows_checked) == ("indexed", 1500, 1150)
    assert report.rows_kept == 1150
    assert (report.train_rows, report.eval_rows, report.duplicate_rows) == (1350, 150, None)
    assert "rows checked: 1,150 of 1,500" in report.text()
    assert "exact duplicate rows: not looked for" in report.text()
    assert report.to_json()["rows_checked"] == 1150
    lines = {example.source.line for example in prepared.eval_examples}
    assert len(lines) == 150
    assert max(lines) > 1600


def test_a_bad_row_in_the_sample_refuses_the_run(folder: Path, tokenizer: ChatTokenizer) -> None:
    name = write_rows(folder / "bad.jsonl", 30, bad={4: "{broken", 11: chat("q", "word " * 90).strip()})
    prepared = load(folder, tokenizer, [name], "indexed", seq_len=128)
    assert prepared.report.rows_bad == 2
    with pytest.raises(DataError, match="2 bad rows of 30") as caught:
        check_prepared(prepared.checked, DataConfig.model_validate({"train": name}))
    assert "bad.jsonl:7: Broken JSON" in str(caught.value)


def test_a_bad_row_is_named_when_its_turn_comes(folder: Path, tokenizer: ChatTokenizer) -> None:
    name = write_rows(folder / "late.jsonl", 30, bad={20: '{"messages": []}'})
    ((rows, _),) = load(folder, tokenizer, [name], "indexed").train_sources
    with pytest.raises(DataError, match=r"late.jsonl:28: .*no message") as caught:
        rows.row(20)
    assert "tunewright data check" in str(caught.value)
    assert len(rows.row(21)) == 1


def test_all_rows_can_be_checked_without_keeping_them(folder: Path, tokenizer: ChatTokenizer) -> None:
    name = write_rows(folder / "check.jsonl", 1500, bad={7: "{broken", 900: chat("What is 3?", "word " * 4)})
    data, indexed = (
        DataConfig.model_validate({"train": name, "eval": 0.0, "loading": loading})
        for loading in ("memory", "indexed")
    )
    expected = check_data(data, tokenizer, folder).report
    found = check_data(indexed, tokenizer, folder)
    assert replace(found.report, loading="memory", findings=()) == replace(expected, findings=())
    assert found.report.duplicate_rows == 1
    assert [finding.count for finding in found.report.findings] == [f.count for f in expected.findings]
    assert [error.where for error in found.errors] == ["check.jsonl:11"]


def test_large_files_are_indexed_by_themselves(
    folder: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_rows(folder / "auto.jsonl", 10)
    data = DataConfig.model_validate({"train": [name, name], "eval": 0.0})
    size = 2 * (folder / name).stat().st_size
    for limit, expected in ((size, "memory"), (size - 1, "indexed")):
        monkeypatch.setattr("tunewright.data.prepare.INDEXED_ABOVE_BYTES", limit)
        assert resolve_loading(data, folder) == expected
        assert prepare_data(data, tokenizer, folder, seed=0).report.loading == expected


def test_the_data_hash_covers_what_decides_about_tokens(folder: Path, tokenizer: ChatTokenizer) -> None:
    def digest(name: str, loading_seed: float = 0.0, **values: object) -> str:
        ((rows, weight),) = load(
            folder, tokenizer, [name], "indexed", eval=loading_seed, **values
        ).train_sources
        found = hashlib.sha256()
        rows.update_digest(found, weight)
        return found.hexdigest()

    first = write_rows(folder / "one.jsonl", 40)
    moved = write_rows(folder / "two.jsonl", 40)
    other = write_rows(folder / "three.jsonl", 40, bad={30: chat("What is 30?", "word " * 4)})
    base = digest(first)
    assert base == digest(first) == digest(moved) == digest(first, packing=False)
    changed = [
        digest(other),
        digest(first, 0.1),
        digest(first, seq_len=1024),
        digest(first, overlong="drop"),
        digest(first, train_on="all"),
        digest(first, thinking="drop"),
    ]
    assert len({base, *changed}) == 7
