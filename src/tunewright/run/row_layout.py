"""How the documents of a run become rows: as asked, or less full where the engine proved no more to be right.

The loss is the same in each layout that is proved, so a run is not refused for asking for a fuller one: it is
laid out otherwise, and says so.
"""

from __future__ import annotations

from typing import get_args

from tunewright.data.collate import BatchShape
from tunewright.engines.protocol import EngineFacts
from tunewright.run.plan import Plan
from tunewright.types import RowLayout

_FULLEST_FIRST: tuple[RowLayout, ...] = get_args(RowLayout)


def settle_plan(plan: Plan, facts: EngineFacts) -> Plan:
    """The plan with what the engine settled on the loaded model: how layers are computed, and rows that it
    computes right, no fuller than the plan had. A resume computes in the same way."""
    changes: dict[str, object] = {"kernels": facts.kernels, "path": facts.path}
    if _FULLEST_FIRST.index(facts.layout) > _FULLEST_FIRST.index(plan.layout):
        changes |= {"layout": facts.layout, "layout_reason": facts.layout_reason}
        if facts.layout == "single":
            changes["micro_batch_size"] = 1
    return plan.model_copy(update=changes)


def build_shape(micro_batch_size: int, seq_len: int, layout: RowLayout, *, pad_id: int) -> BatchShape:
    """Micro-batches of this layout."""
    return BatchShape(
        micro_batch_size, seq_len, packing=layout == "packed", pad_id=pad_id, padding=layout != "single"
    )


def describe_layout(layout: RowLayout, reason: str) -> str:
    """For a person: `packed`, `padded`, `one document a row, padded: why`."""
    if not reason:
        return layout
    padding = "padded" if layout == "padded" else "one row a pass, without padding"
    return f"one document a row, {padding} (packed: {reason})"
