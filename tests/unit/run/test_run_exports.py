"""What a person is told of an export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tunewright.engines.merge_certificate import state_nothing_compared
from tunewright.engines.protocol import Engine
from tunewright.run.exports import Exports
from tunewright.run.folder import RunFolder


class _Certified:
    """As much of an engine as an export takes."""

    def __init__(self, certificate: Mapping[str, object]) -> None:
        self._certificate = certificate

    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        return self._certificate


def events_of(folder: Path, certificate: Mapping[str, object]) -> list[dict[str, Any]]:
    """What exporting with this certificate tells."""
    events: list[dict[str, Any]] = []

    def emit(type: str, step: int, **fields: Any) -> None:
        events.append({"type": type, "step": step, **fields})

    engine = cast("Engine", _Certified(certificate))
    exports = Exports(engine, emit, RunFolder(folder / "run"), folder, chat_template=None, keep=1)
    assert exports.write("final", 5, merge=True).is_dir()
    return events


def test_a_model_that_nobody_compared_is_kept_and_warned_of(tmp_path: Path) -> None:
    warning, export = events_of(tmp_path, state_nothing_compared("no memory"))
    assert (warning["type"], export["type"]) == ("warning", "export")
    assert "compared: no memory" in warning["message"]


def test_what_quantisation_costs_is_told(tmp_path: Path) -> None:
    [export] = events_of(tmp_path, {"bound": 0.1, "quantization_difference": 0.5})
    assert (export["type"], export["quantization_difference"]) == ("export", 0.5)
    [export] = events_of(tmp_path, {"bound": 0.1})
    assert "quantization_difference" not in export


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(None, 7), ({"eos_token_id": 3}, [3, 7]), ({"eos_token_id": [3, 7]}, [3, 7]), ({"top_k": 5}, 7)],
)
def test_other_programs_stop_where_a_trained_answer_ends(
    tmp_path: Path, stored: dict[str, Any] | None, expected: object
) -> None:
    """transformers and vLLM read the ends of generation from this file, not from the chat template."""
    if stored is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(stored))
    engine = cast("Engine", _Certified({"bound": 0.1}))
    exports = Exports(
        engine, lambda *_, **__: None, RunFolder(tmp_path / "run"), tmp_path, None, 1, stop_ids=(7,)
    )
    exported = json.loads((exports.write("final", 5, merge=False) / "generation_config.json").read_text())
    assert exported == {**(stored or {}), "eos_token_id": expected}
