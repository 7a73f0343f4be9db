"""Build each part of a run from its resolved plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tunewright.checkpoint.background import BackgroundWriter
from tunewright.checkpoint.store import CheckpointStore
from tunewright.config.schema import RunConfig
from tunewright.data.step import StepRule, StepSource
from tunewright.data.stream import StepStream
from tunewright.data.windows import WindowStream
from tunewright.engines.protocol import Engine, EngineSpec
from tunewright.run.engine_options import resolve_merge_base
from tunewright.run.exports import Exports
from tunewright.run.feed import Feed
from tunewright.run.folder import RunFolder
from tunewright.run.inputs import Inputs
from tunewright.run.marks import RunMarks
from tunewright.run.plan import Plan
from tunewright.run.row_layout import build_shape
from tunewright.run.sample import sample_rows
from tunewright.run.saving import Saving
from tunewright.trackers.protocol import Emit, TrackedRun
from tunewright.train.cadence import build_cadence
from tunewright.train.guard import Guard
from tunewright.train.parts import Loop
from tunewright.train.schedule import build_schedule
from tunewright.train.watchdog import Watchdog
from tunewright.types import RowLayout

BEST_MODES: dict[str, Literal["min", "max"]] = {
    "valid_loss": "min",
    "perplexity": "min",
    "valid_token_accuracy": "max",
}


def build_engine_spec(inputs: Inputs, plan: Plan) -> EngineSpec:
    """What the engine is built from."""
    config = inputs.config
    start_from = config.adapter.start_from
    return EngineSpec(
        model_folder=inputs.model.folder,
        model_name=inputs.model.name,
        device=plan.device,
        dtype=plan.dtype,
        precision=plan.precision,
        attention=plan.attention,
        adapter=config.adapter,
        adapter_folder=Path(start_from) if start_from else None,
        optimizer=plan.optimizer,
        weight_decay=config.train.weight_decay,
        betas=config.train.betas,
        epsilon=config.train.epsilon,
        max_grad_norm=config.train.max_grad_norm,
        checkpointed_layers=plan.checkpointed_layers,
        deterministic=config.train.deterministic,
        seed=plan.seed,
        quantization=plan.quantization,
        merge_base=resolve_merge_base(config, plan.engine),
        kernels=plan.kernels,
        sample=sample_rows(inputs.data),
    )


def build_stream(inputs: Inputs, micro_batch_size: int, layout: RowLayout) -> StepSource:
    """The steps of the run: without end, or as long as a pipe gives rows."""
    rule, seed = build_rule(inputs, micro_batch_size, layout), inputs.config.train.seed
    if inputs.data.windows is not None:
        return WindowStream(inputs.data.windows, rule, seed=seed)
    return StepStream(inputs.data.train_sources, rule, seed=seed)


def build_rule(inputs: Inputs, micro_batch_size: int, layout: RowLayout) -> StepRule:
    """How the rows of the run become steps."""
    config, pad_id = inputs.config, inputs.tokenizer.pad_id
    shape = build_shape(micro_batch_size, config.data.seq_len, layout, pad_id=pad_id)
    return StepRule(config.train.batch_size, config.train.tokens_per_batch, shape)


def open_store(config: RunConfig, folder: RunFolder) -> CheckpointStore:
    """The checkpoints of this run folder."""
    checkpoint = config.checkpoint
    mode = checkpoint.best_mode
    return CheckpointStore(
        folder.checkpoints,
        keep=checkpoint.keep,
        keep_best=checkpoint.keep_best,
        best_mode=BEST_MODES[checkpoint.best_metric] if mode == "auto" else mode,
    )


def build_saving(
    config: RunConfig, feed: Feed, guard: Guard, engine: Engine, writer: BackgroundWriter, emit: Emit
) -> Saving:
    """Checkpoints of this run, with all that a resume needs."""
    plan = feed.plan
    identity = {
        "config_hash": plan.config_hash,
        "data_hash": plan.data_hash,
        "model_hash": plan.model_hash,
        "versions": plan.versions,
        "world_size": 1,
    }
    asked = config.model_dump(mode="json")

    def run_state() -> dict[str, Any]:
        # The plan as amended by then, and the guard as it is then.
        return {"plan": feed.plan.model_dump(mode="json"), "config": asked, "guard": guard.state()}

    return Saving(engine, writer, emit, identity, run_state)


def build_exports(inputs: Inputs, engine: Engine, folder: RunFolder, emit: Emit) -> Exports:
    """Exports of this run."""
    return Exports(
        engine, emit, folder, inputs.model.folder, inputs.chat_template,
        inputs.config.checkpoint.keep_exports, inputs.tokenizer.stop_ids,
    )  # fmt: skip


def build_tracked_run(config: RunConfig, plan: Plan, folder: RunFolder) -> TrackedRun:
    """What trackers know of the run. Without a name of its own it is called after model, method and data."""
    method = {"none": "full", "lora": "lora" if plan.quantization == "none" else "qlora"}
    words = (Path(config.model.name).name, method[config.adapter.kind], Path(config.data.train[0].path).stem)
    asked, every = config.model_dump(mode="json"), config.logging.every_steps
    return TrackedRun(
        folder=folder.path,
        name=config.run.name or "-".join(words),
        total_steps=plan.total_steps,
        config={**asked, "plan": plan.model_dump(mode="json")},
        report_every=None if every == "auto" else every,
    )


def build_watchdog(config: RunConfig, on_stall: Callable[[float], None]) -> Watchdog:
    """The watchdog with the run's patience."""
    return Watchdog(config.guard.first_step_seconds, config.guard.step_seconds, on_stall)


def build_loop(config: RunConfig, feed: Feed, guard: Guard, marks: RunMarks) -> Loop:
    """The loop with all its parts."""
    plan = feed.plan
    return Loop(
        engine=marks.engine,
        batches=feed.steps,
        learning_rate=build_schedule(config.train, plan.total_steps, plan.learning_rate),
        cadence=build_cadence(config.checkpoint, config.evaluate, total_steps=plan.total_steps),
        guard=guard,
        marks=marks,
        stop=marks.stop,
        watchdog=marks.watchdog,
        total_steps=plan.total_steps,
    )
