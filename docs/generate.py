"""Write the reference pages from what the program itself says: `python docs/generate.py [--check]`.

config.md comes from the docstrings of config/schema.py, cli.md from the commands, api.md from the OpenAPI
document and recorded examples. With --check nothing is written, and the exit code is 1 when a page differs
from what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from api_reference import api_page

from tunewright.cli.lazy import Lazy, build_command
from tunewright.cli.main import COMMANDS, app
from tunewright.config.faults import shown
from tunewright.config.layers import preset_names, read_preset_text
from tunewright.config.settings import Setting, list_settings
from tunewright.errors import ExitCode

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs`; change the source and run it again. -->"


def main(args: list[str]) -> int:
    """Write the pages, or with --check compare them. Returns the exit code."""
    stale = [path for path, build in PAGES.items() if _read(path) != build()]
    if "--check" in args:
        for path in stale:
            typer.echo(f"{path} is out of date; run `make docs`", err=True)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[path](), encoding="utf-8")
        typer.echo(f"written: {path}")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def config_page() -> str:
    """The reference of every setting and preset."""
    return "\n".join([NOTE, *_config_intro(), *_sections(), *_presets()]) + "\n"


def _config_intro() -> Iterator[str]:
    yield "# The run file"
    yield ""
    yield "A run file is YAML. `model` and `data.train` are enough; everything else has a default:"
    yield ""
    yield from ("```yaml", "model: builtin:tiny", "data: {train: rows.jsonl}", "```")
    yield ""
    yield "- YAML 1.2 rules: `1e-5` is a number, `no` is text, `010` is ten. A key may be set once."
    yield "- The first that has a value wins: `--set key=value`, the run file, its `preset`, the default."
    yield "- `--set data.train.0.weight=2` reaches into lists, counted from 0. The value is YAML as well."
    yield "- Relative paths are relative to the run file."
    yield "- `tunewright config show FILE` prints each value and where it came from."
    yield "- `tunewright config check FILE` names every fault."


def _sections() -> Iterator[str]:
    settings = list_settings()
    top = [setting for setting in settings if "." not in setting.path and not setting.section]
    yield from _table("Top level", "", [_PRESET, *top])
    for section in (setting for setting in settings if setting.section):
        inside = [
            item for item in settings if _parent(item) == _prefix(section, settings) and not item.section
        ]
        yield from _table(f"`{section.path}`", _section_help(section), inside)


_PRESET = Setting(
    "preset", "the name of a preset", "Shipped settings to start from; see below.", False, False, None, None
)


def _prefix(section: Setting, settings: tuple[Setting, ...]) -> str:
    listed = f"{section.path}.*"
    return listed if any(item.path.startswith(listed) for item in settings) else section.path


def _parent(setting: Setting) -> str:
    return setting.path.rpartition(".")[0]


def _section_help(section: Setting) -> str:
    short = (
        f" Short form: `{section.path.rpartition('.')[2]}: {section.short_form.upper()}`."
        if section.short_form
        else ""
    )
    return f"{section.help}{short}"


def _table(title: str, text: str, settings: list[Setting]) -> Iterator[str]:
    yield from ("", f"## {title}")
    if text:
        yield from ("", text)
    yield from ("", "| key | accepts | default | |", "| --- | --- | --- | --- |")
    for setting in settings:
        default = "required" if setting.required else f"`{shown(setting.default)}`"
        key = setting.path.rpartition(".")[2]
        yield f"| `{key}` | {_cell(setting.kind)} | {default} | {_cell(setting.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _presets() -> Iterator[str]:
    yield from (
        "",
        "## Presets",
        "",
        "`preset: NAME` starts from one of these; the run file's own settings win.",
    )
    for name in preset_names():
        yield from ("", f"### `{name}`", "", "```yaml", read_preset_text(name).rstrip(), "```")


def cli_page() -> str:
    """The reference of every command."""
    group: Any = typer.main.get_command(app)
    lines = [NOTE, "# The command line", "", f"{group.help}", ""]
    lines += ["Log and errors go to stderr, data to stdout. `mlx-train` is short for `tunewright train`."]
    for name, entry in COMMANDS.items():
        lines += _commands(f"tunewright {name}", entry)
    return "\n".join([*lines, *_exit_codes()]) + "\n"


def _commands(path: str, entry: Lazy) -> Iterator[str]:
    if not isinstance(entry.target, str):
        for name, inner in entry.target.items():
            yield from _commands(f"{path} {name}", inner)
        return
    command = build_command(path.rpartition(" ")[2], entry)
    with typer.Context(command, info_name=path, terminal_width=100, max_content_width=100) as context:
        text = command.get_help(context)
    yield from ("", f"## `{path}`", "", "```text", text.rstrip(), "```")


def _exit_codes() -> Iterator[str]:
    meanings = {
        ExitCode.DONE: "done",
        ExitCode.USER_ERROR: "a setting, file or model is wrong",
        ExitCode.USAGE: "the command line is wrong",
        ExitCode.DATA_ERROR: "the training data is wrong",
        ExitCode.OUT_OF_MEMORY: "the device has no memory left",
        ExitCode.PREEMPTED: "stopped before the end; `--resume` goes on",
        ExitCode.STALLED: "training made no progress",
        ExitCode.INTERNAL: "a fault of tunewright; the message names the file with the traceback",
    }
    yield from ("", "## Exit codes", "", "| code | meaning |", "| --- | --- |")
    for code in ExitCode:
        yield f"| {int(code)} | {meanings[code]} |"
    yield "| 130 | interrupted by Ctrl-C |"
    yield "| 141 | the reader of the output went away |"


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "config.md": config_page,
    REFERENCE / "cli.md": cli_page,
    REFERENCE / "api.md": lambda: f"{NOTE}\n{api_page()}",
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
