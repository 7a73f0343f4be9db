"""The micro-batches of a run: how the rows of a step are spread, and what changes when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from tunewright.data.prefetch import prefetched
from tunewright.data.step import StepSource
from tunewright.data.stream import eval_batches
from tunewright.errors import EngineOutOfMemory
from tunewright.run.inputs import Inputs
from tunewright.run.plan import Plan
from tunewright.run.row_layout import build_shape
from tunewright.run.source_wait import SourceWait
from tunewright.train.progress import Progress
from tunewright.types import Batch, StepBatch


class Feed:
    """Steps and held-out batches under the plan in force. `plan` changes only by an amendment.

    streams: the stream of steps under a plan.
    """

    def __init__(
        self,
        inputs: Inputs,
        plan: Plan,
        streams: Callable[[Plan], StepSource],
        wait: SourceWait,
    ) -> None:
        self._inputs, self._streams, self._wait = inputs, streams, wait
        self.plan = plan

    def steps(self, progress: Progress) -> Generator[StepBatch]:
        """Step batches from `progress` on, built ahead in the background."""
        steps = self._streams(self.plan).steps(progress.position)
        done = progress.step
        with closing(prefetched(steps, look=lambda: self._wait.look(done))) as ahead:
            for step in ahead:
                yield step
                done += 1

    def held_out(self) -> list[Batch]:
        """Batches that hold each held-out example once."""
        plan, inputs = self.plan, self._inputs
        shape = build_shape(
            plan.micro_batch_size, inputs.config.data.seq_len, plan.layout, pad_id=inputs.tokenizer.pad_id
        )
        return eval_batches(inputs.data.eval_examples, shape)

    def halve(self, error: EngineOutOfMemory) -> dict[str, object]:
        """Half the rows a forward pass from now on; returns what was changed. The rows of a step, its loss
        and its gradient stay the same. Raises `error` when a micro-batch is one row already."""
        if self.plan.micro_batch_size == 1:
            raise error
        changes: dict[str, object] = {"micro_batch_size": self.plan.micro_batch_size // 2}
        self.plan = self.plan.model_copy(update=changes)
        return changes
