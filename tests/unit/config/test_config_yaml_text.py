"""YAML by the rules of 1.2, with lines, and nothing that can run code or grow without bound."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunewright.config.node import plain
from tunewright.config.yaml_text import MAX_BYTES, read_yaml, write_yaml
from tunewright.errors import ConfigErrors


def read(text: str):
    root, faults = read_yaml(text, "run.yaml")
    assert not faults
    return plain(root)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("2E3", 2000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("010", 10),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("0b11", "0b11"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("=", "="),
        ("<<", "<<"),
        ("1e", "1e"),
        ("1\n  2", "1 2"),
    ],
)
def test_plain_values_follow_yaml_1_2(written, value):
    got = read(f"a: {written}")["a"]
    assert got == value
    assert type(got) is type(value)


def test_nan_is_read():
    assert math.isnan(read("a: .nan")["a"])


def test_thousands_of_digits_stay_text():
    assert read("a: " + "9" * 5000)["a"] == "9" * 5000


def test_the_rules_stay_local():
    read("a: no")
    assert yaml.safe_load("a: no") == {"a": False}


def test_a_value_knows_the_line_of_its_key():
    root, _ = read_yaml("a:\n  b:\n    - 1\n    - c: 2\n", "run.yaml")
    b = root.value["a"].value["b"]
    assert b.origin == "run.yaml:2"
    assert [item.origin for item in b.value] == ["run.yaml:3", "run.yaml:4"]


def test_every_duplicate_key_is_named_with_both_lines():
    _, faults = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "run.yaml")
    assert [(fault.code, fault.where) for fault in faults] == [
        ("config.duplicate-key", "run.yaml:2"),
        ("config.duplicate-key", "run.yaml:3"),
    ]
    assert "run.yaml:1" in faults[1].hint


def test_a_key_that_is_no_text_is_named():
    _, faults = read_yaml("? [a, b]\n: 1\n", "run.yaml")
    assert "a key must be text" in str(faults[0])


def test_keys_are_text_as_written():
    assert read("{no: 1, 1e3: 2}") == {"no": 1, "1e3": 2}


def test_aliases_are_followed():
    assert read("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


def nested_aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            "a: 1\nb: !!python/object/apply:os.system ['true']",
            2,
            "tag !!python/object/apply:os.system is not allowed",
        ),
        ("a: !mine 1", 1, "tag !mine"),
        ("a: !!str 1", 1, "tag !!str"),
        ("a: [1, 2\nb: 3\n", 2, "that starts on line 1"),
        ("a: 1\nb: 'open\n", 2, "not closed"),
        ("a:\n\tb: 1", 2, "tab"),
        ("a: b: c", 1, "second `: `"),
        ("---\na: 1\n---\nb: 1\n", 3, "second document"),
        ("a: *nothing", 1, "undefined alias"),
        ("a: &x [*x]", 1, "alias holds itself"),
        ("a: 1\nb: \x01", 2, "U+0001"),
        ("[" * 100_000, 1, "32 levels"),
        (nested_aliases(9), None, "holds more than"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text, line, says):
    with pytest.raises(ConfigErrors) as caught:
        read_yaml(text, "run.yaml")
    [fault] = caught.value.errors
    assert says in str(fault)
    if line is not None:
        assert fault.where == f"run.yaml:{line}"


def test_a_large_text_is_refused_unread():
    with pytest.raises(ConfigErrors, match="too large"):
        read_yaml("#" * (MAX_BYTES + 1), "run.yaml")


def test_nothing_but_comments_is_no_document():
    assert read_yaml("# only a comment\n", "run.yaml") == (None, [])


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_what_is_written_is_read_back(value):
    assert plain(read_yaml(write_yaml(value), "run.yaml")[0]) == value


@given(st.text())
def test_text_reads_the_same_under_yaml_1_1(value):
    assert yaml.safe_load(write_yaml({"a": value})) == {"a": value}
