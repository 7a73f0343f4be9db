"""Location of the real pre-trained model that `make real-model` builds, and the skip of tests without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_MODEL_VARIABLE = "TUNEWRIGHT_REAL_MODEL"


def real_model_path() -> Path:
    """The folder that TUNEWRIGHT_REAL_MODEL names, else one beside the cache's files. It may not be there."""
    named = os.environ.get(REAL_MODEL_VARIABLE)
    if named:
        return Path(named)
    from tunewright.cache import cache_folder

    return cache_folder() / "real" / "SmolLM2-135M-Instruct"


# At import: tests set a cache of their own later.
REAL_MODEL = real_model_path().absolute()

needs_real_model = pytest.mark.skipif(
    not REAL_MODEL.is_dir(), reason=f"needs the real model: make real-model builds it in {REAL_MODEL}"
)
