"""The command line as a whole: instant help, lazy commands, usage errors in our style."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tunewright import __version__
from tunewright.cli import main as cli
from tunewright.cli.lazy import Lazy, build_command

MEASURE = """
import sys, time
start = time.process_time()
import tunewright.cli.main
seconds = time.process_time() - start
heavy = {"torch", "transformers", "numpy", "pydantic", "yaml", "rich"} & set(sys.modules)
print(seconds, sorted(heavy))
"""


def test_the_command_line_imports_fast_and_light():
    seconds: list[float] = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True
        )
        taken, heavy = done.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        seconds.append(float(taken))
    assert min(seconds) < 0.3


def entries(table: dict[str, Lazy], path: tuple[str, ...] = ()):
    for name, entry in table.items():
        if isinstance(entry.target, str):
            yield (*path, name), entry
        else:
            yield from entries(entry.target, (*path, name))


LEAVES = list(entries(cli.COMMANDS))


@pytest.mark.parametrize(
    ("path", "entry"), LEAVES, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_every_command_exists_and_explains_its_options(path, entry, capsys):
    assert find_spec(entry.target.partition(":")[0])
    assert cli.run([*path, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: tunewright {' '.join(path)} ")
    command = build_command(path[-1], entry)
    assert [param.name for param in command.params if not param.help] == []


def test_help_lists_every_command_with_one_line(capsys):
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert any(line.split() == [name, *entry.help.split()] for line in out.splitlines())
    assert cli.run([]) == 0
    assert capsys.readouterr().out == out
    assert "\033" not in out


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"tunewright {__version__}\n"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["trian"], "error: no command 'trian'; did you mean train?\nhint: see tunewright --help\n"),
        (
            ["config", "sho"],
            "error: no command 'sho'; did you mean show?\nhint: see tunewright config --help\n",
        ),
        (["zzz"], "error: no command 'zzz'\nhint: see tunewright --help\n"),
        (["config"], "error: missing command\nhint: see tunewright config --help\n"),
        (["config", "show"], "error: missing argument 'FILE'\nhint: see tunewright config show --help\n"),
        (["--zzz"], "error: no such option: --zzz\nhint: see tunewright --help\n"),
    ],
)
def test_usage_errors_exit_2_in_our_style(args, error, capsys):
    assert cli.run(args) == 2
    captured = capsys.readouterr()
    assert captured.err == error
    assert captured.out == ""


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (["--resume"], "auto"),
        (["--resume", "--merge"], "auto"),
        (["--resume", "runs/a"], "runs/a"),
        ([], None),
    ],
)
def test_resume_alone_means_auto(args, value):
    command = build_command("train", cli.COMMANDS["train"])
    assert command.make_context("train", args).params["resume"] == value


@pytest.mark.parametrize("name", ["main", "train_main"])
def test_the_entry_points_end_the_process(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tunewright", "--help"])
    with pytest.raises(SystemExit) as end:
        getattr(cli, name)()
    assert end.value.code == 0
    usage = "tunewright train [OPTIONS]" if name == "train_main" else "tunewright [OPTIONS]"
    assert usage in capsys.readouterr().out
