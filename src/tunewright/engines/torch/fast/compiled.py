"""The functions of elementwise.py as one loop each, made by torch.compile where a compiler works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from tunewright.engines.torch.fast.elementwise import EAGER, Elementwise


def compile_elementwise(device: torch.device) -> Elementwise:
    """Compiled on first use, once for all row counts. Raises RuntimeError with the reason where the compiler
    does not work: nobody should learn of a missing g++ or Triton from a trace of the first step.
    """
    ops = Elementwise(*(_compile(getattr(EAGER, field.name)) for field in fields(Elementwise)))
    one = torch.ones(2, 8, device=device)
    try:
        worked = torch.allclose(ops.norm(one, one[0], 1e-6, 0.0), one)
    except (RuntimeError, OSError, ImportError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}".splitlines()[0][:100]) from None
    if not worked:
        raise RuntimeError("compiled code gives other numbers")
    return ops


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # Takes a second to import, which a run without compiled layers does not need.
    from torch._dynamo.decorators import maybe_mark_dynamic

    # Not dynamic=True: widths and strides that code knows let a GPU load 16 bytes at a time.
    compiled = torch.compile(function, dynamic=False)

    def any_rows(x: torch.Tensor) -> torch.Tensor:
        """The values of x with as many rows as may come."""
        # Whether a value needs a gradient would be a reason to compile once more.
        x = x.detach()
        if x.ndim > 1:
            maybe_mark_dynamic(x, 0)
        return x

    def call(*values: Any) -> Any:
        return compiled(*(any_rows(v) if isinstance(v, torch.Tensor) else v for v in values))

    return call
