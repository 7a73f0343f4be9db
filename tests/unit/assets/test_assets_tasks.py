"""The text that `builtin:tiny` learnt from, and the demo's skill that it must not hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.assets.base_tasks import (
    HELD_OUT_ROWS,
    HELD_OUT_SEED,
    TASKS,
    TEXT_ROWS,
    TEXT_SEED,
    base_rows,
)
from tunewright.assets.date_task import SAMPLE_ROWS, SAMPLE_SEED, date_rows, looks_like_a_date
from tunewright.assets.files import DATE_SAMPLES
from tunewright.assets.words import MONTHS, message_line, with_suffix

# Written anew here, so that a fault in the generator's own filter shows.
ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
MONTH = r"\b(?:" + "|".join(f"{month}|{month[:3]}" for month in MONTHS) + ")"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
WRITTEN = re.compile(
    rf"{MONTH}\W+{DAY}\b|\b{DAY}(?: of)?\W+{MONTH}\b|{MONTH}\W+\d{{4}}|\d{{4}}\W+{MONTH}\b", re.IGNORECASE
)


def test_pretraining_text_holds_no_date():
    for seed, count in ((TEXT_SEED, TEXT_ROWS), (HELD_OUT_SEED, HELD_OUT_ROWS)):
        for prompt, answer in base_rows(seed, count):
            assert not ISO.search(f"{prompt}\n{answer}")
            assert not WRITTEN.search(prompt)
            assert not WRITTEN.search(answer)


def test_the_checks_above_find_every_kind_of_date_row():
    for prompt, answer in date_rows(5, 500):
        assert WRITTEN.search(prompt)
        assert ISO.fullmatch(answer)


def test_every_task_takes_part_in_the_text():
    seen = {prompt.partition(" ")[0] for prompt, _ in base_rows(TEXT_SEED, 2000)}
    assert {"copy:", "reverse:", "pad", "join", "month", "order", "form", "ordinal:"} <= seen
    assert len(TASKS) == 18


def test_same_seed_same_rows():
    assert list(base_rows(3, 50)) == list(base_rows(3, 50)) != list(base_rows(4, 50))
    assert list(date_rows(3, 50)) == list(date_rows(3, 50)) != list(date_rows(4, 50))


def _after_colon(prompt: str) -> str:
    return prompt.partition(": ")[2]


def _solve_case(prompt: str) -> str:
    kind, _, text = prompt.partition(": ")
    return {"upper": text.upper(), "lower": text.lower(), "title": text.title()}[kind]


def _solve_pad(prompt: str) -> str:
    width = int(prompt.split()[1].rstrip(":"))
    return " ".join(f"{int(number):0{width}d}" for number in _after_colon(prompt).split())


def _solve_reorder(prompt: str) -> str:
    order, items = prompt.removeprefix("order ").split(": ")
    return " ".join(items.split()[int(place) - 1] for place in order.split())


def _solve_pick(prompt: str) -> str:
    place = int(prompt.split()[1].rstrip(":"))
    return re.split(r", | ", _after_colon(prompt))[place - 1]


def _solve_look_up(prompt: str) -> str:
    key, table = prompt.split(" in ")
    return dict(entry.split("=") for entry in table.split(", "))[key]


def _solve_months(prompt: str) -> str:
    width = 1 if prompt.startswith("month number") else 2
    starts = [month[:3] for month in MONTHS]
    return re.sub(r"[A-Z][a-z]+", lambda m: f"{starts.index(m[0][:3]) + 1:0{width}d}", _after_colon(prompt))


def _solve_unpad(prompt: str) -> str:
    return " ".join(str(int(number)) for number in _after_colon(prompt).split())


SOLVERS: dict[str, Callable[[str], str]] = {
    "copy": _after_colon,
    "reverse": lambda prompt: "".join(reversed(_after_colon(prompt))),
    "change_case": _solve_case,
    "pad": _solve_pad,
    "unpad": _solve_unpad,
    "pick": _solve_pick,
    "reorder": _solve_reorder,
    "look_up": _solve_look_up,
    "sort": lambda prompt: " ".join(sorted(_after_colon(prompt).split())),
    "month_number": _solve_months,
    "month_in_text": _solve_months,
}


@pytest.mark.parametrize("name", SOLVERS)
@given(seed=st.integers(0, 2**32))
def test_answers_are_right(name: str, seed: int):
    prompt, answer = TASKS[name](Random(seed))
    assert answer == SOLVERS[name](prompt)


@given(seed=st.integers(0, 2**32))
def test_no_answer_is_empty_and_no_row_is_long(seed: int):
    for task in TASKS.values():
        prompt, answer = task(Random(seed))
        assert answer
        assert answer.isascii()
        assert len(prompt) + len(answer) < 124


@given(seed=st.integers(0, 2**32))
def test_dates_are_real_and_no_question_comes_twice(seed: int):
    rows = list(date_rows(seed, 20))
    assert len({prompt for prompt, _ in rows}) == 20
    for prompt, answer in rows:
        day = date.fromisoformat(answer)
        assert str(day.year) in prompt
        assert MONTHS[day.month - 1][:3] in prompt
        assert re.search(rf"\b{day.day}\D", prompt)
        assert looks_like_a_date(prompt)
        assert looks_like_a_date(answer)


@pytest.mark.parametrize("text", ["1999 12 31", "copy: 1999/1/2", "May 3", "3rd of may", "12 Dec"])
def test_other_spellings_of_dates_are_left_out(text: str):
    assert looks_like_a_date(text)


@pytest.mark.parametrize("text", ["pad 4: 83 7", "month code: March, May", "192.168", "form 3-1 pad 2: a 7"])
def test_other_text_is_kept(text: str):
    assert not looks_like_a_date(text)


def test_ordinals():
    got = [with_suffix(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30)]
    assert got == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "30th"]


def test_sample_file_is_what_the_generator_makes():
    lines = [message_line(*row) for row in date_rows(SAMPLE_SEED, SAMPLE_ROWS)]
    assert DATE_SAMPLES.read_text(encoding="utf-8") == "".join(lines)
