"""A tiny model folder that each test may break in its own way, and a cache of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from families import make_family


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family_folder("llama") → folder with tiny random weights, not to be changed."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        found = root / name
        return found if found.exists() else make_family(name, found)

    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def llama(family_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama to break."""
    return Path(shutil.copytree(family_folder("llama"), tmp_path / "llama"))


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """edit_json(path, key=value): change keys of a JSON file; None removes one."""

    def edit(path: Path, /, **changes: Any) -> None:
        value = json.loads(path.read_text())
        for key, new in changes.items():
            value[key] = new
            if new is None:
                del value[key]
        path.write_text(json.dumps(value))

    return edit
