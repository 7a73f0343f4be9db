"""Our loss mask on stock chat templates against generation marks in TRL's training twins of them.

The stock templates of most families carry no generation marks. TRL ships a twin with marks for each; the
mask that we find without marks must equal the twin's, or the difference stands below with its reason.
A difference that vanishes, changes or appears fails the test.
"""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from chat_tokenizers import write_tokenizer
from tunewright.config.schema import DataConfig
from tunewright.data.mask import build_examples
from tunewright.data.templates import TEMPLATE_DATE, ChatTokenizer, load_tokenizer
from tunewright.errors import DataError
from tunewright.types import Conversation, Message, SourceRef, ToolCall

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None
assert _TRL.origin is not None
TEMPLATES = Path(_TRL.origin).parent / "chat_templates"

# Templates of models with images, which take content as a list of parts, are not chat text.
NOT_TEXT = {"idefics3", "llava_next", "smolvlm"}
FAMILIES = sorted(
    path.stem.removesuffix("_training")
    for path in TEMPLATES.glob("*_training.jinja")
    if path.stem.removesuffix("_training") not in NOT_TEXT
)
DATE_CALL = re.compile(r"""strftime_now\(["'](.*?)["']\)""")
STOPS = {"glm4moe": ("<|user|>", "<|observation|>")}

TOOL = json.dumps(
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Look up weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
)
CALL = ToolCall("weather", '{"city": "Rome"}', id="call00001")
USER, ANSWER = Message("user", "Hi there"), Message("assistant", "Hello you.")
SCENARIOS: dict[str, tuple[tuple[Message, ...], tuple[str, ...]]] = {
    "single": ((USER, ANSWER), ()),
    "system": ((Message("system", "Be brief."), USER, ANSWER), ()),
    "multi": ((USER, ANSWER, Message("user", "More?"), Message("assistant", "Yes, more.")), ()),
    "tools": (
        (
            Message("user", "Weather in Rome?"),
            Message("assistant", "", tool_calls=(CALL,)),
            Message("tool", "sunny", tool_call_id="call00001", name="weather"),
            Message("assistant", "It is sunny."),
        ),
        (TOOL,),
    ),
    "reasoning": (
        (
            USER,
            Message("assistant", "Hello you.", reasoning="They greet."),
            Message("user", "More?"),
            Message("assistant", "Yes, more.", reasoning="Sure thing."),
        ),
        (),
    ),
}

HEADER = "the twin also trains the header, which the generation prompt already holds"
NEWLINE = "the twin also trains the line end after the header, which the generation prompt already holds"
PREFILL = "the generation prompt already holds the opening of the reasoning, so the model never writes it"
HISTORY = "the template renders a turn differently once it is history; the twin trains text never seen then"
TOOL_OUTPUT = (
    "the template opens the next model turn after a tool response only in history, so the model writes it"
)
REFUSED = "the template refuses tool turns (Gemma: system turns too); the twin refuses them as well"

EMPTY_TURN = "the template drops the tool calls, and we refuse to train the empty turn that is left"

# What differs, why, and in which families and scenarios.
EXPLAINED: tuple[tuple[str, str, str], ...] = (
    ("data.template-refused", REFUSED, "gemma/system"),
    (
        "data.turn-dropped",
        EMPTY_TURN,
        "cohere/tools cohere2/tools deepseek_r1_distill/tools gemma/tools gemma3/tools lfm2/tools "
        "llama3/tools phi3/tools phi3_5/tools qwen2_5_vl/tools",
    ),
    (
        "only twin: <｜Assistant｜>",
        HEADER,
        "deepseek_r1_distill/single deepseek_r1_distill/system deepseek_r1_distill/multi "
        "deepseek_r1_distill/reasoning deepseekv3/single deepseekv3/system deepseekv3/multi "
        "deepseekv3/reasoning",
    ),
    (
        "only twin: <｜Assistant｜> · only twin: <｜tool▁outputs▁end｜>",
        HEADER,
        "deepseekv3/tools",
    ),
    (
        "only twin: <|start|>assistant",
        HEADER,
        "gptoss/single gptoss/system gptoss/tools muse_glimmer/single muse_glimmer/system muse_glimmer/multi "
        "muse_glimmer/tools muse_glimmer/reasoning",
    ),
    ("only twin: \n", NEWLINE, "qwen2_5/single qwen2_5/system qwen2_5/multi qwen2_5/tools qwen2_5/reasoning"),
    (
        "only twin: <think>\n\n</think>\n\n",
        PREFILL,
        "qwen3_5_nothink/single qwen3_5_nothink/system qwen3_5_nothink/tools",
    ),
    (
        # The second line end belongs to the answer but shares a token with the first: the prompt has it.
        "only twin: <think>\n\n",
        PREFILL,
        "qwen3_5_think/single qwen3_5_think/system qwen3_5_think/tools qwen3_6/single qwen3_6/system "
        "qwen3_6/tools qwen3_8/single qwen3_8/system qwen3_8/multi qwen3_8/tools",
    ),
    ("only twin: <think>\n", PREFILL, "qwen3_8/reasoning"),
    ("only ours: <|tool_response> · only ours: <|turn>model\n", TOOL_OUTPUT, "diffusion_gemma/tools"),
    (
        "2 renderings",
        HISTORY,
        "diffusion_gemma/reasoning glm4moe/reasoning gptoss/multi gptoss/reasoning qwen3/multi qwen3/tools "
        "qwen3/reasoning nemotron_3_5_lightning/reasoning nemotron_3_nano/reasoning "
        "nemotron_3_super/reasoning nemotron_3_ultra/reasoning qwen3_5_nothink/multi "
        "qwen3_5_nothink/reasoning qwen3_5_think/multi qwen3_5_think/reasoning "
        "qwen3_6/multi qwen3_6/reasoning",
    ),
)
DIFFERENCES = {name: (what, why) for what, why, names in EXPLAINED for name in names.split()}


