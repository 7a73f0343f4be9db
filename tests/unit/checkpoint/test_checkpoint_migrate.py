"""Checkpoints of older formats, as the builds of their time wrote them, still load."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from checkpoint_cases import save
from tunewright.checkpoint.manifest import MANIFEST, Metric, read_manifest
from tunewright.checkpoint.migrate import FORMAT_VERSION, MIGRATIONS
from tunewright.checkpoint.store import CheckpointStore
from tunewright.errors import CheckpointError
from tunewright.files import json_bytes

FORMAT_1 = Path(__file__).parent / "format_1"


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """The two checkpoints of a run of six steps that format 1 wrote."""
    shutil.copytree(FORMAT_1 / "run/checkpoints", tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints", keep=1, keep_best=True)


def test_there_is_a_way_from_every_version() -> None:
    assert set(MIGRATIONS) == set(range(1, FORMAT_VERSION))


def test_format_1_loads_and_its_metric_is_the_held_out_loss(store: CheckpointStore) -> None:
    loaded = store.load()
    assert (loaded.step, loaded.rejected) == (6, ())
    assert loaded.engine.arrays["first/model.layers.0.self_attn.q_proj.lora_A.weight"].dtype == "F32"
    assert loaded.run_state["progress"]["position"] == 24
    assert loaded.identity["versions"]["tunewright"] == "0.1.0"
    assert store.load(store.folder / "step-000004").step == 4
    assert read_manifest(store.folder / "step-000004").metric == Metric("valid_loss", 5.162950457948627)


def test_formats_are_ranked_together(store: CheckpointStore) -> None:
    values = {step: read_manifest(store.folder / f"step-{step:06d}").metric for step in (4, 6)}
    best = min(values, key=lambda step: values[step].value)
    save(store, 8, 100.0)
    assert store.steps() == [best, 8]


def test_damage_to_an_old_checkpoint_is_found_before_it_is_read(store: CheckpointStore) -> None:
    path = store.folder / "step-000006" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"metric": 5', b'"metric": 4'))
    assert store.load().step == 4
    with pytest.raises(CheckpointError, match="own hash"):
        store.load(path.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 0},
        {"format_version": "2"},
        {"format_version": None},
        {"files": None},
        {"files": {"a": 3}},
        {"metric": {"name": "x"}},
        {"metric": 0.5},
    ],
    ids=str,
)
def test_a_manifest_of_no_format_is_damaged_even_if_its_hash_is_right(
    store: CheckpointStore, changes: dict[str, Any]
) -> None:
    path = save(store, 8).path / MANIFEST
    body = {**json.loads(path.read_bytes()), **changes}
    del body["self_sha256"]
    path.write_bytes(json_bytes({**body, "self_sha256": hashlib.sha256(json_bytes(body)).hexdigest()}))
    with pytest.raises(CheckpointError, match="is not a manifest") as caught:
        store.load(path.parent)
    assert caught.value.code == "checkpoint.damaged"
