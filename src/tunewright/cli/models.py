"""`tunewright models`: the models of a server, for a terminal."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.program import program_name
from tunewright.cli.service import SERVER, UserKeyOption, UserServerOption, check_installed, require_key


def list_(server: UserServerOption = SERVER, key: UserKeyOption = None) -> None:
    """List the base models and the fine-tuned models of the key's project."""
    check_installed()
    from tunewright.service.model_download import list_model_names

    for name in list_model_names(server, require_key(key)):
        typer.echo(name)


def download(
    name: Annotated[str, typer.Argument(help="Name of a fine-tuned model or a checkpoint, ft:….")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. Default: one here, called as the model.")
    ] = None,
    server: UserServerOption = SERVER,
    key: UserKeyOption = None,
) -> None:
    """Fetch a fine-tuned model: an adapter in PEFT's format, or whole weights, with the tokenizer.

    The folder is made once everything is there and its hash is right. A transfer that breaks off begins anew.
    """
    check_installed()
    from tunewright.service.model_download import download_model

    folder = out or Path(re.sub(r"[^A-Za-z0-9._-]", "-", name))
    download_model(server, require_key(key), name, folder, lambda line: typer.echo(line, err=True))
    typer.echo(f"downloaded: {folder}")
    if (folder / "adapter_config.json").is_file():
        typer.echo(f"in PEFT: PeftModel.from_pretrained(base, {str(folder)!r})")
    typer.echo(f"try it with: {shlex.join([program_name(), 'chat', str(folder)])}")
