from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from chat_tokenizers import CHATML, write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.mask import build_examples, render_row
from tunewright.data.templates import ChatTokenizer, load_tokenizer
from tunewright.errors import DataError
from tunewright.types import Conversation, Example, Message, Row, SourceRef, TextRow, ToolCall

SOURCE = SourceRef("rows.jsonl", 7)
U1, U2 = Message("user", "One?"), Message("user", "Two?")
A1, A2 = Message("assistant", "First."), Message("assistant", "Second.")

# Renders reasoning only in the last turn, as Qwen3 and others do.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, template: str | None = CHATML, **options: object) -> ChatTokenizer:
    return load_tokenizer(write_tokenizer(folder, template, **options), None)  # type: ignore[arg-type]


def chat(*messages: Message, tools: tuple[str, ...] = ()) -> Conversation:
    return Conversation(messages, tools, SOURCE)


def settings(**values: object) -> DataConfig:
    return DataConfig.model_validate({"train": "rows.jsonl", **values})


def trained(example: Example, tokenizer: ChatTokenizer) -> list[str]:
    """Decoded stretches of tokens with a weight above 0."""
    pairs = zip(example.tokens_T.tolist(), (example.weights_T > 0).tolist(), strict=True)
    runs = [(on, [token for token, _ in run]) for on, run in groupby(pairs, key=lambda pair: pair[1])]
    return [tokenizer.decode(run, skip_special=False) for on, run in runs if on]


def trained_of(row: Row, tokenizer: ChatTokenizer, **values: object) -> list[list[str]]:
    return [trained(example, tokenizer) for example in build_examples(row, tokenizer, settings(**values))]


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", ["First.<|im_end|>\n", "Second.<|im_end|>\n"]),
        ("last_assistant", ["Second.<|im_end|>\n"]),
    ],
)
def test_trained_turns(tmp_path: Path, train_on: str, expected: list[str]) -> None:
    assert trained_of(chat(U1, A1, U2, A2), make(tmp_path), train_on=train_on) == [expected]


def test_train_on_all_trains_everything_but_the_first_token(tmp_path: Path) -> None:
    (example,) = build_examples(chat(U1, A1), make(tmp_path), settings(train_on="all"))
    assert example.weights_T.tolist() == [0, *[1] * (len(example) - 1)]


