"""Tensors to the engine-neutral `Array` (bytes) and back, bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from tunewright.types import Array

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a type."""
    return _NAMES[dtype]


def to_array(tensor: torch.Tensor) -> Array:
    """A copy in host memory that later changes of the tensor do not reach."""
    host = tensor.detach().to("cpu", copy=True).contiguous()
    raw = host.reshape(-1).view(torch.uint8).numpy()
    return Array(_NAMES[tensor.dtype], tuple(tensor.shape), memoryview(raw.data))


def to_tensor(array: Array) -> torch.Tensor:
    """A fresh CPU tensor with the array's type, shape and bits."""
    raw = np.frombuffer(array.data, dtype=np.uint8)
    tensor = torch.empty(raw.size, dtype=torch.uint8)
    tensor.numpy()[:] = raw
    return tensor.view(_DTYPES[array.dtype]).reshape(array.shape)
