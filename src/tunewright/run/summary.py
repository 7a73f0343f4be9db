"""The plan in ten lines, for a person to read before training starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tunewright.config.schema import AdapterConfig, RunConfig
from tunewright.data.report import DataReport
from tunewright.engines.protocol import EngineFacts
from tunewright.run.devices import GIB
from tunewright.run.plan import Plan
from tunewright.run.row_layout import describe_layout
from tunewright.run.wording import counted, every


def plan_lines(
    config: RunConfig, plan: Plan, facts: EngineFacts, report: DataReport, folder: Path
) -> list[str]:
    """One line a topic: label, then the resolved values."""
    rows = {
        "model": f"{plan.model}, {_count(facts.parameters)} parameters, stored as {_stored(plan)}",
        "trains": _trained(config, facts),
        "adapter": _adapter(facts),
        "data": f"{_epoch(plan.rows)} rows an epoch, {plan.held_out_rows:,} held out, "
        f"{_tokens(report)} of which {report.trained_share:.0%} are trained",
        "steps": f"{plan.total_steps:,} ({_epoch(plan.steps_per_epoch)} an epoch), {_step(config)} each",
        "rows": f"up to {config.data.seq_len:,} tokens, {describe_layout(plan.layout, plan.layout_reason)}, "
        f"{plan.micro_batch_size} a forward pass",
        "memory": _memory(plan),
        "optimizer": f"{_optimizer(config, plan)}, rate {plan.learning_rate:g} {config.train.schedule}, "
        f"weight decay {config.train.weight_decay:g}, clip {config.train.max_grad_norm:g}, seed {plan.seed}",
        "device": f"{plan.engine} on {plan.device} ({plan.device_name}), {plan.precision}, "
        f"attention {facts.attention}, {counted(plan.threads, 'thread')}",
        "kernels": _kernels(config, facts),
        "looks": f"evaluation {every(config.evaluate.every_steps)}"
        if plan.held_out_rows
        else "no evaluation (nothing is held out)",
        "saves": f"checkpoint {every(config.checkpoint.every_steps)}, {config.checkpoint.keep} kept"
        f"{' and the best' if config.checkpoint.keep_best else ''}; export {_exports(config)}",
        "folder": str(folder),
    }
    return [f"{label:<10} {text}" for label, text in rows.items() if text]


def _stored(plan: Plan) -> str:
    if plan.quantization == "none":
        return plan.dtype
    form = {"nf4": "nf4 with double quantisation", "4bit": "groups of 64 with a scale and an offset"}
    packed = f"{form[plan.quantization]} (linear layers, 4 bits) and {plan.dtype}"
    return f"{packed}; the 4 bits of another engine are other numbers"


def _memory(plan: Plan) -> str:
    count = plan.checkpointed_layers
    layers = "1 layer recomputes its" if count == 1 else f"{count} layers recompute their"
    recomputed = f"{layers} activations" if count else "no activations are recomputed"
    if not plan.memory_usable_bytes:
        return recomputed
    peak, usable = (size / GIB for size in (plan.memory_peak_bytes, plan.memory_usable_bytes))
    return f"{peak:.1f} of {usable:.1f} GiB expected, {recomputed}"


def _optimizer(config: RunConfig, plan: Plan) -> str:
    if plan.optimizer == config.train.optimizer:
        return plan.optimizer
    return f"{plan.optimizer} (warning: {config.train.optimizer} is for torch on CUDA)"


def _kernels(config: RunConfig, facts: EngineFacts) -> str:
    asked = config.model.kernels
    missed = asked not in ("auto", facts.kernels)
    return f"{facts.path} (warning: {asked} was asked for)" if missed else facts.path


def _epoch(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"


def _tokens(report: DataReport) -> str:
    checked = f" in the {report.rows_checked:,} rows checked" if report.is_sampled else ""
    return f"{report.tokens:,} tokens{checked}"


def _step(config: RunConfig) -> str:
    tokens = config.train.tokens_per_batch
    return counted(config.train.batch_size, "example") if tokens is None else f"up to {tokens:,} tokens"


def _trained(config: RunConfig, facts: EngineFacts) -> str:
    share = facts.trainable_parameters / max(facts.parameters, 1)
    parameters = f"{_count(facts.trainable_parameters)} parameters ({share:.2%})"
    adapter = config.adapter
    if adapter.kind == "none":
        return f"every weight: {parameters}{_idle(facts)}"
    targets = adapter.targets if isinstance(adapter.targets, str) else ", ".join(adapter.targets)
    settings = [f"{adapter.kind} rank {adapter.rank}", f"alpha {adapter.alpha:g}", *_further(adapter, facts)]
    return f"{', '.join(settings)}, {targets}: {parameters}{_idle(facts)}"


def _idle(facts: EngineFacts) -> str:
    return f"; off in the base model: {facts.idle_noise}" if facts.idle_noise else ""


def _further(adapter: AdapterConfig, facts: EngineFacts) -> Iterator[str]:
    """Settings of an adapter that are off by default."""
    if adapter.rslora:
        yield "rslora"
    if adapter.dropout:
        yield f"dropout {adapter.dropout:g}"
    if adapter.bias != "none":
        warning = "" if facts.trainable_biases else " (warning: the model has none of these)"
        yield f"bias {adapter.bias}{warning}"
    if adapter.modules_to_save:
        yield f"{' and '.join(adapter.modules_to_save)} in full"


def _adapter(facts: EngineFacts) -> str:
    """What has an adapter and what has none; nothing where every weight trains."""
    if not facts.adapted:
        return ""
    missed = f"; not adapted: {_kinds(facts.not_adapted)}" if facts.not_adapted else ""
    return f"{counted(sum(facts.adapted.values()), 'module')}: {_kinds(facts.adapted)}{missed}"


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def _exports(config: RunConfig) -> str:
    asked = config.checkpoint.export_every
    if isinstance(asked, int):
        return every(asked)
    return {"epoch": "each epoch", "never": "at the end"}[asked]


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
