"""The command line: one table of commands, and the process edge around them.

Commands are imported when they are used, so that `tunewright --help` is instant and `config check` loads no
torch. To add one: a file in this folder with the function, and a line in COMMANDS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tunewright import __version__
from tunewright.cli.edge import exit_code_of
from tunewright.cli.lazy import PLAIN, Lazy, lazy_group
from tunewright.host_cpu import limit_spinning

COMMANDS: dict[str, Lazy] = {
    "demo": Lazy(
        "Teach the bundled model a small skill, and see it before and after", "tunewright.cli.demo:command"
    ),
    "train": Lazy(
        "Fine-tune a model from a run file", "tunewright.cli.train:command", bare=(("--resume", "auto"),)
    ),
    "plan": Lazy("Estimate the memory and time of a run before it loads", "tunewright.cli.plan:command"),
    "generate": Lazy("Answer one prompt with a model, an export or a run", "tunewright.cli.generate:command"),
    "chat": Lazy("Talk with a model, an export or a run", "tunewright.cli.chat:command"),
    "serve": Lazy(
        "Serve the OpenAI fine-tuning API with a queue and a worker", "tunewright.cli.serve:command"
    ),
    "worker": Lazy("Train the jobs of a server on this machine", "tunewright.cli.worker:command"),
    "jobs": Lazy(
        "Look after the jobs of a server",
        {
            "list": Lazy("List the newest jobs", "tunewright.cli.jobs:list_"),
            "show": Lazy("Print a job as JSON", "tunewright.cli.jobs:show"),
            "watch": Lazy("Print the events of a job until it is over", "tunewright.cli.jobs:watch"),
            "pause": Lazy("Stop a job with everything saved", "tunewright.cli.jobs:pause"),
            "resume": Lazy("Let a paused job go on", "tunewright.cli.jobs:resume"),
            "cancel": Lazy("Cancel a job", "tunewright.cli.jobs:cancel"),
        },
    ),
    "models": Lazy(
        "List and fetch the models of a server",
        {
            "list": Lazy("List base models and fine-tuned ones", "tunewright.cli.models:list_"),
            "download": Lazy("Fetch a fine-tuned model into a folder", "tunewright.cli.models:download"),
        },
    ),
    "key": Lazy(
        "Make and revoke the API keys of a server",
        {
            "create": Lazy("Make a key and print it, once", "tunewright.cli.key:create"),
            "list": Lazy("List the keys, without their secrets", "tunewright.cli.key:list_"),
            "revoke": Lazy("End a key now", "tunewright.cli.key:revoke"),
            "rotate": Lazy("Give a key a new secret and print it, once", "tunewright.cli.key:rotate"),
            "reset": Lazy("End every key, when the pepper of the server is lost", "tunewright.cli.key:reset"),
        },
    ),
    "db": Lazy(
        "Upgrade or move the database of a server",
        {
            "upgrade": Lazy("Bring the database to the newest schema", "tunewright.cli.db:upgrade"),
            "copy": Lazy("Copy everything into an empty database", "tunewright.cli.db:copy"),
        },
    ),
    "data": Lazy(
        "Check training data before it trains",
        {
            "check": Lazy("Report what training would make of a data file", "tunewright.cli.data:check"),
            "show": Lazy("Print one row with its trained tokens marked", "tunewright.cli.data:show"),
        },
    ),
    "config": Lazy(
        "Check and explain a run file",
        {
            "check": Lazy("Name everything wrong with a run file", "tunewright.cli.config:check"),
            "show": Lazy("Print each setting and where its value comes from", "tunewright.cli.config:show"),
        },
    ),
}

app = typer.Typer(cls=lazy_group(COMMANDS), **PLAIN)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tunewright {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune language models on the hardware you have, from one YAML file."""


def main() -> None:
    """Run the command line and end the process with a code of errors.ExitCode, 130 (Ctrl-C) or 141 (pipe)."""
    sys.exit(run(sys.argv[1:]))


def train_main() -> None:
    """The short name `mlx-train`: the same as `tunewright train`."""
    sys.exit(run(["train", *sys.argv[1:]]))


def serve_main() -> None:
    """The short name `mlx-serve`: the same as `tunewright serve`."""
    sys.exit(run(["serve", *sys.argv[1:]]))


def run(args: Sequence[str]) -> int:
    """The exit code of one command line, everything told on stdout and stderr."""
    limit_spinning(os.environ)
    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_characters(stream)
    return exit_code_of(lambda: _invoke(list(args) or ["--help"]))


def _invoke(args: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    with command.make_context("tunewright", args) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else 0


def _never_fail_on_characters(stream: Any) -> None:
    # A terminal that cannot show a character of the data must not end a run.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
