"""Which storage and compute formats go together, whatever the engine."""

from __future__ import annotations

from tunewright.errors import EngineError

NUMBER_FORMATS = ("fp32", "bf16", "fp16")


def check_formats(dtype: str, precision: str) -> None:
    """Raise EngineError unless frozen weights of `dtype` can be computed with in `precision`."""
    for name, where in ((dtype, "model.dtype"), (precision, "train.precision")):
        if name not in NUMBER_FORMATS:
            raise EngineError(
                "no such number format",
                where=where,
                got=name,
                expected="fp32, bf16 or fp16",
                code="engine.unknown-dtype",
            )
    if dtype not in ("fp32", precision):
        raise EngineError(
            f"weights stored in {dtype} cannot be computed with in {precision}",
            where="model.dtype",
            got=dtype,
            expected=f"fp32 or {precision}",
            hint=f"set train.precision: {dtype} or model.dtype: {precision}",
            code="engine.dtype-mismatch",
        )
