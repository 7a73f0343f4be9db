"""Before the first step of a run the micro-batch that needs most memory is tried, so that a plan which is too
optimistic shows before hours of training and not when the longest rows happen to meet."""

from __future__ import annotations

from time import perf_counter

from tunewright.data.longest import LongestPass, find_longest_pass
from tunewright.engines.registry import detect_device
from tunewright.errors import EngineOutOfMemory
from tunewright.host_memory import peak_process_bytes
from tunewright.run.devices import DeviceClass, class_of
from tunewright.run.inputs import Inputs
from tunewright.run.marks import RunMarks
from tunewright.run.memory import split_need
from tunewright.run.parts import build_rule
from tunewright.run.plan import Plan
from tunewright.run.row_lengths import with_lengths
from tunewright.run.split import memory_facts
from tunewright.train.progress import Progress
from tunewright.train.rehearse import rehearse

TRIED_ABOVE = 0.6
"""Share of a CPU's usable memory. A plan of less may be wrong by half and still fits, and starting at once is
worth more then. On an accelerator a pass takes little time."""


def rehearse_longest(inputs: Inputs, marks: RunMarks, progress: Progress, *, process_bytes: int) -> None:
    """Try the longest micro-batch of this data and tell what it took (`rehearsed`). Rows a forward pass are
    halved until it fits, as in a step.

    process_bytes: of the process before the engine was built. Raises EngineOutOfMemory when one row does not
    fit.
    """
    plan = marks.feed.plan
    place = class_of(detect_device(plan.engine, plan.device))
    if progress.step >= plan.total_steps or marks.stop.requested:
        return
    if place.kind == "cpu" and _need(inputs, plan, place) <= TRIED_ABOVE * place.usable_bytes:
        return
    started = perf_counter()
    tried = _try_until_it_fits(inputs, marks, progress)
    marks.watchdog.beat()
    rows, tokens = tried.micro_batches[0].tokens_BT.shape
    taken = peak_process_bytes() - process_bytes if place.kind == "cpu" else marks.engine.memory_used_bytes()
    marks.emit(
        "rehearsed",
        progress.step,
        rows=rows,
        tokens=tokens,
        # A peak is that of all tries, and one that did not fit had all the memory there is.
        bytes=taken if marks.feed.plan == plan else None,
        planned_bytes=_need(inputs, marks.feed.plan, place),
        seconds=perf_counter() - started,
    )


def _try_until_it_fits(inputs: Inputs, marks: RunMarks, progress: Progress) -> LongestPass:
    while True:
        plan = marks.feed.plan
        rule = build_rule(inputs, plan.micro_batch_size, plan.layout)
        tried = find_longest_pass(inputs.data.train_sources, rule, largest_id=inputs.tokenizer.largest_id)
        marks.watchdog.beat()
        try:
            rehearse(marks.engine, tried.micro_batches)
        except EngineOutOfMemory as error:
            marks.split(progress, _too_long(tried, error))
        else:
            return tried


def _need(inputs: Inputs, plan: Plan, place: DeviceClass) -> int:
    """What the planner expects of the plan in force, on this machine."""
    config = inputs.config
    dtypes = (plan.dtype, plan.precision)
    facts = memory_facts(config, inputs.arch, place.kind, dtypes, plan.quantization)
    facts = with_lengths(facts, config, inputs.data)
    return split_need(facts, plan.micro_batch_size, plan.checkpointed_layers).peak


def _too_long(tried: LongestPass, error: EngineOutOfMemory) -> EngineOutOfMemory:
    rows, tokens = tried.micro_batches[0].tokens_BT.shape
    whose = "the longest rows of this data" if tried.is_data else "full rows of data.seq_len"
    return EngineOutOfMemory(
        f"{whose} do not fit, tried before training as {rows} x {tokens:,} tokens: {error.what}",
        where=str(tried.longest.source) if tried.is_data else None,
        hint=error.hint,
        code=error.code,
    )
