"""Composition root: turn a RunConfig into a run, from reading its inputs to the final export."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewright.checkpoint.background import BackgroundWriter
from tunewright.checkpoint.store import CheckpointStore, LoadedCheckpoint
from tunewright.config.load import LoadedConfig, dump_config, load_config
from tunewright.config.schema import RunConfig
from tunewright.data.report import DataReport
from tunewright.engines.protocol import EngineFacts
from tunewright.engines.registry import build_engine, import_engine
from tunewright.errors import CheckpointError, ExitCode, TunewrightError
from tunewright.files import json_bytes, replace_file
from tunewright.host_memory import resident_bytes
from tunewright.run.data_counts import count_lines, emit_counts
from tunewright.run.disk import named_disk_errors
from tunewright.run.engine_options import asked_layout
from tunewright.run.feed import Feed
from tunewright.run.folder import RunFolder, check_unused, default_folder, lock_folder
from tunewright.run.inputs import Inputs, read_inputs
from tunewright.run.marks import RunMarks
from tunewright.run.parts import (
    build_engine_spec,
    build_exports,
    build_loop,
    build_saving,
    build_stream,
    build_tracked_run,
    build_watchdog,
    open_store,
)
from tunewright.run.paths import absolute_paths
from tunewright.run.plan import Plan, amend_plan, read_plan, resolve_plan
from tunewright.run.rehearsal import rehearse_longest
from tunewright.run.resume import check_can_resume, check_same_settings, find_run
from tunewright.run.rollback import Rollback
from tunewright.run.row_layout import settle_plan
from tunewright.run.saving import Saving
from tunewright.run.source_wait import SourceWait
from tunewright.run.split import resolve_micro_batch_size
from tunewright.run.stall import stall_handler
from tunewright.run.summary import plan_lines
from tunewright.trackers.fanout import open_trackers, resolve_trackers
from tunewright.trackers.protocol import Emit
from tunewright.train.guard import Guard
from tunewright.train.progress import Progress
from tunewright.train.stop import StopSignal

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. export: the final servable folder; None when it was stopped before its end."""

    folder: Path
    exit_code: ExitCode
    progress: Progress
    total_steps: int
    export: Path | None


def run_training(loaded: LoadedConfig, *, out: Path | None, resume: str | None, say: Say) -> RunResult:
    """Train one run to its end, or to a clean stop.

    out: the run folder; None makes one below runs/. resume: None, `auto`, or a run or checkpoint folder.
    say: prints a line for a person. Raises TunewrightError; nothing is written before all inputs are valid.
    """
    loaded = absolute_paths(loaded)
    resolve_trackers(loaded.config.track)  # a missing library ends it here, not after loading
    if resume is None:
        folder, named = RunFolder(out or default_folder(loaded.config)), None
        check_unused(folder)
    else:
        folder, named = find_run(resume, out=out, name=loaded.config.run.name)
    inputs = read_inputs(loaded.config, loaded.base_dir, say)
    with named_disk_errors(folder.path), lock_folder(folder):
        store = open_store(inputs.config, folder)
        checkpoint = _load_checkpoint(store, named, inputs, folder, say) if resume else None
        result = _run(inputs, folder, store, checkpoint, say)
    for line in count_lines(inputs.data.recount()) if inputs.data.recount else ():
        say(line)
    return result


def _run(
    inputs: Inputs, folder: RunFolder, store: CheckpointStore, checkpoint: LoadedCheckpoint | None, say: Say
) -> RunResult:
    config = inputs.config
    plan, changes = _settle_plan(inputs, checkpoint)
    import_engine(plan.engine)
    process_bytes = resident_bytes()
    engine = build_engine(plan.engine, build_engine_spec(inputs, plan))
    if checkpoint and engine.facts.kernels != plan.kernels:
        say(f"warning: layers were computed {plan.kernels} and now are {engine.facts.path}: other roundings")
    plan = settle_plan(plan, engine.facts)
    progress = Progress()
    if checkpoint:
        engine.restore(checkpoint.engine)
        progress = Progress.of(checkpoint.run_state["progress"])
        if inputs.data.windows:
            inputs.data.windows.expect(progress.position, progress.source_state)
    else:
        _write_request(inputs, folder, plan)
    _describe(inputs, plan, engine.facts, folder, say)
    with (
        BackgroundWriter(store) as writer,
        open_trackers(config.track, folder.events, build_tracked_run(config, plan, folder)) as emit,
        StopSignal() as stop,
        build_watchdog(config, stall_handler(folder.path, emit, say)) as watchdog,
    ):
        feed = Feed(
            inputs,
            plan,
            lambda plan: build_stream(inputs, plan.micro_batch_size, plan.layout),
            SourceWait(inputs.data.windows, watchdog, emit, lambda: stop.requested),
        )
        guard = Guard(config.guard.spike, checkpoint.run_state.get("guard") if checkpoint else None)
        saving = build_saving(config, feed, guard, engine, writer, emit)
        exports = build_exports(inputs, engine, folder, emit)
        marks = RunMarks(
            engine, emit, feed, saving, exports, stop, watchdog,
            config.evaluate.metrics, config.checkpoint.best_metric,
        )  # fmt: skip
        _announce(emit, plan, engine.facts, checkpoint, changes, inputs.data.report)
        try:
            rehearse_longest(inputs, marks, progress, process_bytes=process_bytes)
            rollback = Rollback(engine, store, saving, emit, config.guard.rollbacks)
            progress = rollback.train(build_loop(config, feed, guard, marks), progress)
            export = None
            if not _is_cut_short(progress, plan, stop):
                export = marks.export_final(progress, merge=config.checkpoint.merge)
            with watchdog.resting():
                saving.finish()
        except BaseException as error:
            _report_failure(emit, marks, saving, error)
            raise
        finally:
            if recount := inputs.data.recount:
                _write_report(folder, recount())
        if recount:
            emit_counts(emit, progress.step, recount(), at_end=True)
        emit("run_finished", progress.step, outcome="done" if export else "stopped")
    code = ExitCode.DONE if export else ExitCode.PREEMPTED
    return RunResult(folder.path, code, progress, plan.total_steps, export)


