"""Rows that come once, in order: windows of them shuffled, steps resumed, a pipe for real."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.collate import BatchShape
from tunewright.data.prefetch import prefetched
from tunewright.data.prepare import prepare_data
from tunewright.data.prepared import PreparedData
from tunewright.data.raw_row import Line
from tunewright.data.report import DataReport
from tunewright.data.step import StepRule
from tunewright.data.templates import load_tokenizer
from tunewright.data.windows import Windows, WindowStream
from tunewright.errors import ConfigError, DataError
from tunewright.types import Example, SourceRef, StepBatch


@dataclass
class Numbers:
    """Rows that hold their number, 1 to `count`, and lengths from 1 to 7."""

    count: int
    prepared: list[int] = field(default_factory=list[int])
    first: int = 1

    def lines(self) -> Iterator[Line]:
        for number in range(self.first, self.first + self.count):
            yield Line(SourceRef("numbers", number), f"{number}\n".encode())

    def prepare(self, line: Line) -> list[Example]:
        number = int(line.text or b"")
        self.prepared.append(number)
        tokens_T = np.full(number % 7 + 1, number, np.int32)
        return [Example(tokens_T, np.ones(len(tokens_T), np.float32), line.source)]

    def report(self) -> DataReport:
        raise NotImplementedError


def make_stream(
    windows: Windows, *, batch_size: int = 4, tokens_per_batch: int | None = None
) -> WindowStream:
    return WindowStream(windows, StepRule(batch_size, tokens_per_batch, BatchShape(2, 64, True, 0)), seed=3)


def numbers_in(step: StepBatch) -> list[int]:
    return [
        int(batch.tokens_BT[b, at])
        for batch in step.micro_batches
        for b, lengths in enumerate(batch.doc_lengths)
        for at in np.cumsum((0, *lengths[:-1]))
    ]


def contents(step: StepBatch) -> tuple[object, ...]:
    tokens = [batch.tokens_BT.tolist() for batch in step.micro_batches]
    return (tokens, step.position, step.loss_weight, step.source_state)


RULES = st.one_of(
    st.builds(lambda n: {"batch_size": n}, st.integers(1, 9)),
    st.builds(lambda n: {"tokens_per_batch": n}, st.integers(8, 40)),
)


@settings(max_examples=40)
@given(rows=st.integers(0, 60), window=st.integers(1, 20), rule=RULES)
def test_each_row_comes_once_and_steps_stay_in_their_window(
    rows: int, window: int, rule: dict[str, int]
) -> None:
    steps = list(make_stream(Windows(Numbers(rows), window), **rule).steps())
    assert sorted(number for step in steps for number in numbers_in(step)) == list(range(1, rows + 1))
    assert all(len({(number - 1) // window for number in numbers_in(step)}) == 1 for step in steps)
    assert [step.position for step in steps] == np.cumsum([step.examples for step in steps]).tolist()


@settings(max_examples=40)
@given(rows=st.integers(1, 60), window=st.integers(1, 20), rule=RULES, data=st.data())
def test_resumed_anywhere_equals_uninterrupted(
    rows: int, window: int, rule: dict[str, int], data: st.DataObject
) -> None:
    whole = list(make_stream(Windows(Numbers(rows), window), **rule).steps())
    last = whole[data.draw(st.integers(0, len(whole) - 1))]
    windows = Windows(Numbers(rows), window)
    windows.expect(last.position, last.source_state)
    resumed = list(make_stream(windows, **rule).steps(last.position))
    assert [contents(step) for step in resumed] == [
        contents(step) for step in whole if step.position > last.position
    ]


@pytest.mark.parametrize("other", [Numbers(40, first=2), Numbers(9)])
@pytest.mark.parametrize("step", [0, 4, 7])
def test_other_rows_than_before_are_refused(other: Numbers, step: int) -> None:
    whole = list(make_stream(Windows(Numbers(40), 10)).steps())
    windows = Windows(other, 10)
    windows.expect(whole[step].position, whole[step].source_state)
    with pytest.raises(DataError, match="not those of the run that is resumed") as caught:
        next(make_stream(windows).steps(whole[step].position))
    assert caught.value.code == "data.other-rows"


def test_rows_passed_over_are_not_prepared() -> None:
    rows = Numbers(100)
    next(make_stream(Windows(rows, 10)).steps(60))
    assert len(rows.prepared) == 4
    assert min(rows.prepared) > 60


def test_a_window_is_shuffled_as_a_whole() -> None:
    (step,) = make_stream(Windows(Numbers(100), 100), batch_size=100).steps()
    order = [number for batch in [step] for number in numbers_in(batch)]
    first, second = (
        [
            numbers_in(step)[0]
            for step in islice(make_stream(Windows(Numbers(200), 100), batch_size=1).steps(), a, b)
        ]
        for a, b in ((0, 100), (100, 200))
    )
    assert sorted(order) == sorted(first) == list(range(1, 101))
    assert first != sorted(first)
    assert [number - 100 for number in second] != first
    assert abs(np.mean(first[:50]) - 50.5) < 15


def test_a_step_ahead_can_be_made_again_in_other_micro_batches() -> None:
    windows = Windows(Numbers(40), 4)
    ahead = prefetched(make_stream(windows).steps())
    taken = [next(ahead) for _ in range(3)]
    ahead.close()
    again = next(make_stream(windows).steps(taken[1].position))
    assert contents(again) == contents(taken[2])


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "rows.pipe")
    return tmp_path / "rows.pipe"


def prepare(folder: Path, **values: object) -> PreparedData:
    tokenizer = load_tokenizer(write_tokenizer(folder / "model", CHATML), None)
    settings = {"train": "rows.pipe", "eval": 0, "seq_len": 128, "window": 6, **values}
    return prepare_data(DataConfig.model_validate(settings), tokenizer, folder, seed=0)


def write_to(fifo: Path, lines: list[str], go_on: Event | None = None) -> Thread:
    """Write the lines from a thread; with go_on the last one and the end come only then."""

    def write() -> None:
        with fifo.open("w") as pipe:
            pipe.writelines(lines[:-1])
            pipe.flush()
            if go_on:
                go_on.wait(5)
            pipe.writelines(lines[-1:])

    thread = Thread(target=write, daemon=True)
    thread.start()
    return thread


def row(number: int) -> str:
    return json.dumps({"instruction": f"Say {number}.", "output": str(number)}) + "\n"


def test_a_pipe_is_trained_on_while_it_is_written(fifo: Path) -> None:
    prepared = prepare(fifo.parent)
    assert prepared.windows is not None
    assert (prepared.report.loading, prepared.report.rows_read) == ("piped", 0)
    go_on = Event()
    writer = write_to(fifo, ["\n", *(row(n) for n in range(32))], go_on)
    steps = make_stream(prepared.windows).steps()
    assert [step.examples for step in islice(steps, 8)] == [4, 2] * 4
    report = prepared.windows.report()
    assert (report.rows_checked, report.rows_kept, report.sources[0].format) == (24, 24, "alpaca")
    go_on.set()
    assert [step.examples for step in steps] == [4, 2, 2]
    writer.join()
    report = prepared.windows.report()
    assert (report.rows_read, report.rows_checked, report.is_sampled) == (32, 32, False)
    assert report.trained_tokens > 32
    json.dumps(asdict(report))


def test_a_bad_row_is_named_by_its_line_after_the_steps_before_it(fifo: Path) -> None:
    prepared = prepare(fifo.parent)
    assert prepared.windows is not None
    write_to(fifo, [*(row(n) for n in range(30)), "\n", '{"instruction": "no answer"}\n'])
    steps = make_stream(prepared.windows).steps()
    assert sum(step.examples for step in islice(steps, 10)) == 30
    with pytest.raises(DataError, match=r"rows\.pipe:32") as caught:
        next(steps)
    assert caught.value.code == "data.missing-field"


def test_an_empty_pipe_holds_no_step(fifo: Path) -> None:
    prepared = prepare(fifo.parent)
    assert prepared.windows is not None
    write_to(fifo, [])
    assert list(make_stream(prepared.windows).steps()) == []


def test_held_out_rows_come_from_a_file(fifo: Path) -> None:
    (fifo.parent / "held.jsonl").write_text(row(1) + row(2))
    prepared = prepare(fifo.parent, eval="held.jsonl")
    assert len(prepared.eval_examples) == 2
    assert prepared.report.eval_rows == 2


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"eval": 0.05}, "data.eval"),
        ({"train": ["rows.pipe", "other.jsonl"]}, "data.train"),
        ({"train": {"path": "-", "weight": 2}}, "data.train.0.weight"),
    ],
)
def test_settings_that_need_the_data_twice_are_refused(
    fifo: Path, values: dict[str, object], where: str
) -> None:
    with pytest.raises(ConfigError, match="can be read only once") as caught:
        prepare(fifo.parent, **values)
    assert (caught.value.code, caught.value.where) == ("config.pipe", where)
