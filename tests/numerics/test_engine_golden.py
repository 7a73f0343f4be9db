"""Twenty-step losses per family against stored ones: drift between commits that no equality sees.

Update them, in a commit that says `numerics:`, with
    PYTHONPATH=tests python tests/numerics/test_engine_golden.py
One thread, 1e-5 relative: CPU types round differently, so this is never an equality.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine_cases import build_spec, draw_documents, lay_out, total_weight
from families import FAMILIES, make_family
from tunewright.engines.torch.engine import build_engine

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20


def compute_losses(folder: Path) -> list[float]:
    """Mean loss of each of 20 steps of LoRA on the same packed documents, one longer than the window."""
    engine = build_engine(build_spec(folder))
    documents = draw_documents([5, 41, 2, 17, 17, 9])
    batches = [lay_out([documents[:2]]), lay_out([documents[2:]])]
    losses = []
    for _ in range(STEPS):
        engine.forward_backward(batches, denominator=total_weight(documents))
        sums = engine.optim_step(lr=5e-3, skip_above=None).read().sums
        losses.append(sums.loss / sums.weight)
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_equal_golden(family, family_folder, one_thread):
    golden = json.loads((GOLDEN / f"{family}.json").read_text())
    assert compute_losses(family_folder(family)) == pytest.approx(golden["losses"], rel=1e-5)
    assert golden["losses"][-1] < golden["losses"][0]


def update(folder: Path) -> None:
    """Write the golden file of each family."""
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for family in FAMILIES:
        losses = compute_losses(make_family(family, folder / family))
        (GOLDEN / f"{family}.json").write_text(json.dumps({"losses": losses}, indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        update(Path(temporary))
