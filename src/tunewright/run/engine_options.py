"""Settings that mean another thing on each engine and device: what each becomes, or why it cannot be."""

from __future__ import annotations

from tunewright.config.schema import RunConfig
from tunewright.errors import ConfigError
from tunewright.models.arch import Arch
from tunewright.models.fast_activations import FAMILIES
from tunewright.models.row_layouts import EAGER, ONE_DOCUMENT_A_ROW
from tunewright.types import RowLayout


def resolve_quantization(config: RunConfig, engine: str, kind: str) -> str:
    """How `engine` stores the frozen base: none, nf4 or 4bit. kind: of device: cpu, cuda or mps. Raises
    ConfigError (`config.conflict`)."""
    asked = config.model.quantization.kind
    stored = "nf4" if asked == "4bit" and engine == "torch" else asked
    if stored != "nf4" or (engine == "torch" and kind != "mps"):
        return stored
    hint = "set model.quantization: 4bit, which computes other numbers"
    # Of both engines only MLX has 4 bits on a Mac.
    other = "engine: torch" if kind != "mps" else "" if engine == "mlx" else "engine: mlx"
    raise ConfigError(
        "nf4 needs the torch engine on CUDA or a CPU",
        where="model.quantization.kind",
        got=f"{asked} with the {engine} engine" + (" on an Apple GPU" if kind == "mps" else ""),
        expected="none" if engine == "torch" else "4bit or none",
        hint=hint if not other else f"{hint}, {'or' if engine == 'mlx' else 'with'} {other}",
        code="config.conflict",
    )


def resolve_optimizer(config: RunConfig, engine: str, kind: str) -> str:
    """The update rule that runs on this kind of device. 8-bit and paged moments are for torch on CUDA, and
    nothing but memory speaks for them, so elsewhere it is plain AdamW. `auto` on CUDA is torch."""
    return config.train.optimizer if engine != "mlx" and kind == "cuda" else "adamw"


def resolve_kernels(config: RunConfig, engine: str) -> str:
    """How layers are computed, as asked: the torch engine settles `auto` on the loaded model, and MLX has one
    way."""
    return config.model.kernels if engine == "torch" else "plain"


def asked_layout(config: RunConfig) -> RowLayout:
    """How documents become rows, as the run file asks; the engine says what the loaded model allows."""
    return "packed" if config.data.packing else "padded"


def expected_layout(config: RunConfig, arch: Arch) -> RowLayout:
    """The same, before the engine has proved it."""
    asked = asked_layout(config)
    if config.engine == "mlx" or arch.model_type not in ONE_DOCUMENT_A_ROW:
        return asked
    return "padded" if asked == "packed" else asked


def expects_eager(config: RunConfig, arch: Arch) -> bool:
    """Whether attention is expected to keep the scores of whole rows."""
    return config.model.attention == "eager" or (config.engine != "mlx" and arch.model_type in EAGER)


def expected_path(config: RunConfig, arch: Arch, kind: str, dtypes: tuple[str, str]) -> str:
    """How layers will be computed, for a person, before the engine has proved it: `fast`, `plain: why`. kind:
    of device. dtypes: of storage and of computing."""
    reason = why_plain(config, arch, kind, dtypes)
    if reason is not None:
        return f"plain: {reason}"
    asked = config.model.kernels
    return "compiled" if asked == "compiled" or (asked == "auto" and kind == "cuda") else "fast"


def why_plain(config: RunConfig, arch: Arch, kind: str, dtypes: tuple[str, str]) -> str | None:
    """Why memory counts plain layers; None for fast ones, which on CUDA have a flash kernel."""
    adapter, asked, (stored, computed) = config.adapter, config.model.kernels, dtypes
    reasons = {
        "asked for": asked == "plain",
        "the mlx engine": config.engine == "mlx",
        "an Apple GPU": kind == "mps",
        "all weights train": adapter.kind != "lora",
        f"{stored} weights computed in {computed}": stored != computed or computed == "fp16",
        "fp32 on a CPU": kind == "cpu" and computed == "fp32" and asked == "auto",
        "no flash kernel for fp32 on CUDA": kind == "cuda" and computed == "fp32",
        "eager attention": config.model.attention == "eager",
        f"{arch.model_type} layers are not known": arch.model_type not in FAMILIES,
        f"{', '.join(adapter.modules_to_save)} trains": bool(adapter.modules_to_save),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def resolve_merge_base(config: RunConfig, engine: str) -> str:
    """What the adapter of a quantised base is merged into: original or dequantised. Raises ConfigError
    (`config.conflict`)."""
    asked = config.checkpoint.merge_base
    if asked == "original" and engine == "mlx" and config.model.quantization.kind != "none":
        raise ConfigError(
            "the mlx engine merges into the weights it was trained on",
            where="checkpoint.merge_base",
            got=asked,
            expected="auto or dequantised",
            code="config.conflict",
        )
    if asked == "auto":
        return "dequantised" if engine == "mlx" else "original"
    return asked
