"""The first 20 losses and gradient norms equal TRL's SFTTrainer with PEFT, fp32, to 1e-5 relative.

TRL is the reference only; nothing of it is used at run time. Both get the same tokenised rows in the same
order and the same LoRA start values; TRL pads a batch, the engine lays it end to end.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from engine_cases import build_spec, draw_documents, lay_out
from tunewright.engines.torch.engine import build_engine

STEPS = 20
ROWS = 4
ACCUMULATION = 2
RATE = 5e-3
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # TRL, accelerate and PEFT warn of their own deprecations
]


class _Record(TrainerCallback):
    def __init__(self):
        self.losses, self.norms = [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


def _documents():
    lengths = np.random.Generator(np.random.Philox(3)).integers(6, 40, size=STEPS * ROWS * ACCUMULATION)
    return [
        (tokens, (weights > 0).astype(np.float32))
        for tokens, weights in draw_documents(lengths.tolist(), seed=4)
    ]


def _reference(folder, documents, start, out):
    """(losses, norms) of SFTTrainer; `start` holds the LoRA start values under our names."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[name.removeprefix("base_model.model.").replace(".default", "")])
    rows = Dataset.from_list(
        [{"input_ids": t.tolist(), "completion_mask": (w > 0).astype(int).tolist()} for t, w in documents]
    )
    args = SFTConfig(
        output_dir=str(out),
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
    trainer.train()
    return record.losses, record.norms


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_first_steps_equal_trl(family, family_folder, tmp_path):
    folder, documents = family_folder(family), _documents()
    engine = build_engine(build_spec(folder))
    start = {name: p.detach().clone() for name, p in engine._model.named_parameters() if p.requires_grad}
    losses, norms = [], []
    per_step = ROWS * ACCUMULATION
    for step in range(STEPS):
        mine = documents[step * per_step : (step + 1) * per_step]
        weight = float(sum(weights.sum() for _, weights in mine))
        engine.forward_backward([lay_out([mine[:5], mine[5:]])], denominator=weight)
        stats = engine.optim_step(lr=RATE, skip_above=None).read()
        losses.append(stats.sums.loss / stats.sums.weight)
        norms.append(stats.gradient_norm)
    expected_losses, expected_norms = _reference(folder, documents, start, tmp_path)
    assert len(expected_losses) == STEPS
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-5)
    assert losses[0] - losses[-1] > 0.01 or max(losses) - min(losses) > 0.01
