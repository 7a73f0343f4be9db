"""`tunewright demo`: teach the bundled model a new skill, and show what it could do before and after."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.demo_view import Answered, DemoView

if TYPE_CHECKING:
    from tunewright.config.load import LoadedConfig
    from tunewright.data.templates import ChatTokenizer
    from tunewright.inference.generator import Generator
    from tunewright.run.build import RunResult

HELD_OUT_ROWS = 100
LONGEST_ANSWER = 24


def command(
    steps: Annotated[
        int | None, typer.Option(min=1, help="Train this many steps instead of all; fewer show less.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine that trains and answers: auto, torch or mlx.")] = "auto",
    eval_seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out questions.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: a new one below runs/.")] = None,
) -> None:
    """Fine-tune the bundled model on a small skill: offline, on two CPU cores, in about a minute.

    The model answers the same held-out questions before and after, scored by exact match. Scores also go to
    demo.json in the run folder.
    """
    from tunewright.assets.files import TINY_MODEL
    from tunewright.data.templates import load_tokenizer

    started = perf_counter()
    loaded = _load_config(steps, engine)
    rows = held_out_rows(eval_seed, HELD_OUT_ROWS)
    view = DemoView(sys.stdout)
    view.open(rows, eval_seed, _sample_rows())
    tokenizer = load_tokenizer(TINY_MODEL, None)

    before, seconds = _answer(rows, None, tokenizer, engine)
    view.base_score(rows, before, seconds)
    result = _train(loaded, out)
    if result.export is None:
        view.stopped(result.folder)
        raise typer.Exit(int(result.exit_code))
    after, _ = _answer(rows, result.export, tokenizer, engine)

    answered = [
        Answered(*row, *pair) for row, pair in zip(rows, zip(before, after, strict=True), strict=True)
    ]
    seconds = perf_counter() - started
    _write_scores(result, answered, eval_seed, seconds)
    view.close(answered, _losses(result.folder), seconds, result.export)


def held_out_rows(seed: int, count: int) -> list[tuple[str, str]]:
    """Question and answer of `count` dates, none of which is in the bundled sample set in any spelling."""
    from tunewright.assets.date_task import date_rows

    known = {answer for _, answer in _sample_rows()}
    fresh = (row for row in date_rows(seed, 100 * count) if row[1] not in known)
    return [row for row, _ in zip(fresh, range(count), strict=False)]


def _sample_rows() -> list[tuple[str, str]]:
    from tunewright.assets.files import DATE_SAMPLES

    rows = [json.loads(line)["messages"] for line in DATE_SAMPLES.read_text(encoding="utf-8").splitlines()]
    return [(question["content"], answer["content"]) for question, answer in rows]


def _answer(
    rows: Sequence[tuple[str, str]], adapter: Path | None, tokenizer: ChatTokenizer, engine: str
) -> tuple[list[str], float]:
    """The model's answers, and how many seconds they took."""
    from tunewright.inference.sampling import SamplingOptions
    from tunewright.types import Message

    started = perf_counter()
    prompts = [tokenizer.encode_prompt([Message("user", question)]) for question, _ in rows]
    options = SamplingOptions(max_new_tokens=LONGEST_ANSWER)
    answers = _load_generator(adapter, engine).generate_batch(prompts, options, tokenizer.stop_ids)
    return [tokenizer.decode(ids) for ids in answers], perf_counter() - started


def _load_generator(adapter: Path | None, engine: str) -> Generator:
    from tunewright.inference.generator import load_generator
    from tunewright.models.resolve import resolve_model

    return load_generator(resolve_model("builtin:tiny"), adapter, engine=engine, device="cpu", dtype="fp32")


def _load_config(steps: int | None, engine: str) -> LoadedConfig:
    from tunewright.assets.files import DATE_SAMPLES
    from tunewright.config.load import load_config

    overrides = ["preset=demo", f"data.train={DATE_SAMPLES}", f"engine={engine}"]
    if steps is not None:
        overrides.append(f"train.max_steps={steps}")
    return load_config(None, overrides=overrides)


def _train(loaded: LoadedConfig, out: Path | None) -> RunResult:
    """Exactly what `tunewright train` does with the preset `demo` and the bundled rows."""
    from tunewright.cli.run_lines import say
    from tunewright.run.build import run_training

    return run_training(loaded, out=out, resume=None, say=say)


def _losses(folder: Path) -> list[float]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return [event["loss"] for event in events if event["type"] == "step"]


def _write_scores(result: RunResult, answered: Sequence[Answered], eval_seed: int, seconds: float) -> None:
    from tunewright.files import write_json

    write_json(
        result.folder / "demo.json",
        {
            "eval_seed": eval_seed,
            "rows": len(answered),
            "base_exact": sum(row.base_right for row in answered),
            "tuned_exact": sum(row.tuned_right for row in answered),
            "steps": result.progress.step,
            "seconds": round(seconds, 1),
            "answers": [
                {"question": row.question, "expected": row.expected, "base": row.base, "tuned": row.tuned}
                for row in answered
            ],
        },
    )
