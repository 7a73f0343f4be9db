"""Build each part of a run from its resolved plan."""

from __future__ import annotations

from pathlib import Path

from tunewright.checkpoint.store import CheckpointStore
from tunewright.config.schema import RunConfig
from tunewright.data.collate import BatchShape
from tunewright.data.step import StepRule
from tunewright.data.stream import StepStream, eval_batches
from tunewright.engines.protocol import Engine, EngineSpec
from tunewright.run.folder import RunFolder
from tunewright.run.inputs import Inputs
from tunewright.run.marks import Emit, RunMarks
from tunewright.run.plan import Plan
from tunewright.train.cadence import build_cadence
from tunewright.train.guard import Guard
from tunewright.train.loop import Loop
from tunewright.train.schedule import build_schedule
from tunewright.train.stop import StopSignal


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
        optimizer=config.train.optimizer,
        weight_decay=config.train.weight_decay,
        betas=config.train.betas,
        epsilon=config.train.epsilon,
        max_grad_norm=config.train.max_grad_norm,
        activation_checkpointing=plan.activation_checkpointing,
        deterministic=config.train.deterministic,
        seed=plan.seed,
    )


def build_stream(inputs: Inputs, micro_batch_size: int) -> StepStream:
    """The endless stream of step batches."""
    config = inputs.config
    shape = BatchShape(micro_batch_size, config.data.seq_len, config.data.packing, inputs.tokenizer.pad_id)
    rule = StepRule(config.train.batch_size, config.train.tokens_per_batch, shape)
    return StepStream(inputs.data.train_sources, rule, seed=config.train.seed)


def open_store(config: RunConfig, folder: RunFolder) -> CheckpointStore:
    """The checkpoints of this run folder."""
    return CheckpointStore(
        folder.checkpoints, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )


def build_marks(
    inputs: Inputs, plan: Plan, engine: Engine, folder: RunFolder, store: CheckpointStore, emit: Emit
) -> RunMarks:
    """What happens at a mark of the loop."""
    config = inputs.config
    plan_values = plan.model_dump(mode="json")
    return RunMarks(
        engine=engine,
        emit=emit,
        folder=folder,
        store=store,
        held_out=eval_batches(
            inputs.data.eval_examples,
            micro_batch_size=plan.micro_batch_size,
            seq_len=config.data.seq_len,
            packing=config.data.packing,
            pad_id=inputs.tokenizer.pad_id,
        ),
        metrics=config.evaluate.metrics,
        model_folder=inputs.model.folder,
        chat_template=inputs.chat_template,
        keep_exports=config.checkpoint.keep_exports,
        identity={
            "config_hash": plan.config_hash,
            "data_hash": plan.data_hash,
            "model_hash": plan.model_hash,
            "versions": plan.versions,
            "world_size": 1,
        },
        run_state={"plan": plan_values, "config": config.model_dump(mode="json")},
    )


def build_loop(inputs: Inputs, plan: Plan, stream: StepStream, marks: RunMarks, stop: StopSignal) -> Loop:
    """The loop with all its parts."""
    config = inputs.config
    return Loop(
        engine=marks.engine,
        batches=stream.steps,
        learning_rate=build_schedule(config.train, plan.total_steps, plan.learning_rate),
        cadence=build_cadence(
            config.checkpoint,
            config.evaluate,
            steps_per_epoch=plan.steps_per_epoch or plan.total_steps,
            total_steps=plan.total_steps,
        ),
        guard=Guard(),
        marks=marks,
        stop=stop,
        total_steps=plan.total_steps,
    )
