from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.data.templates import TEMPLATE_DATE, ChatTokenizer, load_tokenizer
from tunewright.errors import DataError, ModelError
from tunewright.types import Message, ToolCall

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello")


def make(folder: Path, template: str | None = CHATML, **options: object) -> ChatTokenizer:
    return load_tokenizer(write_tokenizer(folder, template, **options), None)  # type: ignore[arg-type]


def test_loading_and_rendering_import_neither_torch_nor_auto_classes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, CHATML)
    code = f"""
import sys
from pathlib import Path
from tunewright.data.templates import load_tokenizer
from tunewright.data.mask import build_examples
from tunewright.config.schema import DataConfig
from tunewright.types import Conversation, Message, SourceRef
tokenizer = load_tokenizer(Path({str(tmp_path)!r}), None)
row = Conversation((Message("user", "Hi"), Message("assistant", "Hello")), (), SourceRef("a", 1))
assert build_examples(row, tokenizer, DataConfig(train="a"))
print([name for name in sys.modules if name == "torch" or name.startswith("transformers.models.auto")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_prompt_is_the_rendering_with_the_generation_prompt(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    ids = tokenizer.encode_prompt([USER])
    assert (
        tokenizer.decode(ids, skip_special=False) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_generation_stops_at_eos_and_at_the_token_that_closes_a_turn(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, stops=("<|im_start|>",))
    names = {tokenizer.decode([i], skip_special=False) for i in tokenizer.stop_ids}
    assert names == {"</s>", "<|im_end|>", "<|im_start|>"}


def test_pad_is_the_pad_token_and_vocabulary_counts_added_tokens(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    assert tokenizer.pad_id == tokenizer.eos_id
    assert (
        tokenizer.vocab_size
        == len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]) + 4
    )
    assert tokenizer.token_text(tokenizer.pad_id) == "</s>"
    assert "unknown" not in tokenizer.token_text(10**6)


def test_a_template_file_replaces_the_models_own(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}!", encoding="utf-8")
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "model", CHATML), own)
    assert tokenizer.render([USER]) == "Hi!"
    assert tokenizer.fingerprint().endswith("!")


def test_a_missing_template_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.jinja"):
        load_tokenizer(write_tokenizer(tmp_path, CHATML), tmp_path / "none.jinja")


def test_a_model_without_template_is_fine_until_a_chat_row_needs_one(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None)
    assert tokenizer.encode_plain("Hi") == tokenizer.encode("Hi")[0]
    with pytest.raises(ModelError, match=r"data\.chat_template") as caught:
        tokenizer.render([USER])
    assert caught.value.code == "model.no-chat-template"


def test_a_folder_without_tokenizer_and_a_broken_one_are_model_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path, None)
    (tmp_path / "tokenizer.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(tmp_path, None)


def test_broken_jinja_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not valid Jinja"):
        make(tmp_path, "{% for %}").render([USER])


def test_what_a_template_raises_is_a_data_error(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, "{{ raise_exception('System role not supported') }}")
    with pytest.raises(DataError, match="System role not supported") as caught:
        tokenizer.render([USER])
    assert caught.value.code == "data.template-refused"


def test_tools_reach_the_template_as_objects_in_their_own_key_order(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, "{% for tool in tools %}{{ tool | tojson }}{% endfor %}")
    tool = '{"zebra": 1, "apple": {"b": null, "a": 2}}'
    assert tokenizer.render([USER], [tool]) == tool
    with pytest.raises(DataError, match="not JSON"):
        tokenizer.render([USER], ["{"])


@pytest.mark.parametrize(
    ("expression", "rendered"),
    [
        ("arguments.x", "1"),
        ("arguments | tojson", '{"x": 1, "a": 2}'),
        ("name + arguments", 'f{"x": 1, "a": 2}'),
    ],
)
def test_arguments_are_a_mapping_unless_the_template_pastes_text(
    tmp_path: Path, expression: str, rendered: str
) -> None:
    template = (
        "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call.function."
        + expression.replace("+ arguments", "+ call.function.arguments")
        + " }}{% endfor %}{% endfor %}"
    )
    call = Message("assistant", "", tool_calls=(ToolCall("f", '{"x": 1, "a": 2}', id="c1"),))
    assert make(tmp_path, template).render([USER, call]) == rendered


def test_reasoning_names_and_ids_reach_the_template(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.reasoning_content }}|{{ m.name }}|{{ m.tool_call_id }};{% endfor %}"
    )
    messages = [Message("assistant", "", reasoning="why"), Message("tool", "", tool_call_id="c1", name="f")]
    assert make(tmp_path, template).render(messages) == "why||;|f|c1;"


def test_a_date_in_the_template_never_changes_between_runs(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, "{{ strftime_now('%d %b %Y') }}{{ strftime_now(\"%Y\") }}")
    assert tokenizer.render([USER]) == TEMPLATE_DATE.strftime("%d %b %Y%Y")


def test_offsets_are_where_tokens_start_white_space_included(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    text = "é \n the<|im_end|>\n\n"
    ids, starts = tokenizer.encode(text)
    pieces = [tokenizer.decode([i], skip_special=False) for i in ids[2:]]
    assert starts[:2] == [0, 0]  # two bytes of one character
    assert [
        text[start : start + len(piece)] for start, piece in zip(starts[2:], pieces, strict=True)
    ] == pieces


def test_plain_text_gets_the_start_token_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None, add_bos=True)
    assert tokenizer.encode_plain("Hi")[0] == tokenizer.bos_id
    assert tokenizer.bos_id not in tokenizer.encode("Hi")[0]
