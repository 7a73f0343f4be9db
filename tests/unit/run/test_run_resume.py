"""What may change between a checkpoint and its resume, and what may not."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunewright.config.schema import RunConfig
from tunewright.data.example_rows import MemoryRows
from tunewright.errors import ConfigError, ConfigErrors, RunError
from tunewright.run.disk import named_disk_errors
from tunewright.run.folder import RunFolder
from tunewright.run.identity import examples_hash, model_hash
from tunewright.run.resume import check_same_settings, find_run
from tunewright.types import Example, SourceRef


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "m", "data": {"train": "x.json"}, **sections})


def test_every_conflict_is_named() -> None:
    before = config().model_dump(mode="json")
    now = config(train={"batch_size": 4, "seed": 1}, adapter={"rank": 3})
    with pytest.raises(ConfigErrors) as caught:
        check_same_settings(before, now)
    assert [error.where for error in caught.value.errors] == [
        "adapter.rank",
        "train.batch_size",
        "train.seed",
    ]


def test_what_is_trained_on_may_not_change() -> None:
    before = config().model_dump(mode="json")
    with pytest.raises(ConfigErrors, match=r"data\.train_on"):
        check_same_settings(before, config(data={"train": "x.json", "train_on": "all"}))


def test_when_to_look_and_save_may_change() -> None:
    before = config().model_dump(mode="json")
    now = config(
        checkpoint={"every_steps": 7}, train={"micro_batch_size": 1}, evaluate={"every_steps": 3}, run="other"
    )
    check_same_settings(before, now)


def test_the_adapter_that_a_run_started_from_may_lie_elsewhere_by_now() -> None:
    """On another machine its folder has another path; its values are in the checkpoint."""
    before = config(adapter={"start_from": "/first/start"}).model_dump(mode="json")
    check_same_settings(before, config(adapter={"start_from": "/second/start"}))
    with pytest.raises(ConfigErrors, match=r"adapter\.start_from"):
        check_same_settings(before, config())


def test_a_run_is_found_by_folder_or_by_checkpoint(tmp_path: Path) -> None:
    step = tmp_path / "run/checkpoints/step-000004"
    step.mkdir(parents=True)
    (step / "manifest.json").touch()
    (tmp_path / "run/events.jsonl").touch()
    assert find_run("auto", out=tmp_path / "run") == (RunFolder(tmp_path / "run"), None)
    assert find_run(str(tmp_path / "run"), out=None) == (RunFolder(tmp_path / "run"), None)
    assert find_run(str(step), out=None) == (RunFolder(tmp_path / "run"), step)
    with pytest.raises(ConfigError, match="its own folder"):
        find_run(str(step), out=tmp_path / "other")
    with pytest.raises(RunError, match="mine"):
        find_run("auto", out=None, name="mine")
    with pytest.raises(RunError, match="no run to resume"):
        find_run(str(tmp_path), out=None)
    with pytest.raises(RunError, match="no run to resume"):
        find_run("auto", out=tmp_path / "other")


def rows_of(*examples: Example) -> MemoryRows:
    return MemoryRows([one] for one in examples)


def example(*tokens: int, weight: float = 1.0) -> Example:
    weights = np.full(len(tokens), weight, dtype=np.float32)
    return Example(np.array(tokens, dtype=np.int32), weights, SourceRef("f", 1))


def test_the_data_hash_sees_tokens_weights_order_and_source_weights() -> None:
    base = examples_hash([(rows_of(example(1, 2), example(3)), 1.0)])
    assert base == examples_hash([(rows_of(example(1, 2), example(3)), 1.0)])
    others = [
        [(rows_of(example(3), example(1, 2)), 1.0)],
        [(rows_of(example(1, 2), example(3)), 2.0)],
        [(rows_of(example(1, 2, weight=0.5), example(3)), 1.0)],
        [(rows_of(example(1), example(2, 3)), 1.0)],
    ]
    assert base not in {examples_hash(other) for other in others}


def test_the_model_hash_sees_other_weights_of_the_same_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(100_000))
    before = model_hash(tmp_path)
    assert before == model_hash(tmp_path)
    weights.write_bytes(bytes([1]) * 100_000)
    assert model_hash(tmp_path) != before


def test_a_full_disk_gets_a_name_and_other_faults_pass(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, named_disk_errors(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device", "x")
    assert caught.value.code == "run.disk-full"
    assert "MiB free" in str(caught.value)
    with pytest.raises(BlockingIOError), named_disk_errors(tmp_path):
        raise OSError(errno.EAGAIN, "try again")
