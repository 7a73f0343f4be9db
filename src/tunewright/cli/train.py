"""`tunewright train`: fine-tune from a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[
        Path | None, typer.Argument(help="Run file (YAML). With --resume the run's own is used.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<name>.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run: `auto`, a run folder or a checkpoint folder. Alone it means auto."
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Same as --set train.max_steps=N.")] = None,
    use_lora: Annotated[
        bool | None, typer.Option("--use-lora/--no-use-lora", help="Train a LoRA adapter, or every weight.")
    ] = None,
    lora_r: Annotated[int | None, typer.Option("--lora-r", help="Same as --set adapter.rank=R.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The final export holds merged weights.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override any setting of the run file."),
    ] = None,
) -> None:
    """Fine-tune a model from a run file.

    Writes checkpoints, metrics and servable exports into one run folder. Ctrl-C finishes the step, saves, and
    says how to go on.
    """
    from tunewright.cli.run_lines import print_result, say
    from tunewright.run.build import run_training
    from tunewright.run.resume import load_request

    flags = {
        "train.max_steps": max_steps,
        "adapter.kind": None if use_lora is None else "lora" if use_lora else "none",
        "adapter.rank": lora_r,
        "checkpoint.merge": "true" if merge else None,
    }
    changes = [*(overrides or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    loaded = load_request(config, changes, out=out, resume=resume)
    result = run_training(loaded, out=out, resume=resume, say=say)
    print_result(result)
    raise typer.Exit(int(result.exit_code))