def _load_checkpoint(
    store: CheckpointStore, named: Path | None, inputs: Inputs, folder: RunFolder, say: Say
) -> LoadedCheckpoint | None:
    if named is None and not store.steps():
        if folder.config.exists():
            check_same_settings(load_config(folder.config).config.model_dump(mode="json"), inputs.config)
        say("no checkpoint was saved yet: starting again from step 0")
        return None
    checkpoint = store.load(named)
    for reason in checkpoint.rejected:
        say(f"warning: passed over a damaged checkpoint: {reason}")
    say(f"resuming from step {checkpoint.step:,}: {checkpoint.path}")
    return checkpoint


def _settle_plan(inputs: Inputs, checkpoint: LoadedCheckpoint | None) -> tuple[Plan, dict[str, object]]:
    """Plan and amendments. A resumed run goes on with the plan of its checkpoint: `auto` is resolved once in
    a run's life."""
    if checkpoint is None:
        stream = build_stream(inputs, resolve_micro_batch_size(inputs.config), asked_layout(inputs.config))
        return resolve_plan(inputs, stream), {}
    before = RunConfig.model_validate(checkpoint.run_state["config"])
    plan = read_plan(checkpoint.run_state["plan"], before, inputs.arch)
    check_can_resume(checkpoint, plan, inputs)
    return amend_plan(plan, before, inputs.config, inputs.arch)


def _write_request(inputs: Inputs, folder: RunFolder, plan: Plan) -> None:
    # First: with this file the folder holds a run that --resume can start again.
    replace_file(folder.config, [dump_config(inputs.config).encode()])
    replace_file(folder.plan, [json_bytes(plan.model_dump(mode="json"))])
    _write_report(folder, inputs.data.report)


def _write_report(folder: RunFolder, report: DataReport) -> None:
    replace_file(folder.data_report, [json_bytes(report.to_json())])


def _describe(inputs: Inputs, plan: Plan, facts: EngineFacts, folder: RunFolder, say: Say) -> None:
    report = inputs.data.report
    for line in [*plan_lines(inputs.config, plan, facts, report, folder.path), *count_lines(report)]:
        say(line)


def _announce(
    emit: Emit,
    plan: Plan,
    facts: EngineFacts,
    checkpoint: LoadedCheckpoint | None,
    changes: dict[str, object],
    report: DataReport,
) -> None:
    if checkpoint:
        emit("resumed", checkpoint.step, from_step=checkpoint.step, path=str(checkpoint.path))
        if changes:
            emit("amended", checkpoint.step, changes=changes)
    else:
        emit(
            "run_started",
            0,
            total_steps=plan.total_steps,
            model=plan.model,
            device=plan.device,
            layout=plan.layout,
            layout_reason=plan.layout_reason,
            adapted=dict(facts.adapted),
            not_adapted=dict(facts.not_adapted),
        )
    emit_counts(emit, checkpoint.step if checkpoint else 0, report, at_end=False)


def _is_cut_short(progress: Progress, plan: Plan, stop: StopSignal) -> bool:
    """Whether a stop came before the last step and what belongs to it; data may also end before."""
    return stop.requested and (progress.step < plan.total_steps or progress.marks_due)


def _report_failure(emit: Emit, marks: RunMarks, saving: Saving, error: BaseException) -> None:
    code = error.code if isinstance(error, TunewrightError) else "internal"
    # Neither a disk that takes no event nor a save that fails as well may hide the fault itself.
    with suppress(OSError, CheckpointError):
        saving.finish()
    with suppress(OSError):
        emit("run_finished", marks.last_step, outcome="failed", code=code, message=str(error) or repr(error))
