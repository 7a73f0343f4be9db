"""What the GPU benchmark runs, most wanted first: when its time is up, the cases at the end are left out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Case:
    """One process. model: a name in workload.SHAPES. seconds: its time-out, longer for the first, which finds
    no compiled kernels on the disk. steps: the timed ones, which come after `warm_up`."""

    label: str
    script: str
    model: str
    arguments: tuple[str, ...]
    warm_up: int = 4
    steps: int = 12
    seconds: float = 100.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to be at least. figure: tokens_per_second of `of`, divided by that of the best of
    `against` where there are any."""

    title: str
    of: str
    least: float
    against: tuple[str, ...] = ()


FULL = ("--rows", "full", "--longest", "4096")
SHORT = ("--rows", "conversations", "--longest", "4096")
# What a run takes by itself: compiled on CUDA, and with the reason where a compiler does not work.
AUTO = ("--spec", '{"kernels": "auto"}')
PLAIN = ("--spec", '{"kernels": "plain"}')
NF4 = ("--spec", '{"kernels": "auto", "quantization": "nf4"}')
TOKENS = ("--tokens", "16384")
# What the plain path keeps of more does not fit beside a 7B model in 80 GB.
HALF_TOKENS = ("--tokens", "8192")
BF16 = ("--dtype", "bfloat16")


def gpu_cases() -> dict[str, Case]:
    """The cases by name, peers with the best attention and kernels that are installed."""
    flash = ("--attention", best_attention())
    liger = ("--liger",) if find_spec("liger_kernel") else ()
    best = (*BF16, *flash, *liger)
    profiled = ("--profile", "3")
    return {
        "7b_full_rows": Case(
            "Qwen2.5-7B LoRA r16, rows of 4,096 tokens", "ours.py", "qwen2.5-7b",
            (*FULL, *TOKENS, *AUTO, *profiled), seconds=180,
        ),
        "7b_full_rows_trl": Case(
            "TRL + PEFT, no checkpointing", "trl_peer.py", "qwen2.5-7b", (*FULL, *best, "--batch", "2")
        ),
        "7b_short": Case(
            "Qwen2.5-7B LoRA r16, short documents packed", "ours.py", "qwen2.5-7b", (*SHORT, *TOKENS, *AUTO)
        ),
        "7b_short_trl_packed": Case(
            "TRL + PEFT packed (bfd), no checkpointing", "trl_peer.py", "qwen2.5-7b",
            (*SHORT, *best, "--batch", "2", "--packed"),
        ),
        "05b_short": Case(
            "Qwen2.5-0.5B LoRA r16, short documents packed", "ours.py", "qwen2.5-0.5b",
            (*SHORT, *TOKENS, *AUTO), steps=30, seconds=60,
        ),
        "mistral_lora": Case(
            "Mistral-7B LoRA r16, short documents packed", "ours.py", "mistral-7b", (*SHORT, *TOKENS, *AUTO)
        ),
        "mistral_nf4": Case(
            "the same on an nf4 base", "ours.py", "mistral-7b", (*SHORT, *TOKENS, *NF4)
        ),
        "7b_full_rows_plain": Case(
            "Qwen2.5-7B, plain path", "ours.py", "qwen2.5-7b", (*FULL, *HALF_TOKENS, *PLAIN), steps=6
        ),
        "05b_short_trl_packed": Case(
            "TRL + PEFT packed (bfd), no checkpointing", "trl_peer.py", "qwen2.5-0.5b",
            (*SHORT, *best, "--batch", "2", "--packed"), steps=20, seconds=60,
        ),
        "7b_losses": Case(
            "Qwen2.5-7B, 8 documents a step", "ours.py", "qwen2.5-7b",
            (*SHORT, *TOKENS, *AUTO, "--batch", "8"), warm_up=0, steps=8,
        ),
        "7b_short_trl_defaults": Case(
            "TRL + PEFT as shipped: fp32 weights, padded batches of 8, gradient checkpointing", "trl_peer.py",
            "qwen2.5-7b", (*SHORT, "--batch", "8", "--checkpointing"), warm_up=0, steps=8,
        ),
    }  # fmt: skip


BARS = (
    Bar("7B, full rows: tokens/s", "7b_full_rows", 18_000),
    Bar("7B, full rows: times TRL's best", "7b_full_rows", 1.5, ("7b_full_rows_trl",)),
    Bar("7B, short documents: tokens/s", "7b_short", 20_000),
    Bar("Mistral-7B on nf4: times LoRA's speed", "mistral_nf4", 0.9, ("mistral_lora",)),
    Bar("0.5B, short documents: tokens/s", "05b_short", 100_000),
)
SAME_LOSSES = ("7b_losses", "7b_short_trl_defaults")
"""Cases that train on the same documents step by step."""


def best_attention() -> str:
    """What transformers calls the fastest attention that is installed beside it."""
    if find_spec("flash_attn_interface"):
        return "flash_attention_3"
    return "flash_attention_2" if find_spec("flash_attn") else "sdpa"
