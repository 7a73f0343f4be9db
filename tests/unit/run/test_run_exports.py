"""What a person is told of an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tunewright.engines.merge_certificate import state_nothing_compared
from tunewright.engines.protocol import Engine
from tunewright.run.exports import Exports
from tunewright.run.folder import RunFolder


class _Uncompared:
    def export(self, folder: Path, *, merge: bool) -> Mapping[str, object]:
        return state_nothing_compared("no memory")


def test_a_model_that_nobody_compared_is_kept_and_warned_of(tmp_path: Path) -> None:
    told: list[tuple[str, Any]] = []
    emit: Any = lambda event, step, **fields: told.append((event, fields))  # noqa: E731
    engine = cast(Engine, _Uncompared())
    exports = Exports(engine, emit, RunFolder(tmp_path / "run"), tmp_path, chat_template=None, keep=1)
    assert exports.write("final", 3, merge=True).is_dir()
    assert [event for event, _ in told] == ["warning", "export"]
    assert "compared: no memory" in told[0][1]["message"]
