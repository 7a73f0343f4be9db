"""Tiny models to ask, loaded once per session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from families import make_family
from tunewright.models.resolve import ModelFiles


@pytest.fixture(scope="session")
def family_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelFiles]:
    """family_model("llama") → model files; the folder itself stands in for the sanitised copy."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def model(name: str) -> ModelFiles:
        folder: Path = make_family(name, root / name)
        return ModelFiles(folder, str(folder), None, ())

    return model
