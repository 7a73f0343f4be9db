"""Model folders of the families, written once per session, and one CPU thread: goldens depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from families import make_family


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family_folder("llama") → folder with tiny random weights."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        found = root / name
        return found if found.exists() else make_family(name, found)

    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
