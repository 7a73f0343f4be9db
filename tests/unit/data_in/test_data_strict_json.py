import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.strict_json import (
    MAX_DEPTH,
    JsonFault,
    dump_json,
    parse_json,
    split_array,
    split_object,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SPACE = st.sampled_from(["", " ", "\n\t", "\r\n  "])


@given(VALUES)
def test_valid_json_reads_as_the_standard_reader_does(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text) == value


@given(VALUES, st.booleans())
def test_dump_keeps_what_was_parsed(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert dump_json(parse_json(text)) == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    "number", ["1e5", "1.10", "-0", "1E+2", "0.1000", "-0.0", "12345678901234567890", "7"]
)
def test_numbers_keep_their_spelling(number: str) -> None:
    text = f'{{"z": {number}, "a": [{number}]}}'
    assert dump_json(parse_json(text)) == text


@given(st.lists(VALUES, max_size=5), SPACE)
def test_split_array_gives_each_element_as_spelled(values: list[object], space: str) -> None:
    texts = [json.dumps(value, indent=1) for value in values]
    whole = space + "[" + space + f"{space},{space}".join(texts) + space + "]" + space
    assert split_array(whole) == texts


@given(st.dictionaries(TEXT, VALUES, max_size=5), SPACE)
def test_split_object_gives_each_value_as_spelled(values: dict[str, object], space: str) -> None:
    texts = {key: json.dumps(value, indent=1) for key, value in values.items()}
    members = [f"{json.dumps(key)}{space}:{space}{text}" for key, text in texts.items()]
    assert split_object(space + "{" + space + f"{space},{space}".join(members) + space + "}") == texts


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('{"a": NaN}', "data.bad-number", "NaN"),
        ('{"a": [Infinity]}', "data.bad-number", "Infinity"),
        ('{"a": -Infinity}', "data.bad-number", "-Infinity"),
        ('{"a": 1e999}', "data.bad-number", "too large"),
        ('{"a": ' + "9" * 200 + "}", "data.bad-number", "200 digits"),
        ('{"a": ' + "9" * 100_000 + "}", "data.bad-number", "100000 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "data.duplicate-key", "'c'"),
        (r'{"a": "\ud83d"}', "data.bad-text", "ud83d"),
        (r'{"a": ["x", {"\udc00": 1}]}', "data.bad-text", "udc00"),
        (r'{"a": "x\u0000"}', "data.bad-text", "NUL"),
        ("[" * 200 + "]" * 200, "data.too-deep", "100"),
        ("[" * 1_000_000, "data.too-deep", "100"),
        ('{"a":' * 1_000_000, "data.too-deep", "100"),
        ("[" + "{}," * 300_000 + "{}]", "data.row-too-large", "200,000"),
        ("[" + "1," * 1_100_000 + "1]", "data.row-too-large", "1,000,000"),
        ("", "data.broken-json", "Expecting value"),
        ('{"a": 1,}', "data.broken-json", ""),
        ("{'a': 1}", "data.broken-json", ""),
        ('{"a": "x\ny"}', "data.broken-json", "control character"),
        ('{"a": "\0"}', "data.broken-json", "control character"),
        ('{"a": 1} {"b": 2}', "data.broken-json", "Extra data"),
    ],
)
def test_what_is_not_strict_json_is_named(text: str, code: str, words: str) -> None:
    with pytest.raises(JsonFault) as caught:
        parse_json(text)
    assert caught.value.code == code
    assert words in caught.value.what
    assert (caught.value.position is not None) == (code == "data.broken-json")


def test_brackets_inside_texts_do_not_count_as_nesting() -> None:
    value = {"a": "[" * 500 + '\\"{' * 500, "b": [["]"]]}
    assert parse_json(json.dumps(value)) == value


def test_nesting_up_to_the_limit_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert dump_json(parse_json(text)) == text
    with pytest.raises(JsonFault, match="nested"):
        parse_json(f"[{text}]")


def test_whole_surrogate_pairs_and_escaped_backslashes_are_text() -> None:
    assert parse_json(r'["\ud83d\ude00", "\\ud800", "\\u0000"]') == ["😀", r"\ud800", r"\u0000"]


@pytest.mark.parametrize(("split", "text"), [(split_array, "{}"), (split_object, "[]")])
def test_split_refuses_the_other_kind(split: object, text: str) -> None:
    with pytest.raises(JsonFault, match="not a JSON"):
        split(text)  # type: ignore[operator]


@pytest.mark.parametrize("piece", ["{},", "[],", "[[", '{"a":'])
def test_a_bomb_takes_little_more_memory_than_its_text(piece: str) -> None:
    text = "[" + piece * (1_000_000 // len(piece))
    tracemalloc.start()
    try:
        with pytest.raises(JsonFault):
            parse_json(text)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text)
    finally:
        tracemalloc.stop()
