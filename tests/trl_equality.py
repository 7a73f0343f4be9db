"""The first 20 losses and gradient norms against TRL's SFTTrainer with PEFT in fp32.

Both get the same tokenised rows in the same order and the same LoRA start values; TRL pads a batch and
accumulates two, the engine lays the rows of a step end to end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

from engine_cases import Document, build_spec, lay_out, total_weight
from engine_equalities import relative_difference
from reference_equalities import MOVED, draw_plain, load_eager
from tunewright.engines.torch.engine import TorchEngine, build_engine

STEPS = 20
ROWS = 4
ACCUMULATION = 2
RATE = 5e-3


def trl(folder: Path, scratch: Path) -> float:
    """Losses and norms of 20 steps of the engine against those of SFTTrainer."""
    lengths = np.random.Generator(np.random.Philox(3)).integers(6, 40, size=STEPS * ROWS * ACCUMULATION)
    documents = draw_plain(lengths.tolist(), seed=4)
    engine = build_engine(build_spec(folder))
    start = {name: p.detach().clone() for name, p in engine._model.named_parameters() if p.requires_grad}
    losses, norms = _train(engine, documents)
    expected_losses, expected_norms = _train_reference(folder, documents, start, scratch)
    assert len(expected_losses) == STEPS
    assert max(losses) / min(losses) - 1 > MOVED
    return max(relative_difference(losses, expected_losses), relative_difference(norms, expected_norms))


def _train(engine: TorchEngine, documents: list[Document]) -> tuple[list[float], list[float]]:
    losses, norms = [], []
    per_step = ROWS * ACCUMULATION
    for first in range(0, len(documents), per_step):
        mine = documents[first : first + per_step]
        engine.forward_backward([lay_out([mine[:5], mine[5:]])], denominator=total_weight(mine))
        stats = engine.optim_step(lr=RATE, skip_above=None).read()
        losses.append(stats.sums.loss / stats.sums.weight)
        norms.append(stats.gradient_norm)
    return losses, norms


class _Record(TrainerCallback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "grad_norm" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


def _train_reference(
    folder: Path, documents: list[Document], start: dict[str, torch.Tensor], scratch: Path
) -> tuple[list[float], list[float]]:
    """(losses, norms) of SFTTrainer; `start` holds the LoRA start values under our names."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_eager(folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name.removeprefix("base_model.model.").replace(".default", "")])
    rows = Dataset.from_list(
        [{"input_ids": t.tolist(), "completion_mask": (w > 0).astype(int).tolist()} for t, w in documents]
    )
    args = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=ACCUMULATION,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=1,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    record = _Record()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[record]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return record.losses, record.norms
