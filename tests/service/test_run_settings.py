"""From hyperparameters to a run file, and which ends of an attempt are worth another."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunewright.config.load import load_config
from tunewright.config.schema import SourceConfig
from tunewright.errors import ExitCode
from tunewright.service.retry import MOST_ATTEMPTS, TRANSIENT_CODES, judge
from tunewright.service.run_settings import looks_apart, resolve_hyperparameters, run_settings
from tunewright.service.schemas.hyperparameters import Hyperparameters
from tunewright.service.schemas.jobs import Format

ours = st.fixed_dictionaries(
    {},
    optional={
        "n_epochs": st.integers(1, 50) | st.just("auto") | st.none(),
        "batch_size": st.integers(1, 256) | st.just("auto"),
        "learning_rate": st.floats(1e-6, 0.5),
        "use_lora": st.just(True),
        "lora_r": st.integers(1, 1024),
        "lora_alpha": st.floats(0.5, 1e4),
        "lora_dropout": st.floats(0, 0.9),
        "lora_target_modules": st.just("all-linear") | st.just("q_proj") | st.just(["q_proj", "v_proj"]),
        "lora_bias": st.sampled_from(["none", "all", "lora_only"]),
        "use_qlora": st.booleans(),
        "seq_len": st.integers(8, 4096),
    },
)


@given(ours, st.integers(10, 10**6))
def test_whatever_may_be_asked_is_a_run_file(asked: dict[str, Any], rows: int) -> None:
    shown = Hyperparameters.model_validate(asked).model_dump(exclude_none=True)
    resolved = resolve_hyperparameters(shown, rows)
    assert "auto" not in resolved.values()
    settings = run_settings(resolved, model="builtin:tiny", seed=1, rows=rows, format=None)
    data = {name: value for name, value in settings["data"].items() if name != "format"}
    settings["data"] = {**data, "train": "rows.jsonl"}
    config = load_config(None, text=json.dumps(settings)).config
    assert config.train.batch_size == resolved["batch_size"]
    assert config.checkpoint.every_steps >= 1


@given(st.integers(1, 10**7))
def test_an_evaluation_falls_on_the_end_of_each_epoch(steps: int) -> None:
    assert steps % looks_apart(steps) == 0
    assert steps // looks_apart(steps) <= 4


@pytest.mark.parametrize(("rows", "batch"), [(10, 1), (63, 1), (64, 2), (512, 16), (10**6, 16)])
def test_auto_batch_grows_with_the_rows(rows: int, batch: int) -> None:
    assert resolve_hyperparameters({}, rows)["batch_size"] == batch


def test_the_multiplier_counts_from_the_rate_of_the_kind_of_training() -> None:
    def rate(**asked: Any) -> float:
        resolved = resolve_hyperparameters(asked, 10)
        return run_settings(resolved, model="m", seed=0, rows=10, format=None)["train"]["learning_rate"]

    assert rate() == 2e-4
    assert rate(learning_rate_multiplier=0.5) == 1e-4
    assert rate(use_lora=False, learning_rate_multiplier=2.0) == 4e-5
    assert rate(learning_rate=3e-3) == 3e-3


@pytest.mark.parametrize(
    "wrong",
    [{"n_epochs": value} for value in (0, 51, 1.0, "3", True, [], "AUTO")]
    + [{"batch_size": value} for value in (0, 257)]
    + [{"learning_rate_multiplier": value} for value in (0, -1, float("inf"), float("nan"), "1", True)]
    + [{"learning_rate": value} for value in (0, 1, float("nan"))]
    + [{"lora_dropout": 1}, {"lora_alpha": 0}, {"lora_target_modules": []}, {"lora_target_modules": ["a b"]}]
    + [{"seq_len": 7}, {"lora_bias": "some"}, {"rank": 8}],
)
def test_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate(wrong)


def test_the_formats_are_those_of_the_run_file() -> None:
    assert set(get_args(Format)) == set(get_args(SourceConfig.model_fields["format"].annotation))


TRIES: list[tuple[int | None, str | None, int]] = [
    (None, "worker_lost", MOST_ATTEMPTS - 1),
    (-9, None, MOST_ATTEMPTS - 1),
    (137, None, MOST_ATTEMPTS - 1),
    (ExitCode.PREEMPTED, None, MOST_ATTEMPTS - 1),
    (ExitCode.STALLED, None, MOST_ATTEMPTS - 1),
    (ExitCode.OUT_OF_MEMORY, None, 1),
    (ExitCode.INTERNAL, None, 1),
    (ExitCode.USER_ERROR, "config.invalid", 0),
    (ExitCode.DATA_ERROR, "data.row", 0),
    *((int(ExitCode.USER_ERROR), code, MOST_ATTEMPTS - 1) for code in sorted(TRANSIENT_CODES)),
]


@pytest.mark.parametrize(("exit_code", "code", "more"), TRIES)
def test_attempts_after_an_end(exit_code: int | None, code: str | None, more: int) -> None:
    verdicts = [judge(exit_code, code, failures) for failures in range(MOST_ATTEMPTS + 2)]
    assert sum(verdict.again for verdict in verdicts) == more
    waits = [verdict.delay_seconds for verdict in verdicts if verdict.again]
    assert waits == sorted(waits)
    # A lost worker was waited for as long as its lease.
    assert all((code == "worker_lost" or wait > 0) and wait <= 60 for wait in waits)
