"""What the machine offers to PyTorch, copies to and from it that nobody waits for, and what running out of
memory looks like there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.engines.protocol import DeviceFacts
from tunewright.engines.torch.segments import use_growing_segments
from tunewright.errors import EngineError, EngineOutOfMemory
from tunewright.host_cpu import cpu_dtypes, cpu_name
from tunewright.host_memory import host_memory_bytes, resident_bytes

_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED"
)


def detect_device(device: str) -> DeviceFacts:
    """Facts of the requested device; `auto` takes CUDA, then MPS, then the CPU.

    Raises EngineError when the device is not there.
    """
    # Whoever uses CUDA asks for the device here first.
    use_growing_segments()
    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    kind, _, index = device.partition(":")
    if kind == "cuda":
        return _cuda_facts(device, index)
    if device == "mps":
        return _mps_facts()
    if device == "cpu":
        return DeviceFacts("cpu", cpu_name(), host_memory_bytes(), cpu_dtypes())
    raise _no_device(device, "auto, cpu, mps, cuda or cuda:N", "correct `device`")


def memory_used_bytes(device: torch.device) -> int:
    """Peak bytes of tensors on a CUDA device, bytes held by the driver on MPS, resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return resident_bytes()


def free_bytes(device: torch.device) -> int:
    """Bytes that a CUDA device has left, once torch has given back what it kept of freed memory."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def send(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """A copy on the device. To CUDA from pinned memory: from other memory the host would wait until the
    device has done all that it was given before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Fetch:
    """Tensors of one device on their way to the host."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        on_cuda = tensors[0].device.type == "cuda"
        self._tensors = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]
        self._arrived = torch.cuda.Event() if on_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def read(self) -> list[torch.Tensor]:
        """Wait for them, but not for what the device was given since, and return them in order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors


@contextmanager
def raise_out_of_memory(device: torch.device) -> Iterator[None]:
    """Turn an allocator's complaint into EngineOutOfMemory and hand cached blocks back to the device."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        message = str(error)
        # The frames of the failed forward hold its tensors; without this they outlive the exception.
        clear_frames(error.__traceback__)
    else:
        return
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    raise EngineOutOfMemory(
        f"no memory left on {device}: {message.splitlines()[0]}",
        hint="lower train.micro_batch_size or data.seq_len, or set train.activation_checkpointing: true",
        code="engine.out-of-memory",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator said this; those of the CPU and MPS are told apart by their text only."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _cuda_facts(device: str, index: str) -> DeviceFacts:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise _no_device(
            device, "a CUDA device", "set `device: auto`, or install a driver and a CUDA build of torch"
        )
    if not (index or "0").isdigit() or int(index or 0) >= count:
        raise _no_device(device, f"cuda:0 to cuda:{count - 1}", "set `device: cuda`")
    number = int(index or 0)
    properties = torch.cuda.get_device_properties(number)
    # Below compute capability 8.0 bf16 is emulated and slower than fp32.
    dtypes = ("fp32", "bf16", "fp16") if properties.major >= 8 else ("fp32", "fp16")
    return DeviceFacts(f"cuda:{number}", properties.name, properties.total_memory, dtypes)


def _mps_facts() -> DeviceFacts:
    if not torch.backends.mps.is_available():
        raise _no_device("mps", "a Mac with Apple silicon", "set `device: auto`")
    dtypes = tuple(
        name
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16))
        if _computes_on_mps(dtype)
    )
    return DeviceFacts("mps", cpu_name(), host_memory_bytes(), dtypes)


def _computes_on_mps(dtype: torch.dtype) -> bool:
    try:
        one = torch.ones(2, 2, dtype=dtype, device="mps")
        return bool((one @ one).float().sum().item() == 8)
    except (RuntimeError, TypeError):
        return False


def _no_device(got: str, expected: str, hint: str) -> EngineError:
    return EngineError(
        "this device is not available",
        where="device",
        got=got,
        expected=expected,
        hint=hint,
        code="engine.no-device",
    )
