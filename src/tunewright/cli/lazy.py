"""Command groups that import a command when it is used: a module path and a line of help until then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not imported yet. target: `module:function`, or the commands of a group.

    bare: options that may stand without a value, and the value they then mean.
    """

    help: str
    target: str | Mapping[str, Lazy]
    bare: tuple[tuple[str, str], ...] = ()


def lazy_group(table: Mapping[str, Lazy]) -> type[TyperGroup]:
    """A group class for `typer.Typer(cls=…)` that looks its commands up in `table`."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(table)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in table:
                return build_command(cmd_name, table[cmd_name])
            near = get_close_matches(cmd_name, table, n=1)
            return ctx.fail(f"no command {cmd_name!r}" + (f"; did you mean {near[0]}?" if near else ""))

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, entry.help) for name, entry in table.items()])

    return LazyGroup


def build_command(name: str, entry: Lazy) -> Any:
    """Import a command and turn it into what Typer runs."""
    if not isinstance(entry.target, str):
        group = typer.Typer(cls=lazy_group(entry.target), **PLAIN, help=entry.help)
        group.callback()(_no_options)
        command = typer.main.get_command(group)
        command.name = name
        return command
    module, _, function = entry.target.partition(":")
    single = typer.Typer(**PLAIN)
    single.command(name)(getattr(import_module(module), function))
    command = typer.main.get_command(single)
    if entry.bare:
        command.parse_args = _with_bare_options(command.parse_args, dict(entry.bare))
    return command


# Plain help reads the same in a terminal, a pipe and the reference page, and does not load rich.
PLAIN: Any = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


def _no_options() -> None:
    """A group takes no options of its own."""


def _with_bare_options(parse: Any, bare: Mapping[str, str]) -> Any:
    """Give an option that stands alone, or before another option, the value it means."""

    def parse_args(ctx: Any, args: list[str]) -> Any:
        given: list[str] = []
        for position, word in enumerate(args):
            given.append(word)
            following = args[position + 1] if position + 1 < len(args) else "-"
            if word in bare and following.startswith("-"):
                given.append(bare[word])
        return parse(ctx, given)

    return parse_args
