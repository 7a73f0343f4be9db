from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_tokenizers import write_tokenizer
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.inference.batch import Likely
from tunewright.inference.detokenize import TextStream, TokenBytes
from tunewright.inference.serving.told import Told, Voice
from tunewright.inference.tool_calls import CallFormat, find_call_format
from tunewright.models.resolve import resolve_model
from tunewright.types import ToolCall

HERMES = (
    "{% if tools %}<|im_start|>tools{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    '{% for call in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    '{% if m.tool_calls %}{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LISTED = HERMES.replace("\n<tool_call>\n{", "[INST][{").replace("}}\n</tool_call>", "}}]")


@pytest.fixture(scope="module")
def tiny() -> ChatTokenizer:
    return load_tokenizer(resolve_model("builtin:tiny").folder, None)


def _tokenizer(folder: Path, template: str) -> ChatTokenizer:
    write_tokenizer(folder, template)
    (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(folder, None)


def _tell(told: Told, tokenizer: ChatTokenizer, text: str) -> tuple[list[str], list[str]]:
    """Pieces as they come, and the tokens told with them."""
    pieces = []
    for token in tokenizer.encode(text)[0]:
        pieces.append(told.take(token, Likely(-1.0, ((token, -1.0),))))
        if told.finish:
            break
    if not told.finish:
        pieces.append(told.end("length"))
    return [piece.text for piece in pieces], [each["text"] for piece in pieces for each in piece.entries]


def test_a_character_of_several_tokens_comes_whole(tiny: ChatTokenizer) -> None:
    stream = TextStream(tiny.decode)
    ids = tiny.encode("aé🎈")[0]
    assert [stream.push(token) for token in ids] == ["a", "", "é", "", "", "", "🎈"]
    assert stream.rest() == ""
    assert stream.push(ids[1]) == ""
    assert stream.rest() == "\ufffd"


def test_bytes_of_tokens_make_the_text(tiny: ChatTokenizer, tmp_path) -> None:
    for tokenizer in (tiny, _tokenizer(tmp_path, HERMES)):
        tokens = TokenBytes(tokenizer)
        text = "hello the <|im_end|> é🎈\n"
        assert b"".join(map(tokens.of, tokenizer.encode(text)[0])).decode() == text


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "ne t"], "o"),
        ("one two three", ["twenty"], "one two three"),
        ("one tw", ["two"], "one tw"),
        ("aaab", ["aab"], "a"),
        ("é🎈!", ["🎈"], "é"),
    ],
)
def test_stop_texts_cut_what_is_told(tiny: ChatTokenizer, text: str, stops: list[str], expected: str) -> None:
    told = Told(Voice(tiny, TokenBytes(tiny)), stops, None)
    pieces, tokens = _tell(told, tiny, text)
    assert "".join(pieces) == expected
    assert told.finish == ("length" if expected == text else "stop")
    if text.isascii():
        assert "".join(tokens) == expected


def test_nothing_that_may_be_a_stop_text_is_told_early(tiny: ChatTokenizer) -> None:
    told = Told(Voice(tiny, TokenBytes(tiny)), ["stop"], None)
    assert _tell(told, tiny, "a stoa st")[0] == ["a", " ", "", "", "", "stoa", " ", "", "", "st"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            HERMES,
            CallFormat(
                "<tool_call>", "arguments", "<tool_call>\n", "\n</tool_call><tool_call>\n", "\n</tool_call>"
            ),
        ),
        (BARE, CallFormat("", "parameters", head='{"name": "probe", "parameters": ')),
        (LISTED, CallFormat("[INST]", "arguments", "[INST][", "][INST][", "]")),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
    ],
)
def test_the_template_says_how_calls_are_written(
    template: str, expected: CallFormat | None, tmp_path
) -> None:
    assert find_call_format(_tokenizer(tmp_path, template)) == expected


@pytest.mark.parametrize("template", [HERMES, BARE, LISTED])
def test_calls_are_taken_out_of_the_text(template: str, tmp_path) -> None:
    tokenizer = _tokenizer(tmp_path, template)
    voice = Voice(tokenizer, TokenBytes(tokenizer))
    found = find_call_format(tokenizer)
    assert found
    call = json.dumps({"name": "add", found.arguments: {"a": [1, 2]}})
    opening = f"{found.marker}[" if "[INST]" in found.marker else found.marker
    lead = "Let me see. " if found.marker else ""
    told = Told(voice, (), found)
    pieces, _ = _tell(told, tokenizer, f"{lead}{opening}{call}")
    assert "".join(pieces).strip() == lead.strip()
    assert list(told.calls) == [ToolCall("add", '{"a": [1, 2]}')]
    assert told.finish == "tool_calls"
    broken = Told(voice, (), found)
    pieces, _ = _tell(broken, tokenizer, f"{lead}{opening}{call[:-4]}")
    assert not broken.calls
    assert broken.finish == "length"
    assert call[:-4] in "".join(pieces)


def test_several_calls_and_calls_of_the_bundled_model(tiny: ChatTokenizer) -> None:
    found = find_call_format(tiny)
    assert found
    text = '<|call|>{"name": "a", "arguments": {}}<|call|>{"name": "b", "arguments": {"x": 1}}'
    told = Told(Voice(tiny, TokenBytes(tiny)), (), found)
    assert "".join(_tell(told, tiny, text)[0]) == ""
    assert list(told.calls) == [ToolCall("a", "{}"), ToolCall("b", '{"x": 1}')]
    assert found.parse('<|call|>{"arguments": {}}') == []
