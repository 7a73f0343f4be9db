"""One training step on a tiny model of a type, through the whole program, against transformers' own loss.

The step is that of `tunewright train` with LoRA in fp32: model folder, checks, plan, engine, export. Right is
the class's own forward of each document alone, without anything of ours around it.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from causal_types import make_causal_type
from tunewright.config.load import LoadedConfig, load_config
from tunewright.data.prepare import prepare_data
from tunewright.data.templates import load_tokenizer
from tunewright.errors import TunewrightError
from tunewright.run.build import run_training
from tunewright.trackers.jsonl import read_steps

TOLERANCE = 1e-5
"""Largest relative difference of a loss in fp32: the same sums in another order."""

LAYOUTS = {"packed": {"packing": True}, "single": {"packing": False}}
"""Setting of `data` for documents end to end, and for one document a row, several rows at a time."""

_ROWS = (
    ("what is the capital of france?", "paris is the capital of france."),
    ("count", "one two three four five six seven eight nine ten one two three four five six seven eight"),
    ("a fox?", "the quick brown fox jumps over the lazy dog"),
    ("hi", "ok"),
    ("learn a small task from a few examples", "a small model learns a small task"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run with one layout ended. difference: of its first loss from transformers', relative. attention,
    rows: what the plan says of them. refused: code and message of an error by name. crashed: of any other
    end."""

    loss: float | None = None
    difference: float | None = None
    attention: str = ""
    rows: str = ""
    refused: str = ""
    crashed: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a type. not_built: why transformers itself builds no tiny model of it. reference:
    transformers' own loss a label."""

    model_type: str
    not_built: str = ""
    model_class: str = ""
    reference: float | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether nothing crashed and nothing trained with another loss than transformers' own."""
        return all(
            not one.crashed
            and (bool(one.refused) or (one.difference is not None and one.difference <= TOLERANCE))
            for one in self.layouts.values()
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Outcome:
        layouts = {name: Layout(**one) for name, one in values["layouts"].items()}
        return cls(**{**values, "layouts": layouts})


def walk_type(model_type: str, scratch: Path) -> Outcome:
    """Build the type in `scratch`, which is there and empty, and train one step in each layout."""
    try:
        folder = make_causal_type(model_type, scratch / "model")
        model_class = json.loads((folder / "config.json").read_text())["architectures"][0]
    except Exception as error:  # noqa: BLE001 - code of 189 types, whose faults are what is asked for
        return Outcome(model_type, not_built=_last_line(error))
    rows = scratch / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in _ROWS))
    loaded = {name: _config(scratch, folder, rows, name) for name in LAYOUTS}
    runs = {name: _train(loaded[name], scratch / f"run-{name}") for name in LAYOUTS}
    reference = None
    if any(run.loss is not None for run in runs.values()):
        reference = own_loss(folder, loaded["packed"])
        runs = {name: _compared(run, reference) for name, run in runs.items()}
    return Outcome(model_type, model_class=model_class, reference=reference, layouts=runs)


def own_loss(folder: Path, loaded: LoadedConfig) -> float:
    """Mean loss a label that transformers gives, by one forward of each document alone."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    data = prepare_data(loaded.config.data, load_tokenizer(folder, None), loaded.base_dir, 0, lambda _: None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total = count = 0.0
    rows, _ = data.train_sources[0]
    for number in range(len(rows)):
        for example in rows.row(number):
            tokens_T = torch.from_numpy(example.tokens_T.astype("int64"))
            weights_T = torch.from_numpy(example.weights_T.astype("float64"))
            with torch.no_grad():
                logits_TV = model(input_ids=tokens_T[None], use_cache=False).logits[0]
            loss_T = F.cross_entropy(logits_TV[:-1].double(), tokens_T[1:], reduction="none")
            total += float((loss_T * weights_T[1:]).sum())
            count += float(weights_T[1:].sum())
    return total / count


def _config(scratch: Path, folder: Path, rows: Path, layout: str) -> LoadedConfig:
    settings = {
        "model": {"name": str(folder)},
        "engine": "torch",
        "device": "cpu",
        "adapter": {"rank": 4},
        "data": {"train": str(rows), "eval": 0, "seq_len": 256, **LAYOUTS[layout]},
        "train": {"max_steps": 1, "batch_size": len(_ROWS), "micro_batch_size": 2, "precision": "fp32"},
    }
    path = scratch / f"{layout}.yaml"
    path.write_text(json.dumps(settings))
    return load_config(path)


def _train(loaded: LoadedConfig, out: Path) -> Layout:
    lines: list[str] = []
    try:
        run_training(loaded, out=out, resume=None, say=lines.append)
    except TunewrightError as error:
        # Also after the first step: whatever did not end well was not trained.
        return Layout(refused=f"{error.code}: {error.what}", attention=_attention(lines))
    except Exception as error:  # noqa: BLE001 - any other end is what the walk looks for
        return Layout(crashed=_last_line(error) + "".join(traceback.format_tb(error.__traceback__)[-2:]))
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    loss = read_steps(out / "events.jsonl")[1]["loss"]
    return Layout(loss=loss, attention=_attention(lines), rows=plan["layout"])


def _attention(lines: list[str]) -> str:
    """What the plan says of it."""
    device = next((line for line in lines if line.startswith("device ")), "")
    return device.partition("attention ")[2].rpartition(", ")[0]


def _compared(run: Layout, reference: float) -> Layout:
    if run.loss is None:
        return run
    return replace(run, difference=abs(run.loss - reference) / reference)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
