"""Windows of a model, narrowed for a check: the mechanism is the same, and 7B models have windows of 4,096
tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

NARROW = 16
"""Tokens that one sees in a narrowed window, itself included."""

# As families call them, in the config and in the layers.
_NAMES = ("sliding_window", "attention_window_size", "attention_chunk_size")


@contextmanager
def narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Set every window above NARROW to it, in the layers and in the config."""
    wide = [(holder, name, window) for holder, name, window in _windows(model) if window > NARROW]
    for holder, name, _ in wide:
        setattr(holder, name, NARROW)
    try:
        yield
    finally:
        for holder, name, window in wide:
            setattr(holder, name, window)


def has_windows(model: PreTrainedModel) -> bool:
    """Whether any layer may have one."""
    return any(True for _ in _windows(model))


def _windows(model: PreTrainedModel) -> Iterator[tuple[object, str, int]]:
    for holder in (model.config.get_text_config(), *model.modules()):
        for name in _NAMES:
            window = getattr(holder, name, None)
            if isinstance(window, int) and window:
                yield holder, name, window
