"""`mlx_lm.lora` as shipped, told to write down when it reports: a child of mlx_lora.py.

Takes the options of `mlx_lm.lora` and --record FILE. Its loader, loop and defaults run unchanged; only the
callback that it offers for reports is ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path
from typing import Any

from mlx_lm.lora import CONFIG_DEFAULTS, build_parser, load_dataset, train_model
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.utils import load


class Record(TrainingCallback):
    """Appends one line of JSON a report."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        line = {
            "step": train_info["iteration"],
            "tokens": int(train_info["trained_tokens"]),
            "loss": train_info["train_loss"],
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """What mlx_lm.lora.run does with --train."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--record", type=Path, required=True)
    mine, rest = own.parse_known_args(sys.argv[1:])
    given = {
        name: value for name, value in vars(build_parser().parse_args(rest)).items() if value is not None
    }
    args = types.SimpleNamespace(**{**CONFIG_DEFAULTS, **given})
    model, tokenizer = load(args.model)
    train_set, valid_set, _ = load_dataset(args, tokenizer)
    train_model(args, model, train_set, valid_set, Record(mine.record))


if __name__ == "__main__":
    main()
