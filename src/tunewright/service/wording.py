"""OpenAI's words and metric names for what a run does. Programs parse them, so they stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Figure of the run folder → name in events and checkpoints.
NAMES = {
    "loss": "train_loss",
    "token_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_token_accuracy": "valid_mean_token_accuracy",
}
FULL = {"valid_loss": "full_valid_loss", "valid_token_accuracy": "full_valid_mean_token_accuracy"}
"""The held-out data is always evaluated whole, so both names have the same figure."""

# Ours, beside OpenAI's in the data of metrics events.
EXTRAS = ("learning_rate", "gradient_norm", "tokens_per_second", "gpu_memory_used", "epoch")


def metrics_message(step: int, total_steps: int, figures: Mapping[str, Any]) -> str:
    """`Step 300/300: training loss=0.15, validation loss=0.27, full validation loss=0.40`."""
    parts = [
        ("training loss", "loss"),
        ("validation loss", "valid_loss"),
        ("full validation loss", "valid_loss"),
    ]
    told = [f"{words}={figures[name]:.2f}" for words, name in parts if figures.get(name) is not None]
    return f"Step {step}/{total_steps}: {', '.join(told)}"


def metrics_data(step: int, total_steps: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` of a metrics event."""
    data = {"step": step, "total_steps": total_steps, **_renamed(figures)}
    return data | {name: figures[name] for name in EXTRAS if figures.get(name) is not None}


def checkpoint_metrics(step: int, figures: Mapping[str, Any]) -> dict[str, float]:
    """The `metrics` of a checkpoint."""
    return {"step": float(step), **_renamed(figures)}


def _renamed(figures: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for table in (NAMES, FULL):
        found |= {name: figures[ours] for ours, name in table.items() if figures.get(ours) is not None}
    return found
