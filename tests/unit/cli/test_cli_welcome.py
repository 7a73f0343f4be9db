"""What `serve` prints once it answers."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tunewright.cli.service import HOME
from tunewright.cli.welcome import welcome

URL = "http://127.0.0.1:8200"


def test_a_first_start_shows_the_key_and_the_two_variables():
    text = "\n".join(welcome(URL, "ftk_secret", HOME.expanduser()))
    assert "admin key, shown this once: ftk_secret" in text
    assert f"serving at {URL}/v1 (health: {URL}/health)" in text
    assert f"  export OPENAI_BASE_URL={URL}/v1\n  export OPENAI_API_KEY=ftk_secret\n" in text
    assert "key create" not in text


def test_a_later_start_says_how_to_make_a_key_for_this_home():
    home = Path("/some where/else")
    lines = list(welcome(URL, None, home))
    assert not any("admin key" in line for line in lines)
    command = next(line for line in lines if "OPENAI_API_KEY" in line).partition("$(")[2].rstrip(")")
    assert shlex.split(command)[-5:] == ["key", "create", "NAME", "--home", str(home)]


def test_the_usual_home_is_not_named():
    assert not any("--home" in line for line in welcome(URL, None, HOME.expanduser()))


def test_make_serve_names_its_next_target_as_it_has_to_be_called(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_NEXT", "make demo-service")
    usual = "\n".join(welcome(URL, None, HOME.expanduser()))
    assert "or see it work: make demo-service\n" in usual
    other = list(welcome("http://127.0.0.1:9", None, Path("/a b")))
    [line] = [line for line in other if "make demo-service" in line]
    assert shlex.split(line)[-2:] == ["SERVER=http://127.0.0.1:9", "HOME_FOLDER=/a b"]
