"""`tunewright data check` and `data show`: look at data as the model would see it, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from tunewright.config.schema import DataConfig
    from tunewright.data.report import DataReport
    from tunewright.data.templates import ChatTokenizer
    from tunewright.types import Example, Row

_FORMATS = Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "text"]
_File = Annotated[Path, typer.Argument(help="Data file (.json, .jsonl, .parquet, .csv) or a folder of them.")]
_Model = Annotated[str, typer.Option(help="Model whose tokenizer and chat template are used.")]
_Format = Annotated[_FORMATS, typer.Option("--format", help="Row format; `auto` decides from the keys.")]
_Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="FIELD=NAME", help="Name in the file of a field of the format. Repeatable."
    ),
]
_TrainOn = Annotated[
    Literal["assistant", "last_assistant", "all"], typer.Option(help="Turns that are trained.")
]
_Thinking = Annotated[
    Literal["as_at_inference", "last_only", "drop"],
    typer.Option(help="Reasoning that the template drops later."),
]
_ControlTokens = Annotated[
    Literal["text", "parse"], typer.Option(help="Control tokens that content spells: plain text, or tokens.")
]
_Template = Annotated[Path | None, typer.Option(help="Jinja chat template that replaces the model's own.")]

OPEN, CLOSE = "⟦", "⟧"
"""Marks around trained tokens, for eyes and terminals without colour."""


def check(  # noqa: PLR0913 - one parameter an option
    file: _File,
    model: _Model = "builtin:tiny",
    format_: _Format = "auto",
    columns: _Columns = None,
    seq_len: Annotated[int, typer.Option(min=8, help="Longest row in tokens.")] = 2048,
    overlong: Annotated[
        Literal["error", "truncate", "split", "drop"], typer.Option(help="What happens to longer rows.")
    ] = "error",
    train_on: _TrainOn = "assistant",
    thinking: _Thinking = "as_at_inference",
    control_tokens: _ControlTokens = "text",
    chat_template: _Template = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check every row of a data file as training would read it, and report what was found.

    Exits with 3 when rows cannot be trained on.
    """
    from tunewright.data.prepare import check_data
    from tunewright.data.prepared import check_prepared
    from tunewright.errors import ExitCode

    data = _build_config(
        file,
        format_,
        columns,
        seq_len=seq_len,
        overlong=overlong,
        train_on=train_on,
        thinking=thinking,
        control_tokens=control_tokens,
    )
    tokenizer = _load_tokenizer(model, chat_template)
    checked = check_data(data, tokenizer, Path.cwd(), lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(checked.report.to_json(), ensure_ascii=False))
    else:
        _print_report(checked.report)
    if checked.report.errors:
        raise typer.Exit(int(ExitCode.DATA_ERROR))
    check_prepared(checked, data)


def show(  # noqa: PLR0913 - one parameter an option
    file: _File,
    model: _Model = "builtin:tiny",
    row: Annotated[
        int, typer.Option(min=1, help="Line of a JSONL or CSV file, else number of the row, from 1.")
    ] = 1,
    format_: _Format = "auto",
    columns: _Columns = None,
    train_on: _TrainOn = "assistant",
    thinking: _Thinking = "as_at_inference",
    control_tokens: _ControlTokens = "text",
    chat_template: _Template = None,
    ids: Annotated[bool, typer.Option("--ids", help="One token a line: id, weight and text.")] = False,
) -> None:
    """Show one row as the model sees it, with trained tokens in green between ⟦ and ⟧."""
    from rich.console import Console

    from tunewright.data.mask import render_row

    tokenizer = _load_tokenizer(model, chat_template)
    data = _build_config(
        file, format_, columns, train_on=train_on, thinking=thinking, control_tokens=control_tokens
    )
    chosen = _read_row(data, row)
    rendered = render_row(chosen, tokenizer, data)
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    for number, example in enumerate(rendered.examples, start=1):
        trained = int((example.weights_T > 0).sum())
        part = f" example {number} of {len(rendered.examples)}:" if len(rendered.examples) > 1 else ""
        console.print(f"{chosen.source}:{part} {len(example)} tokens, {trained} trained", style="bold")
        console.print(_token_lines(example, tokenizer) if ids else mark_trained(example, tokenizer))
    for dropped in rendered.dropped:
        console.print(f"warning: the chat template drops the {dropped}", style="yellow")


def mark_trained(example: Example, tokenizer: ChatTokenizer) -> Text:
    """The text of an example, trained stretches in green between the marks."""
    from itertools import groupby

    from rich.text import Text

    text = Text()
    pairs = zip(example.tokens_T.tolist(), example.weights_T.tolist(), strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1] > 0):
        piece = tokenizer.decode([token for token, _ in run], skip_special=False)
        text.append(f"{OPEN}{piece}{CLOSE}" if trained else piece, style="green" if trained else "")
    return text


def _token_lines(example: Example, tokenizer: ChatTokenizer) -> Text:
    from rich.text import Text

    text = Text()
    for token, weight in zip(example.tokens_T.tolist(), example.weights_T.tolist(), strict=True):
        mark = f"{OPEN}{weight:g}{CLOSE}" if weight > 0 else ""
        line = f"{token:>8} {mark:<6} {tokenizer.token_text(token)}\n"
        text.append(line, style="green" if weight > 0 else "")
    return text


def _print_report(report: DataReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    facts = Table("what", "found", title="Data report", title_justify="left")
    for name, value in report.facts():
        facts.add_row(name, value)
    console.print(facts)
    peak = max((bucket.examples for bucket in report.lengths), default=1)
    for bucket in report.lengths:
        bar = "█" * round(30 * bucket.examples / peak)
        console.print(f"  up to {bucket.up_to:>7,} tokens  {bucket.examples:>9,}  {bar}")
    styles = {"error": "red", "warning": "yellow", "note": ""}
    for finding in report.findings:
        line = f"{finding.severity}: {finding.what}: {finding.count}"
        console.print(line, style=styles[finding.severity])
        console.print(f"  {finding.places()}\n  first: {finding.first}", soft_wrap=True)


def _build_config(file: Path, format_: _FORMATS, columns: list[str] | None, **settings: object) -> DataConfig:
    from tunewright.config.schema import DataConfig

    source = {"path": str(file), "format": format_, "columns": dict(map(_read_column, columns or ()))}
    return DataConfig.model_validate({"train": [source], "eval": 0.0, **settings})


def _read_column(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not (field and equals and name):
        raise typer.BadParameter(f"--column {text} is not FIELD=NAME, such as instruction=question")
    return field, name


def _load_tokenizer(model: str, chat_template: Path | None) -> ChatTokenizer:
    from tunewright.data.templates import load_tokenizer
    from tunewright.models.resolve import resolve_tokenizer

    return load_tokenizer(resolve_tokenizer(model), chat_template)


def _read_row(data: DataConfig, line: int) -> Row:
    from tunewright.data.rows import read_rows
    from tunewright.errors import DataError

    source = read_rows(data.train[0], Path.cwd())
    for row in source.rows:
        if row.source.line == line:
            return row
    for error in source.bad:
        if error.where and f"{error.where}:".split(":", 1)[1].startswith(f"{line}:"):
            raise error
    raise DataError(
        "there is no such row",
        where=data.train[0].path,
        got=f"--row {line}",
        expected=f"the line of one of {len(source.rows)} rows",
        code="data.no-such-row",
    )