def test_weights_in_the_row_win(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    off, on = Message("assistant", "First.", weight=0), Message("assistant", "First.", weight=1)
    assert trained_of(chat(U1, off, U2, A2), tokenizer) == [["Second.<|im_end|>\n"]]
    both = trained_of(chat(U1, on, U2, A2), tokenizer, train_on="last_assistant")
    assert both == [["First.<|im_end|>\n", "Second.<|im_end|>\n"]]
    (example,) = build_examples(chat(U1, Message("assistant", "First.", weight=0.5)), tokenizer, settings())
    assert set(example.weights_T.tolist()) == {0.0, 0.5}
    (example,) = build_examples(chat(U1, off, U2, A2), tokenizer, settings(train_on="all"))
    text = tokenizer.decode(example.tokens_T[example.weights_T == 0].tolist(), skip_special=False)
    assert text == "<|im_start|>First.<|im_end|>"


def test_a_weight_has_no_place_in_a_turn_that_history_shows_differently(tmp_path: Path) -> None:
    off = Message("assistant", "First.", weight=0, reasoning="Hm, a longer thought")
    with pytest.raises(DataError) as caught:
        build_examples(chat(U1, off, U2, A2), make(tmp_path, THINKING), settings(train_on="all"))
    assert caught.value.code == "data.template-not-prefix"


def test_what_follows_the_last_trained_turn_is_left_out(tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    (longer,) = build_examples(chat(U1, A1, U2), tokenizer, settings())
    (shorter,) = build_examples(chat(U1, A1), tokenizer, settings())
    assert longer.tokens_T.tolist() == shorter.tokens_T.tolist()


def test_an_answer_that_appears_in_the_question_is_not_confused_with_it(tmp_path: Path) -> None:
    row = chat(Message("user", "Say <|im_start|>assistant\nFirst. and First."), A1)
    assert trained_of(row, make(tmp_path)) == [["First.<|im_end|>\n"]]


def test_a_token_across_the_start_of_the_turn_belongs_to_the_prompt(tmp_path: Path) -> None:
    # Two line ends merge into one token. The first is in the prompt, so inference never writes that token.
    assert trained_of(chat(U1, Message("assistant", "\n\nFirst.")), make(tmp_path)) == [
        ["\nFirst.<|im_end|>\n"]
    ]


def test_multi_byte_characters_keep_the_span_exact(tmp_path: Path) -> None:
    row = chat(Message("user", "für 日本"), Message("assistant", "日本 é 🦊"))
    assert trained_of(row, make(tmp_path)) == [["日本 é 🦊<|im_end|>\n"]]


def test_white_space_that_the_template_strips_does_not_matter(tmp_path: Path) -> None:
    template = CHATML.replace("message.content", "(message.content | trim)")
    assert trained_of(chat(U1, Message("assistant", "  First. \n")), make(tmp_path, template)) == [
        ["First.<|im_end|>\n"]
    ]


def test_every_turn_is_rendered_as_inference_sees_it(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, THINKING)
    row = chat(
        U1,
        Message("assistant", "First.", reasoning="Hm"),
        U2,
        Message("assistant", "Second.", reasoning="So"),
    )
    first, second = build_examples(row, tokenizer, settings())
    assert trained(first, tokenizer) == ["<think>Hm</think>First.<|im_end|>\n"]
    assert trained(second, tokenizer) == ["<think>So</think>Second.<|im_end|>\n"]
    for example, before in ((first, (U1,)), (second, row.messages[:3])):
        prompt = tokenizer.encode_prompt(before)
        assert example.tokens_T[: len(prompt)].tolist() == prompt
    assert first.source == second.source == SOURCE


def test_last_only_trains_the_last_rendering_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, THINKING)
    rendered = render_row(chat(U1, A1, U2, A2), tokenizer, settings(thinking="last_only"))
    assert [trained(example, tokenizer) for example in rendered.examples] == [
        ["<think></think>Second.<|im_end|>\n"]
    ]
    assert rendered.left_out == 1
    plain = make(tmp_path / "plain")
    assert render_row(chat(U1, A1, U2, A2), plain, settings(thinking="last_only")).left_out == 0


def test_drop_leaves_reasoning_out_wherever_it_is_written(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, THINKING)
    row = chat(U1, Message("assistant", "<think>\nHm\n</think>\n\nFirst.", reasoning="Hm"))
    assert trained_of(row, tokenizer, thinking="drop") == [["<think></think>First.<|im_end|>\n"]]


def test_a_turn_end_that_only_the_last_turn_has_does_not_split(tmp_path: Path) -> None:
    # Phi-3 ends the whole text with eos when no prompt follows.
    template = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    assert trained_of(chat(U1, A1, U2, A2), make(tmp_path, template)) == [
        ["First.<|im_end|>\n", "Second.<|im_end|>\n</s>"]
    ]


def test_a_template_that_closes_no_turn_is_counted_unless_the_next_opening_stops(tmp_path: Path) -> None:
    template = CHATML.replace("<|im_end|>", "")
    rendered = render_row(chat(U1, A1), make(tmp_path / "open", template), settings())
    assert rendered.missing_end == 1
    tokenizer = make(tmp_path / "stop", template, stops=("<|im_start|>",))
    rendered = render_row(chat(U1, A1, U2, A2), tokenizer, settings())
    assert rendered.missing_end == 0
    assert trained(rendered.examples[0], tokenizer) == ["First.\n<|im_start|>", "Second.\n<|im_start|>"]


def test_the_end_of_turn_is_a_label_even_when_it_is_the_pad_token(tmp_path: Path) -> None:
    template = CHATML.replace("<|im_end|>", "</s>")
    tokenizer = make(tmp_path, template)
    (example,) = build_examples(chat(U1, A1, U2, A2), tokenizer, settings())
    ends = example.weights_T[example.tokens_T == tokenizer.pad_id]
    assert ends.tolist() == [0, 1, 0, 1]


def test_a_prefilled_prompt_that_the_turn_lacks_is_counted(tmp_path: Path) -> None:
    template = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    tokenizer = make(tmp_path, template)
    rendered = render_row(chat(U1, A1), tokenizer, settings())
    assert rendered.shifted_prompts == 1
    assert trained(rendered.examples[0], tokenizer) == ["First.<|im_end|>\n"]


def test_a_prompt_that_shares_nothing_with_the_turn_is_refused(tmp_path: Path) -> None:
    template = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ 'Answer: ' }}")
    with pytest.raises(DataError, match=r"rows.jsonl:7: turn 2 does not begin") as caught:
        build_examples(chat(U1, A1), make(tmp_path, template), settings())
    assert caught.value.code == "data.template-not-prefix"


