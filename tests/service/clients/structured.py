"""Structured outputs through the clients that people use, each as its own documentation shows it.

Usage: python structured.py CLIENT, with OPENAI_BASE_URL and OPENAI_API_KEY set. It runs in an environment of
its own (`make clients`) and prints a line for each way that worked; any other ends it with an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

MODEL = "builtin:tiny"
QUESTION = "Oct 12, 2044"


class Day(BaseModel):
    """A day."""

    day: int = Field(ge=1, le=31)
    month: Literal["October", "May"]
    tags: list[Literal["a", "b"]] = Field(max_length=2)


def openai() -> None:
    from openai import OpenAI, pydantic_function_tool

    chats = OpenAI().chat.completions
    messages: Any = [{"role": "user", "content": QUESTION}]
    for temperature in (0, 1):
        asked: Any = {"model": MODEL, "messages": messages, "temperature": temperature}
        found = chats.parse(**asked, response_format=Day)
        _worked("chat.completions.parse", found.choices[0].message.parsed)
        tool = pydantic_function_tool(Day)
        for choice in ("required", {"type": "function", "function": {"name": "Day"}}):
            forced = chats.parse(**asked, tools=[tool], tool_choice=choice)
            calls = forced.choices[0].message.tool_calls or []
            _worked("forced tools", calls[0].function.parsed_arguments)
        with chats.stream(**asked, response_format=Day) as stream:
            for _ in stream:
                pass
            _worked("chat.completions.stream", stream.get_final_completion().choices[0].message.parsed)


def langchain() -> None:
    from langchain_openai import ChatOpenAI

    for temperature in (0, 1):
        model = ChatOpenAI(model=MODEL, temperature=temperature, max_tokens=400)
        _worked("json_schema", model.with_structured_output(Day, method="json_schema").invoke(QUESTION))
        _worked(
            "function_calling", model.with_structured_output(Day, method="function_calling").invoke(QUESTION)
        )
    # JSON of any form: the class would ask the model for its own.
    free = model.with_structured_output(None, method="json_mode", include_raw=True)
    _worked("json_mode", free.invoke(f"JSON: {QUESTION}")["parsed"], dict)


def instructor() -> None:
    import instructor as library

    for mode in (library.Mode.TOOLS, library.Mode.TOOLS_STRICT, library.Mode.JSON_SCHEMA):
        for temperature in (0, 1):
            client = library.from_provider(f"openai/{MODEL}", mode=mode)
            messages: Any = [{"role": "user", "content": QUESTION}]
            _worked(mode.name, client.create(response_model=Day, messages=messages, temperature=temperature))
    # The schema is in the prompt only in this mode, which a model has to follow by itself.
    client = library.from_provider(f"openai/{MODEL}", mode=library.Mode.JSON)
    found = client.create(
        response_model=_Anything, messages=[{"role": "user", "content": QUESTION}], max_tokens=300
    )
    _worked("JSON", found, _Anything)


class _Anything(BaseModel):
    model_config = {"extra": "allow"}


def pydantic_ai() -> None:
    from pydantic_ai import Agent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel

    model = OpenAIChatModel(MODEL)
    for kind in (Day, ToolOutput(Day), NativeOutput(Day)):
        for temperature in (0, 1):
            agent: Any = Agent(model, output_type=kind, model_settings={"temperature": temperature})
            _worked(getattr(kind, "__name__", type(kind).__name__), asyncio.run(agent.run(QUESTION)).output)


def llm() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
        known = {"model_id": "tiny", "model_name": MODEL, "api_base": base, "api_key_name": "tiny"}
        told = json.dumps([{**known, "supports_schema": True}])
        Path(folder, "extra-openai-models.yaml").write_text(told, encoding="utf-8")
        command = [sys.executable, "-m", "llm", "-m", "tiny", "--no-stream", "--key", key]
        environment = {**os.environ, "LLM_USER_PATH": folder}
        for temperature in ("0", "1"):
            # Its texts and numbers have no bounds, and this model does not end them by itself.
            options = ["-o", "temperature", temperature, "-o", "max_tokens", "200"]
            done = subprocess.run(
                [*command, *options, "--schema", "day int, month", QUESTION],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, env=environment,
            )  # fmt: skip
            _worked("llm --schema", _Short.model_validate_json(done.stdout), _Short)


class _Short(BaseModel):
    day: int
    month: str


def _worked(what: str, found: object, kind: type = Day) -> None:
    if not isinstance(found, kind):
        raise SystemExit(f"{what}: got {found!r}")
    sys.stdout.write(f"{what}\n")


CLIENTS = {
    "openai": openai,
    "langchain-openai": langchain,
    "instructor": instructor,
    "pydantic-ai-slim": pydantic_ai,
    "llm": llm,
}

if __name__ == "__main__":
    sys.stdout.write(f"{sys.argv[1]} {version(sys.argv[1])}\n")
    CLIENTS[sys.argv[1]]()
