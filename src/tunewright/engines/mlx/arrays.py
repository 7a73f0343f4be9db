"""MLX arrays to the engine-neutral `Array` (bytes) and back, bit for bit."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from tunewright.types import Array

_NAMES = {
    mx.float64: "F64", mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16",
    mx.int64: "I64", mx.int32: "I32", mx.int16: "I16", mx.int8: "I8",
    mx.uint64: "U64", mx.uint32: "U32", mx.uint16: "U16", mx.uint8: "U8", mx.bool_: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: mx.Dtype) -> str:
    """The safetensors name of a type."""
    return _NAMES[dtype]


def to_array(values: mx.array) -> Array:
    """A copy in host memory that later changes do not reach. Waits for the device."""
    raw = np.array(mx.contiguous(values).reshape(-1).view(mx.uint8))
    return Array(_NAMES[values.dtype], tuple(values.shape), memoryview(raw.data))


def from_array(array: Array) -> mx.array:
    """A fresh MLX array with the same type, shape and bits."""
    raw = mx.array(np.frombuffer(array.data, dtype=np.uint8))
    return raw.view(_DTYPES[array.dtype]).reshape(array.shape)


def to_number(scalar: mx.array) -> float:
    """The value of a scalar of any type. Waits for the device."""
    value: Any = scalar.item()
    return float(value)