def test_an_assistant_that_speaks_first(tmp_path: Path) -> None:
    assert trained_of(chat(A1, U2, A2), make(tmp_path)) == [["First.<|im_end|>\n", "Second.<|im_end|>\n"]]
    needs_user = "{% if messages[0].role == 'none' %}{% endif %}" + CHATML
    assert trained_of(chat(A1, U2, A2), make(tmp_path / "b", needs_user))[0][0] == "First.<|im_end|>\n"


@pytest.mark.parametrize(
    "row", [chat(U1), chat(U1, Message("assistant", "First.", weight=0)), TextRow((("Hi", 0.0),), SOURCE)]
)
def test_a_row_without_a_trained_token_is_an_error(tmp_path: Path, row: Row) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:7: no token") as caught:
        build_examples(row, make(tmp_path), settings())
    assert caught.value.code == "data.no-trained-token"


def test_a_refused_row_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*no tools"):
        build_examples(chat(U1, A1), make(tmp_path, "{{ raise_exception('no tools') }}"), settings())


def test_a_doubled_bos_is_an_error(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ bos_token }}" + CHATML
    with pytest.raises(DataError, match="bos token twice"):
        build_examples(chat(U1, A1), make(tmp_path, template), settings())


def test_content_that_the_template_drops_is_named(tmp_path: Path) -> None:
    call = Message("assistant", "First.", reasoning="Because.", tool_calls=(ToolCall("look", "{}"),))
    tool = '{"type": "function", "function": {"name": "finder"}}'
    rendered = render_row(chat(U1, call, tools=(tool,)), make(tmp_path), settings())
    assert list(map(str, rendered.dropped)) == [
        "reasoning of turn 2 (assistant)",
        "tool call look of turn 2 (assistant)",
        "tool finder",
    ]
    assert render_row(chat(U1, A1), make(tmp_path), settings()).dropped == ()


def test_text_gets_its_start_tokens_and_learns_its_end(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None, add_bos=True)
    (example,) = build_examples(TextRow((("Once.", 1.0),), SOURCE), tokenizer, settings())
    assert example.tokens_T.tolist() == [tokenizer.bos_id, *tokenizer.encode("Once.")[0], tokenizer.eos_id]
    assert example.weights_T.tolist() == [0, *[1] * (len(example) - 1)]


def test_text_segments_carry_their_own_weights(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None)
    row = TextRow((("Question: ", 0.0), ("yes", 1.0)), SOURCE)
    (example,) = build_examples(row, tokenizer, settings())
    assert trained(example, tokenizer) == ["yes</s>"]


def test_a_bos_or_eos_written_in_the_text_is_not_doubled(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, None, add_bos=True)
    (written,) = build_examples(TextRow((("<s>Once.</s>", 1.0),), SOURCE), tokenizer, settings())
    (plain,) = build_examples(TextRow((("Once.", 1.0),), SOURCE), tokenizer, settings())
    assert written.tokens_T.tolist() == plain.tokens_T.tolist()


def test_types_of_an_example(tmp_path: Path) -> None:
    (example,) = build_examples(chat(U1, A1), make(tmp_path), settings())
    assert example.tokens_T.dtype == np.int32
    assert example.weights_T.dtype == np.float32
