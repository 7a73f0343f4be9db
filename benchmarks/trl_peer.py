"""One measured process of TRL and PEFT on the same documents and weights. Writes a Report."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from measure import PeakMemory, Stopwatch, Work, hold_heap
from real_rows import read_rows
from workload import SHAPES, draw_documents

from tunewright.models.lora import initial_values

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


ENDLESS = 10**9


def main() -> None:
    """Train, then report."""
    options = _options()
    stopwatch = Stopwatch(warm_up=options.warm_up, turn=options.turn)
    if options.held:
        hold_heap()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    memory = PeakMemory(options.device)
    model = _load(options)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _build_trainer(options, model, scratch, stopwatch)
        _start_as_ours(trainer.model)
        with suppress(NoMoreSteps):
            trainer.train()
    stopwatch.end()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl, peft)}
    details = {"attention": options.attention, "liger": options.liger, "versions": versions}
    losses = [float(loss) for loss in trainer.losses]
    stopwatch.report(options.name, losses, memory.read(weights), details)


class NoMoreSteps(Exception):
    """The parent of this process has seen enough."""


class Counted:
    """A collator that counts each batch while it is on the host. The trainer fetches batches ahead, so the
    counts wait in order for their steps."""

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        self._collate = collate
        self.work: deque[Work] = deque()

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = self._collate(examples)
        self.work.append(_work(batch))
        return batch


class Timed(trl.SFTTrainer):
    """SFTTrainer that keeps the loss and the real tokens of each step. It reads nothing from the device
    meanwhile: the host would wait for each step, as it does not where nobody measures."""

    def __init__(self, *, stopwatch: Stopwatch, **kwargs: Any) -> None:
        self.losses: list[torch.Tensor] = []
        self.stopwatch = stopwatch
        super().__init__(**kwargs)
        self.data_collator = self.counted = Counted(self.data_collator)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The optimizer's update falls into the time of its step, which ends when the next one begins."""
        if not self.stopwatch.begin(self.counted.work.popleft()):
            raise NoMoreSteps
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.append(loss.detach())
        return loss


def _work(inputs: dict[str, Any]) -> Work:
    """Real tokens, labels and Σ length² of a batch, padded or packed."""
    ids, mask, positions = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids")
    labels = int((inputs["labels"] != -100).sum())
    if mask is not None:
        lengths = mask.sum(1)
        return Work(int(lengths.sum()), labels, float((lengths.double() ** 2).sum()))
    if positions is None:
        return Work(ids.numel(), labels, float(ids.shape[0] * ids.shape[1] ** 2))
    flat = positions.flatten()
    last = torch.ones_like(flat, dtype=torch.bool)
    last[:-1] = flat[1:] == 0
    return Work(ids.numel(), labels, float(((flat + 1).double() ** 2 * last).sum()))


@torch.no_grad()
def _start_as_ours(model: Any) -> None:
    """Give the adapter the start values of our engine: then losses can be compared step by step."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_A." in name:
            module = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
            start = initial_values(0, module, parameter.shape[1], parameter.shape[0])
            parameter.copy_(torch.from_numpy(start))


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


def _build_trainer(options: argparse.Namespace, model: Any, scratch: str, stopwatch: Stopwatch) -> Timed:
    config = trl.SFTConfig(
        output_dir=scratch,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        lr_scheduler_type="constant",
        logging_steps=ENDLESS,
        # Packed rows come longest documents first, so those are shuffled as they are by default.
        train_sampling_strategy="random" if options.packed else "sequential",
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
        stopwatch=stopwatch,
        model=model,
        args=config,
        train_dataset=_rows(options),
        processing_class=_tokenizer(),
        peft_config=lora,
    )


def _rows(options: argparse.Namespace) -> datasets.Dataset:
    if options.texts:
        examples = read_rows(options.texts)
    else:
        vocabulary = SHAPES[options.model].vocabulary
        examples = draw_documents(
            options.rows, options.documents, longest=options.longest, vocabulary=vocabulary
        )
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
    parser.add_argument("--texts", help="a file of real_rows.py, instead of drawn documents")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=ENDLESS)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--held", action="store_true", help="glibc keeps what is freed")
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--four-bit", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
