"""Models made to hurt: what their templates and tokenizers do to a prompt ends within seconds, with a name.

Operators configure models, so these are what a careless download would bring. Each is chatted with; the API,
the model server and the answers of a good model beside it stay as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, OpenAI

from service_server import RunningServer, descendants, serve_as_process, server_pid
from tunewright.models.resolve import resolve_model

MOST_CPU_SECONDS = 5.0
MOST_GROWTH = 200 * 2**20
BOMB = "bomb"
"""Only this message sets a bomb off that would otherwise end the opening of its model already."""
ON_BOMB = "{%% if messages[0].content == 'bomb' %%}%s{%% endif %%}{{ messages[-1].content }}"
SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set ns = namespace(s='xxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
)

TEMPLATES: dict[str, tuple[str, str]] = {
    "loops without end": (ON_BOMB % SPIN, "prompt_too_costly"),
    "loops without end at once": (SPIN, "unsupported_value"),
    # Jinja computes what is constant when it reads the template.
    "a number that nothing interrupts": (ON_BOMB % "{{ (10**10)**3000000 }}", "unsupported_value"),
    "a number of the prompt": (ON_BOMB % "{{ (10**messages | length)**30000000 }}", "prompt_too_costly"),
    "a string that doubles": (ON_BOMB % DOUBLED, "prompt_too_costly"),
    "a string that doubles at once": (DOUBLED, "unsupported_value"),
    "a list that doubles": (
        ON_BOMB % DOUBLED.replace("'xxxxxxxxxx'", "[0]").replace("~", "+"),
        "prompt_too_costly",
    ),
    "a wide format": (ON_BOMB % "{{ '%2000000000d' % 1 }}", "prompt_too_costly"),
    "a long output": (
        ON_BOMB % "{% for a in range(99999) %}{% for b in range(9999) %}xxxxxxxx{% endfor %}{% endfor %}",
        "prompt_too_costly",
    ),
    "a huge range": (ON_BOMB % "{% for a in range(10**12) %}{% endfor %}", "invalid_value"),
    "deep recursion": (
        ON_BOMB % "{% macro r(n) %}{{ r(n + 1) }}{% endmacro %}{{ r(0) }}",
        "invalid_value",
    ),
    "deep brackets": ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "invalid_value"),
    "deep blocks": ("{% if 1 %}" * 200 + "{% endif %}" * 200, "unsupported_value"),
    "a long complaint": (ON_BOMB % "{{ raise_exception('x' * 30000000) }}", "invalid_value"),
    "no Jinja": ("{% if %}", "unsupported_value"),
    "a way out of the sandbox": (
        ON_BOMB % "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "invalid_value",
    ),
}


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _chained(settings: dict[str, Any]) -> None:
    chain = [_replace("abcd"[step], "bcde"[step] * 60) for step in range(4)]
    settings["normalizer"] = {"type": "Sequence", "normalizers": chain}


def _chained_decoder(settings: dict[str, Any]) -> None:
    chain = [_replace("abcd"[step], "bcde"[step] * 60) for step in range(4)]
    settings["decoder"] = {"type": "Sequence", "decoders": chain}


def _pattern_decoder(settings: dict[str, Any]) -> None:
    settings["decoder"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}


def _slow_pattern(settings: dict[str, Any]) -> None:
    settings["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "(a|a|aa)+$"}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def _many_tokens(settings: dict[str, Any]) -> None:
    vocabulary = settings["model"]["vocab"]
    vocabulary.update({f"t{number}": len(vocabulary) + number for number in range(1_000_000)})


def _long_file(settings: dict[str, Any]) -> None:
    settings["truncation"] = None
    settings["comment"] = "x" * 70 * 2**20


TOKENIZERS: dict[str, tuple[Callable[[dict[str, Any]], None], set[str]]] = {
    "replacements in a chain": (_chained, {"prompt_too_costly", "unsupported_value"}),
    "replacements in a chain when writing": (_chained_decoder, {"unsupported_value"}),
    "a pattern when writing": (_pattern_decoder, {"unsupported_value"}),
    "a pattern that takes for ever": (_slow_pattern, {"prompt_too_costly", "invalid_value"}),
    "a million tokens": (_many_tokens, {"unsupported_value"}),
    "a file of 70 MB": (_long_file, {"unsupported_value"}),
}


@dataclass(frozen=True)
class Hostile:
    """A server whose models are hostile but for builtin:tiny, and its processes."""

    client: OpenAI
    api: int
    model_server: int
    memory: tuple[int, int]
    """Of both processes once the good model has answered."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile")
    given: list[str | Path] = ["--workers", "0"]
    for name, (template, _) in TEMPLATES.items():
        given += ["--model", f"{_id(name)}={_model(folder / _id(name), template=template)}"]
    for name, (spoil, _) in TOKENIZERS.items():
        given += ["--model", f"{_id(name)}={_model(folder / _id(name), spoil=spoil)}"]
    with serve_as_process(folder, *given) as running, running.client(max_retries=0, timeout=120) as client:
        _chat(client, "builtin:tiny", "Oct 12, 2044")
        api, model_server = server_pid(running), _model_server(running)
        yield Hostile(client, api, model_server, (_memory(api), _memory(model_server)))


def _id(name: str) -> str:
    return name.replace(" ", "-")


def _model(
    folder: Path, template: str | None = None, spoil: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    folder.mkdir()
    for path in resolve_model("builtin:tiny").folder.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    if template is not None:
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if spoil is not None:
        settings = json.loads((folder / "tokenizer.json").read_bytes())
        spoil(settings)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _model_server(running: RunningServer) -> int:
    for pid in descendants(server_pid(running)):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"tunewright.inference.serving" in words:
            return pid
    raise AssertionError("no model server runs")


def _memory(pid: int, name: str = "VmRSS") -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def _cpu_seconds(*pids: int) -> float:
    """Of these processes and of those of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _chat(client: OpenAI, model: str, text: str) -> str:
    message: Any = {"role": "user", "content": text}
    answer = client.chat.completions.create(model=model, messages=[message], max_tokens=8, temperature=0)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("name", [*TEMPLATES, *TOKENIZERS])
def test_a_hostile_model_is_refused_by_name(name: str, hostile: Hostile) -> None:
    codes = {TEMPLATES[name][1]} if name in TEMPLATES else TOKENIZERS[name][1]
    text = "a" * 60 + "!" if name in TOKENIZERS else BOMB
    before = _cpu_seconds(hostile.api, hostile.model_server)
    with pytest.raises(BadRequestError) as refused:
        _chat(hostile.client, _id(name), text)
    assert _cpu_seconds(hostile.api, hostile.model_server) - before < MOST_CPU_SECONDS
    error = refused.value
    assert error.code in codes, error.message
    assert error.param in ("messages", "model")
    assert len(error.message) < 2000
    assert "/tmp" not in error.message
    for pid, memory in zip((hostile.api, hostile.model_server), hostile.memory, strict=True):
        assert _memory(pid, "VmHWM") - memory < MOST_GROWTH


def test_a_good_model_answers_beside_them_all(hostile: Hostile) -> None:
    told = _chat(hostile.client, "builtin:tiny", "Oct 12, 2044")
    with pytest.raises(APIStatusError):
        _chat(hostile.client, _id("loops without end"), BOMB)
    assert _chat(hostile.client, "builtin:tiny", "Oct 12, 2044") == told
    # Harmless prompts of a model with a bomb in it are answered.
    assert _chat(hostile.client, _id("loops without end"), "hello") is not None
