"""`tunewright plan`: memory and time of a run before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.config import AsJson, ConfigFile, Overrides
from tunewright.run.wording import counted

if TYPE_CHECKING:
    from tunewright.run.estimate import Estimate
    from tunewright.types import JsonValue

_GIB = 2**30


def command(
    file: ConfigFile,
    device: Annotated[
        str | None,
        typer.Option(help="h100, h200, m4, cpu, or a GPU's memory such as 24GiB. Default: this machine."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory and time of a run, without loading or fetching anything.

    Exit code 1 when the run does not fit, with the settings that would make it fit.
    """
    from tunewright.config.load import load_config
    from tunewright.run.devices import find_device
    from tunewright.run.estimate import check_estimate, estimate_run
    from tunewright.run.paths import absolute_paths

    # As `train` names files, so that it finds what is tokenised for a plan, and a plan what it tokenised.
    loaded = absolute_paths(load_config(file, overrides=overrides or ()))
    estimate = estimate_run(loaded.config, loaded.base_dir, find_device(device, loaded.config.device))
    if as_json:
        typer.echo(json.dumps(to_json(estimate), indent=2, ensure_ascii=False))
    else:
        for line in plan_lines(estimate):
            typer.echo(line)
    check_estimate(estimate)


def plan_lines(estimate: Estimate) -> Iterator[str]:
    """The estimate for people, one line at a time."""
    device = estimate.device
    memory = f"{device.memory_bytes / _GIB:.1f} GiB, {device.usable_bytes / _GIB:.1f} of it usable"
    yield f"{estimate.model} on {device.name} ({memory})"
    if estimate.from_table:
        yield "model sizes: from the built-in table, the model is not on this machine"
    yield ""
    # Small models in MiB: a column of 0.00 GiB says nothing.
    unit, shown = (_GIB, "GiB") if estimate.need.peak >= _GIB else (2**20, "MiB")
    for name, size in estimate.need.parts.items():
        yield f"  {name:<16}{size / unit:>9.2f} {shown}"
    verdict = "fits" if estimate.fits else "does not fit"
    yield f"  {'peak':<16}{estimate.need.peak / unit:>9.2f} {shown}  {verdict}"
    yield ""
    facts = estimate.facts
    split = estimate.split
    yield (
        f"split: micro-batches of {split.rows} x {facts.seq_len:,} tokens, activation checkpointing in "
        f"{split.checkpointed} of {facts.arch.layers} layers, weights in {_storage(estimate)}, compute in "
        f"{facts.precision}"
    )
    yield f"kernels: {estimate.path}, as expected here; `train` proves it on the loaded model"
    yield _rows_line(estimate)
    yield from _host_lines(estimate)
    yield from _time_lines(estimate)


def _rows_line(estimate: Estimate) -> str:
    facts = estimate.facts
    each = "" if estimate.layout == "packed" else ", one document each (`train` proves what the model takes)"
    if estimate.data is not None and estimate.data.exact:
        widest = facts.step_tokens or facts.row_tokens
        what = "a packed step has" if facts.step_tokens else "a row has"
        return f"rows: as they are, {what} {widest:,} tokens at most{each}"
    return f"rows: counted as full ones of {facts.seq_len:,} tokens, for the data is not tokenised yet{each}"


def _host_lines(estimate: Estimate) -> Iterator[str]:
    held = {name: size for name, size in estimate.need.host.items() if size}
    if held:
        parts = ", ".join(f"{name} {size / _GIB:.2f} GiB" for name, size in held.items())
        yield f"host memory: {parts}"


def _storage(estimate: Estimate) -> str:
    kind = estimate.facts.quantization
    return estimate.facts.dtype if kind == "none" else kind


def _time_lines(estimate: Estimate) -> Iterator[str]:
    if estimate.tokens_per_second is None or estimate.step_seconds is None:
        yield "speed: not known for this device"
    else:
        yield (
            f"speed: about {estimate.tokens_per_second:,.0f} tokens/s, {_duration(estimate.step_seconds)} "
            f"a step of {estimate.step_tokens:,.0f} tokens"
        )
        flops = estimate.flops_per_token / 1e9
        yield f"  an estimate: {flops:.2f} GFLOP a token; rate: {estimate.device.source}"
    data = estimate.data
    if data is None:
        yield "data: no files to look at, so a step counts as full rows"
    elif data.exact:
        yield f"data: {data.rows:,} rows of {data.tokens_per_row:,.0f} tokens, all of them tokenised"
    else:
        how = "the model's tokenizer" if data.tokenised else "4 bytes a token"
        yield (
            f"data: about {data.rows:,} rows of {data.tokens_per_row:,.0f} tokens, estimated from "
            f"{data.sampled} rows with {how}"
        )
    if estimate.steps is None:
        yield "duration: not known without data or train.max_steps"
    elif estimate.seconds:
        yield (
            f"duration: about {_duration(estimate.seconds)} for {counted(estimate.steps, 'step')}"
            f"{_evaluations(estimate)}"
        )


def _evaluations(estimate: Estimate) -> str:
    held_out = estimate.data.held_out_tokens if estimate.data else None
    if held_out is None:
        return ", evaluations come on top"
    if not held_out or estimate.evaluations is None:
        return ""
    return f" and {counted(estimate.evaluations, 'evaluation')} of {held_out:,.0f} tokens"


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def to_json(estimate: Estimate) -> dict[str, JsonValue]:
    """The estimate for programs. Memory in bytes, times in seconds; null for what is not known."""
    data = estimate.data
    return {
        "model": estimate.model,
        "sizes_from": "table" if estimate.from_table else "model",
        "device": estimate.device.name,
        "memory_bytes": estimate.device.memory_bytes,
        "usable_bytes": estimate.device.usable_bytes,
        "parts_bytes": dict(estimate.need.parts),
        "host_bytes": dict(estimate.need.host),
        "peak_bytes": estimate.need.peak,
        "fits": estimate.fits,
        "remedies": list(estimate.remedies),
        "micro_batch_size": estimate.split.rows,
        "checkpointed_layers": estimate.split.checkpointed,
        "layers": estimate.facts.arch.layers,
        "dtype": _storage(estimate),
        "precision": estimate.facts.precision,
        "kernels": estimate.path,
        "layout": estimate.layout,
        "flops_per_token": estimate.flops_per_token,
        "tokens_per_second": estimate.tokens_per_second,
        "speed_source": estimate.device.source or None,
        "step_tokens": estimate.step_tokens,
        "step_seconds": estimate.step_seconds,
        "rows": data.rows if data else None,
        "tokens_per_row": data.tokens_per_row if data else None,
        "rows_known": bool(data and data.exact),
        "rows_sampled": data.sampled if data else None,
        "tokenised": data.tokenised if data else None,
        "steps": estimate.steps,
        "held_out_tokens": data.held_out_tokens if data else None,
        "evaluations": estimate.evaluations,
        "evaluation_seconds": estimate.evaluation_seconds,
        "seconds": estimate.seconds,
    }
