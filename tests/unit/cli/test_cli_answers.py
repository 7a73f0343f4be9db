"""`generate` and `chat` on a tiny model, and the text that streams."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import make_family
from processes import child_environment, command_line
from tunewright.cli.answers import stream_text
from tunewright.cli.main import run
from tunewright.data.templates import ChatTokenizer, load_tokenizer


class Done(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("llama", tmp_path_factory.mktemp("answers") / "llama")


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> ChatTokenizer:
    return load_tokenizer(model, None)


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run one command line in this process: a new one takes seconds to load torch."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")

    def ask(*arguments: str | Path, text: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return ask


@given(st.lists(st.integers(0, 379), max_size=40))
def test_streamed_pieces_join_to_the_whole_text(tokenizer: ChatTokenizer, ids: list[int]) -> None:
    pieces = list(stream_text(iter(ids), tokenizer))
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_whole(tokenizer: ChatTokenizer) -> None:
    ids, _ = tokenizer.encode("a漢é🙂b")
    assert list(stream_text(iter(ids), tokenizer)) == ["a", "漢", "é", "🙂", "b"]


def test_generate_prints_the_answer_only(model: Path, ask: Callable[..., Done], tmp_path: Path) -> None:
    done = ask("generate", model, "--prompt", "hello", "--max-new-tokens", "8")
    assert (done.code, done.err) == (0, "")
    assert ask("generate", model, "--prompt-file", "-", "--max-new-tokens", "8", text="hello") == done
    (tmp_path / "prompt.txt").write_text("hello")
    raw = ["--raw", "--temperature", "1", "--seed", "3", "--top-k", "9", "--top-p", "0.9"]
    drawn = ask("generate", model, "--prompt-file", tmp_path / "prompt.txt", *raw)
    assert drawn.code == 0
    assert drawn.out != done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "--prompt"),
        (["--prompt", "a", "--prompt-file", "b"], 2, "--prompt"),
        (["--prompt", "a", "--raw", "--system", "b"], 2, "--raw"),
        (["--prompt-file", "absent.txt"], 1, "absent.txt"),
        (["--prompt", "", "--raw"], 1, "prompt is empty"),
        (["--prompt", "a", "--top-p", "2"], 1, "top_p"),
        (["--prompt", "a", "--adapter", "absent"], 1, "no adapter"),
        (["--prompt", "a", "--device", "tpu"], 1, "device"),
    ],
)
def test_wrong_use_is_explained(
    arguments: list[str], code: int, said: str, model: Path, ask: Callable[..., Done]
) -> None:
    done = ask("generate", model, *arguments)
    assert done.code == code
    assert said in done.err
    assert done.out == ""


def test_what_was_left_out_of_a_model_is_told(model: Path, ask: Callable[..., Done], tmp_path: Path) -> None:
    changed = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "auto_map": {}}))
    done = ask("generate", changed, "--prompt", "hello", "--max-new-tokens", "1")
    assert done.code == 0
    assert "auto_map" in done.err


def test_chat_goes_on_through_a_pipe(model: Path, ask: Callable[..., Done]) -> None:
    lines = "hello\n\nhello\n/clear\nhello\n/exit\nnever read\n"
    options = ["--temperature", "0", "--max-new-tokens", "6", "--system", "be brief"]
    done = ask("chat", model, *options, text=lines)
    assert done.code == 0
    first, second, third, *rest = done.out.split("\n")
    assert first == third != second
    assert rest == [""]
    assert "cleared" in done.err


def test_chat_tells_what_is_too_long_and_ends(model: Path, ask: Callable[..., Done]) -> None:
    done = ask("chat", model, text="word " * 600 + "\n")
    assert done.code == 1
    assert "no room" in done.err


def test_chat_in_a_terminal(model: Path, ask: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that cannot be answered does not end it; the end of the input does."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    done = ask("chat", model, "--max-new-tokens", "2", text="word " * 600 + "\nhello\n")
    assert done.code == 0
    assert done.out.count("> ") == 3
    assert "no room" in done.err


def test_generate_as_a_process_of_its_own(model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command_line(["generate", model, "--prompt", "hello", "--max-new-tokens", "2"]),
        capture_output=True, text=True, encoding="utf-8", timeout=120, env=child_environment(tmp_path, {}),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
