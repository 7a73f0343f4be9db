"""Model classes of mlx-lm, imported without its package file.

`import mlx_lm` loads transformers and torch (two seconds, 250 MB) and lowers the process's limit of open
files. The model modules need neither, so they are imported below an empty stand-in for the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

_PACKAGE = "mlx_lm"


def import_models_module(name: str) -> ModuleType:
    """`mlx_lm.models.<name>`: a model family, or `cache`. Raises ModuleNotFoundError without mlx-lm."""
    with _stand_in():
        return import_module(f"{_PACKAGE}.models.{name}")


@contextmanager
def _stand_in() -> Iterator[None]:
    """An empty package while modules below it load; gone afterwards, so that others import the real one."""
    if _PACKAGE in sys.modules:
        yield
        return
    spec = find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[_PACKAGE] = package
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]
