"""The page docs/reference/families.md, out of what the walk over all types found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from causal_walk import LAYOUTS, TOLERANCE, Layout, Outcome

_INTRO = """\
<!-- Written by `make families`; change scripts/families_page.py and run it again. -->
# Model types

Every type that transformers {transformers} lists as a causal language model, on a tiny random model of it, by
one step of `tunewright train` with LoRA in fp32 on a CPU (torch {torch}, {date}). The first loss is compared
with transformers' own: the class's forward pass over each document alone. A relative difference of up to
{tolerance:.0e} is the same sums in another order.

- {trained} of {types} types train.
- {refused} are refused by name before the first step.
- Of {not_built} transformers itself builds no tiny model here.
- With another loss than transformers' own, or any other end: {wrong}.

*packed* is `data.packing: true`; *padded* is `false`, two documents side by side. Each cell has the
difference and what the rows became: documents end to end (packed), one a row (padded), or one a pass (single)
where fuller rows are not proved right for the type: [how that is proved](../concepts/engine-protocol.md).
"""


def families_page(result: Mapping[str, Any]) -> str:
    """The page of one walk. result: as benchmarks/families.json holds it."""
    outcomes = [Outcome.of(values) for values in result["types"]]
    trained = sum(outcome.reference is not None for outcome in outcomes)
    not_built = sum(bool(outcome.not_built) for outcome in outcomes)
    intro = _INTRO.format(
        **result["versions"],
        date=result["date"],
        tolerance=TOLERANCE,
        trained=trained,
        types=len(outcomes),
        refused=len(outcomes) - trained - not_built,
        not_built=not_built,
        wrong=", ".join(outcome.model_type for outcome in outcomes if not outcome.is_right) or "none",
    )
    return "\n".join((intro, *_table(outcomes))) + "\n"


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "| type | class | loads | packed | padded | refused, and why |"
    yield "|---|---|---|---|---|---|"
    for outcome in outcomes:
        loads = "not built" if outcome.not_built else "no" if outcome.reference is None else "yes"
        reasons = {one.refused or one.crashed for one in outcome.layouts.values()} - {""}
        why = outcome.not_built or "; ".join(sorted(reasons))
        cells = (f"`{outcome.model_type}`", outcome.model_class, loads)
        layouts = (_cell(outcome.layouts.get(name)) for name in LAYOUTS)
        yield f"| {' | '.join((*cells, *layouts, _plain(why)))} |"


def _cell(layout: Layout | None) -> str:
    if layout is None or layout.difference is None:
        return ""
    return f"{layout.difference:.0e}, {layout.rows}"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
