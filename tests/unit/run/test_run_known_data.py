"""`plan` and `train` count the same rows, and say the same of whether a run fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tunewright.cli.main import run
from tunewright.config.load import LoadedConfig, load_config
from tunewright.data.prepare import prepare_data
from tunewright.data.templates import load_tokenizer
from tunewright.models.resolve import resolve_model
from tunewright.run.devices import DeviceClass
from tunewright.run.engine_options import asked_layout
from tunewright.run.estimate import Estimate, estimate_run
from tunewright.run.inputs import read_inputs
from tunewright.run.memory import split_need
from tunewright.run.parts import build_stream
from tunewright.run.paths import absolute_paths
from tunewright.run.plan import resolve_total_steps
from tunewright.run.row_lengths import with_lengths
from tunewright.run.split import memory_facts

PLACE = DeviceClass("a CPU", "cpu", 64 * 2**30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def _write(path: Path, rows: int, words: int) -> None:
    answer = " ".join(["far"] * words)
    row = {"messages": [{"role": "user", "content": "how far"}, {"role": "assistant", "content": answer}]}
    lines = [json.dumps({**row, "number": number}) for number in range(rows)]
    path.write_text("\n".join(lines) + "\n")


def _load(folder: Path, **data: object) -> LoadedConfig:
    values = {"train": "rows.jsonl", "seq_len": 4096, "eval": 0.1, **data}
    train = {"precision": "fp32", "batch_size": 4}
    text = json.dumps({"model": "builtin:tiny", "data": values, "train": train})
    (folder / "run.yaml").write_text(text)
    return absolute_paths(load_config(folder / "run.yaml"))


def _estimate(loaded: LoadedConfig, usable_bytes: int | None = None) -> Estimate:
    # A CPU plans with 60 % of its memory.
    device = PLACE if usable_bytes is None else replace(PLACE, memory_bytes=round(usable_bytes / 0.6) + 2)
    return estimate_run(loaded.config, loaded.base_dir, device)


@pytest.mark.parametrize("packing", [True, False])
def test_a_plan_counts_the_rows_that_train_reads(folder: Path, packing: bool):
    _write(folder / "rows.jsonl", 50, 20)
    loaded = _load(folder, packing=packing)
    inputs = read_inputs(loaded.config, loaded.base_dir, print)
    full = memory_facts(loaded.config, inputs.arch, "cpu", ("fp32", "fp32"), "none")
    found = _estimate(loaded)
    assert found.facts == with_lengths(full, loaded.config, inputs.data) != full
    assert found.steps == resolve_total_steps(
        loaded.config, build_stream(inputs, 1, asked_layout(loaded.config))
    )
    assert found.data is not None
    assert (found.data.rows, found.data.exact) == (inputs.data.report.train_rows, True)
    assert found.data.tokens_per_row * found.data.rows == pytest.approx(
        sum(int(rows.lengths().sum()) for rows, _ in inputs.data.train_sources)
    )


def test_large_data_is_tokenised_for_a_plan_only_where_that_decides(folder: Path):
    _write(folder / "rows.jsonl", 12_000, 20)
    assert (folder / "rows.jsonl").stat().st_size > 2**20
    loaded = _load(folder)
    full = _estimate(loaded)
    assert full.data is not None
    assert (full.data.exact, full.facts.step_tokens) == (False, None)
    assert not list((folder / "cache" / "data").glob("*.tokens"))
    decided = _estimate(loaded, _least_of_full_rows(full) - 100)
    assert decided.fits
    assert decided.facts.step_tokens is not None
    # From then on it is known, to `train` too.
    assert len(list((folder / "cache" / "data").glob("*.tokens"))) == 1
    assert _estimate(loaded).facts == decided.facts
    tokenizer = load_tokenizer(resolve_model("builtin:tiny").folder, None)
    prepare_data(loaded.config.data, tokenizer, loaded.base_dir, 0)
    assert len(list((folder / "cache" / "data").glob("*.tokens"))) == 1


def test_long_held_out_rows_count_beside_short_ones_that_train(folder: Path):
    _write(folder / "rows.jsonl", 50, 5)
    _write(folder / "held.jsonl", 8, 700)
    short, long = _estimate(_load(folder)), _estimate(_load(folder, eval="held.jsonl"))
    assert short.facts.step_tokens == long.facts.step_tokens
    assert (short.facts.held_out_tokens or 0) <= 128
    assert (long.facts.held_out_tokens or 0) > 4096
    assert long.need.peak > short.need.peak


@pytest.mark.parametrize("content", ["", "not json\n"])
def test_bad_data_leaves_full_rows(folder: Path, content: str):
    _write(folder / "rows.jsonl", 20, 5)
    loaded = _load(folder, eval="held.jsonl")
    assert _estimate(loaded).facts.step_tokens is None  # no held-out file
    (folder / "held.jsonl").write_text(content or "{}\n")
    assert _estimate(loaded).facts.step_tokens is None


def test_rows_that_are_read_when_their_turn_comes_are_full(folder: Path, capsys: pytest.CaptureFixture[str]):
    _write(folder / "rows.jsonl", 20, 5)
    _load(folder, loading="indexed")
    assert run(["plan", "run.yaml", "--device", "cpu"]) == 0
    assert "rows: counted as full ones of 4,096 tokens" in capsys.readouterr().out


def _least_of_full_rows(full: Estimate) -> int:
    return min(split_need(full.facts, 1, layers).peak for layers in range(full.facts.arch.layers + 1))