def test_every_mask_equals_the_generation_marks_or_the_difference_is_explained(tmp_path: Path) -> None:
    found: dict[str, str] = {}
    for family in FAMILIES:
        stock = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
        folder = write_tokenizer(tmp_path / family, stock, stops=STOPS.get(family, ()))
        tokenizer = load_tokenizer(folder, None)
        for scenario in SCENARIOS:
            difference = compare(tokenizer, family, scenario)
            if difference:
                found[f"{family}/{scenario}"] = difference
    assert found == {name: what for name, (what, _) in DIFFERENCES.items()}


def test_the_figures_in_the_documentation() -> None:
    explained = [(*name.split("/"), why) for name, (_, why) in DIFFERENCES.items()]
    differs = {
        f for f, scenario, why in explained if why not in (REFUSED, EMPTY_TURN) and scenario != "reasoning"
    }
    assert len(FAMILIES) == 28
    assert len(FAMILIES) - len(differs) == 17


@pytest.mark.parametrize("family", ["llama3", "qwen3", "gemma3", "gptoss", "phi3"])
def test_the_stock_template_has_no_marks_so_that_the_comparison_means_something(family: str) -> None:
    assert "generation %}" not in (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")


def compare(tokenizer: ChatTokenizer, family: str, scenario: str) -> str:
    """Empty when ids and masks are equal, else what differs."""
    messages, tools = SCENARIOS[scenario]
    row = Conversation(messages, tools, SourceRef("rows.jsonl", 1))
    try:
        examples = build_examples(row, tokenizer, DataConfig(train="rows.jsonl"))
    except DataError as error:
        if error.code != "data.turn-dropped":
            with pytest.raises(Exception, match=r"alternate|not supported"):
                twin_mask(tokenizer, family, scenario)
        return error.code
    ids, mask = twin_mask(tokenizer, family, scenario)
    if len(examples) > 1:
        return f"{len(examples)} renderings"
    if examples[0].tokens_T.tolist() != ids:
        return "other text"
    ours = [weight > 0 for weight in examples[0].weights_T.tolist()]
    only = [
        ("both" if a == b else "ours" if a else "twin", i) for a, b, i in zip(ours, mask, ids, strict=True)
    ]
    runs = [
        (who, [i for _, i in run]) for who, run in groupby(only, key=lambda pair: pair[0]) if who != "both"
    ]
    texts = dict.fromkeys(f"only {who}: {tokenizer.decode(run, skip_special=False)}" for who, run in runs)
    return " · ".join(texts)


def twin_mask(tokenizer: ChatTokenizer, family: str, scenario: str) -> tuple[list[int], list[bool]]:
    """Token ids and assistant mask by transformers from TRL's training template."""
    from transformers import PreTrainedTokenizerFast

    messages, tools = SCENARIOS[scenario]
    twin = (TEMPLATES / f"{family}_training.jinja").read_text(encoding="utf-8")
    twin = DATE_CALL.sub(lambda match: repr(TEMPLATE_DATE.strftime(match.group(1))), twin)
    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, bos_token="<s>", eos_token="</s>", chat_template=twin
    )
    out = fast.apply_chat_template(
        [as_chat(message) for message in messages],
        tools=[json.loads(tool) for tool in tools] or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return out["input_ids"], [bool(m) for m in out["assistant_masks"]]


def as_chat(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        chat["reasoning_content"] = message.reasoning
    if message.tool_calls:
        chat["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.name, "arguments": json.loads(c.arguments)},
            }
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        chat |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return chat
