"""One measured process of TRL and PEFT on the same documents and weights. Prints a Report."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from measure import Clock, PeakMemory, Report, Step
from workload import SHAPES, draw_conversations, draw_full_rows

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train and report."""
    options = _options()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    memory = PeakMemory("cuda" if options.device == "cuda" else "cpu")
    model = _load(options)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _build_trainer(options, model, scratch)
        trainer.train()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl, peft)}
    details = {"attention": options.attention, "liger": options.liger, "versions": versions}
    Report(options.name, trainer.steps, memory.read(weights), details).print()


class Timed(trl.SFTTrainer):
    """SFTTrainer that keeps the time and the real tokens of each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.steps: list[Step] = []
        self.clock = Clock()
        super().__init__(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The optimizer's update of the step before falls into this one's time."""
        tokens, labels, squares = _count(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        value = float(loss)
        wall, cpu = self.clock.tick()
        self.steps.append(Step(tokens, labels, squares, wall, cpu, value))
        return loss


def _count(inputs: dict[str, Any]) -> tuple[int, int, float]:
    """Real tokens, labels and Σ length² of a batch, padded or packed."""
    ids, mask, positions = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids")
    labels = int((inputs["labels"] != -100).sum())
    if mask is not None:
        lengths = mask.sum(1)
        return int(lengths.sum()), labels, float((lengths.double() ** 2).sum())
    if positions is None:
        return ids.numel(), labels, float(ids.shape[0] * ids.shape[1] ** 2)
    flat = positions.flatten()
    last = torch.ones_like(flat, dtype=torch.bool)
    last[:-1] = flat[1:] == 0
    return ids.numel(), labels, float(((flat + 1).double() ** 2 * last).sum())


def _load(options: argparse.Namespace) -> Any:
    extra: dict[str, Any] = {}
    if options.four_bit:
        extra["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.folder,
        dtype=getattr(torch, options.dtype),
        attn_implementation=options.attention,
        device_map=options.device,
        **extra,
    )
    model.config.use_cache = False
    return model


def _build_trainer(options: argparse.Namespace, model: Any, scratch: str) -> Timed:
    config = trl.SFTConfig(
        output_dir=scratch,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        logging_steps=10**9,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=True,
        gradient_checkpointing=options.checkpointing,
        use_liger_kernel=options.liger,
        max_length=options.longest,
        packing=options.packed,
        completion_only_loss=True,
        dataloader_pin_memory=options.device == "cuda",
        use_cpu=options.device == "cpu",
        optim="adamw_torch_fused",
    )
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules=MODULES, task_type="CAUSAL_LM"
    )
    return Timed(
        model=model,
        args=config,
        train_dataset=_rows(options),
        processing_class=_tokenizer(),
        peft_config=lora,
    )


def _rows(options: argparse.Namespace) -> datasets.Dataset:
    vocabulary = SHAPES[options.model].vocabulary
    if options.rows == "full":
        examples = draw_full_rows(options.documents, length=options.longest, vocabulary=vocabulary)
    else:
        examples = draw_conversations(options.documents, longest=options.longest, vocabulary=vocabulary)
    return datasets.Dataset.from_list(
        [
            {"input_ids": e.tokens_T.tolist(), "completion_mask": (e.weights_T > 0).astype(int).tolist()}
            for e in examples
        ]
    )


def _tokenizer() -> Any:
    """The trainer asks for one and, on tokens, uses its padding token alone."""
    from tokenizers import Tokenizer, models

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<s>")),
        pad_token="<pad>",
        eos_token="</s>",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="trl")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--rows", choices=("conversations", "full"), default="conversations")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--four-bit", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
