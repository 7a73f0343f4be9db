"""The options of `tunewright serve`, each a flag, a variable and a key of TOML, and what their texts mean."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.service import Inference

if TYPE_CHECKING:
    from tunewright.service.settings import Limits, Tls

LONGEST_NAME = 96
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
"""No part is empty, `.` or `..`: proxies would take it for a way to another path."""
HostOption = Annotated[
    str, typer.Option(envvar="TUNEWRIGHT_HOST", help="Address to listen on; 0.0.0.0 lets other machines in.")
]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, envvar="TUNEWRIGHT_PORT", help="Port; 0 takes a free one.")
]
WorkersOption = Annotated[
    int, typer.Option(min=0, envvar="TUNEWRIGHT_WORKERS", help="Workers started on this machine.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME=MODEL",
        envvar="TUNEWRIGHT_MODELS",
        help="Offer a base model: a hub id or a folder. Repeatable.",
    ),
]
LeaseSecondsOption = Annotated[
    float,
    typer.Option(
        min=1,
        envvar="TUNEWRIGHT_LEASE_SECONDS",
        help="A job whose worker is silent for so long is given to another one.",
    ),
]
LimitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        envvar="TUNEWRIGHT_LIMITS",
        help="What a key or project may take, such as project_jobs=20; 0 is no limit. Repeatable.",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(envvar="TUNEWRIGHT_TLS_CERT", help="Certificate with its chain, PEM. Needs --tls-key."),
]
TlsKeyOption = Annotated[
    Path | None, typer.Option(envvar="TUNEWRIGHT_TLS_KEY", help="Private key of the certificate, PEM.")
]
ProxyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        envvar="TUNEWRIGHT_PROXY",
        help="Proxy, or a network of them, whose X-Forwarded-For says who calls. Repeatable.",
    ),
]
CorsOriginOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        envvar="TUNEWRIGHT_CORS_ORIGIN",
        help="Origin whose pages may call from a browser, such as https://app.example.org; `*` is every one. "
        "Repeatable.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TUNEWRIGHT_DATA_DIR", help="Folder whose files jobs may name in place of an upload."
    ),
]
InferenceOption = Annotated[
    Inference,
    typer.Option(
        envvar="TUNEWRIGHT_INFERENCE",
        help="Answer chats: `wait` on the accelerator, but not while a job trains on it; `cpu` always; "
        "`off` never.",
    ),
]
InferenceMemoryOption = Annotated[
    float,
    typer.Option(
        min=0,
        envvar="TUNEWRIGHT_INFERENCE_MEMORY",
        help="GiB that models loaded for chats may take; 0 is a quarter of the memory.",
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Say whether the server could start, and start nothing.")
]


def read_models(texts: Iterable[str]) -> dict[str, str]:
    """Base models by name. A folder is told by its absolute path. Raises typer.BadParameter."""
    return dict(map(_read_model, texts))


def read_limits(texts: Iterable[str]) -> Limits:
    """The defaults with these in their place. Raises typer.BadParameter."""
    from tunewright.service.settings import UNLIMITED_BY_ZERO, Limits

    names = [field.name for field in dataclasses.fields(Limits)]
    given: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names or not number.isdecimal():
            raise typer.BadParameter(
                f"--limit {text} is not NAME=NUMBER with a whole number and one of {', '.join(names)}"
            )
        given[name] = int(number)
        if not given[name] and name not in UNLIMITED_BY_ZERO:
            raise typer.BadParameter(f"--limit {text}: {name} has to be 1 or more")
    return Limits(**given)


def read_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """Both files or none. Raises typer.BadParameter."""
    from tunewright.service.settings import Tls

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key belong together")
    return Tls(certificate, key)


def read_proxies(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses and networks. Raises typer.BadParameter."""
    given = tuple(texts)
    for text in given:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise typer.BadParameter(
                f"--proxy {text} is no address or network, such as 10.0.0.0/8"
            ) from error
    return given


def read_origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Origins of pages. Raises typer.BadParameter."""
    from tunewright.service.cross_origin import is_origin

    given = tuple(texts)
    for text in given:
        if not is_origin(text):
            raise typer.BadParameter(
                f"--cors-origin {text} is no origin, such as https://app.example.org, in lower case and "
                "without a path"
            )
    return given


def read_data_dir(given: Path | None) -> Path | None:
    """The folder by its absolute path. Raises typer.BadParameter."""
    if given is not None and not given.expanduser().is_dir():
        raise typer.BadParameter(f"--data-dir {given} is not a folder")
    return given.expanduser().absolute() if given else None


def _read_model(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not model or len(name) > LONGEST_NAME or not _NAME.fullmatch(name) or name.startswith("ft:"):
        raise typer.BadParameter(
            f"--model {text} is not NAME=MODEL, such as qwen=Qwen/Qwen3-0.6B; a name has letters, digits, "
            f"`.`, `_`, `:` and `-`, with `/` between its parts, {LONGEST_NAME} at most, and is no `ft:…`"
        )
    folder = Path(model).expanduser()
    return name, str(folder.resolve()) if folder.is_dir() else model
