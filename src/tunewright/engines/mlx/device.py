"""What the machine offers to MLX, and what running out of memory looks like there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

import mlx.core as mx

from tunewright.engines.protocol import DeviceFacts
from tunewright.errors import EngineError, EngineOutOfMemory
from tunewright.host_cpu import cpu_name
from tunewright.host_memory import host_memory_bytes, resident_bytes

_OUT_OF_MEMORY = re.compile(r"[Uu]nable to allocate|[Aa]ttempting to allocate|[Oo]ut of memory|bad_alloc")
# What stays free for the rest of the machine: a Metal device that is asked for more ends the process.
_USABLE_SHARE = 0.95
# Freed buffers kept for reuse; more than this goes back to the system.
_CACHE_SHARE = 0.25


def detect_device(device: str) -> DeviceFacts:
    """Facts of the requested device: cpu, metal or cuda; `auto` takes the fastest there is.

    Raises EngineError when the device is not there.
    """
    available = _available()
    name = available[0] if device == "auto" else device
    if name not in available:
        raise EngineError(
            "this device is not available to MLX",
            where="device",
            got=device,
            expected=", ".join(("auto", *available)),
            hint="set `device: auto`",
            code="engine.no-device",
        )
    if name == "cpu":
        return DeviceFacts("cpu", cpu_name(), host_memory_bytes(), ("fp32",))
    info = mx.device_info()
    memory = int(info.get("max_recommended_working_set_size") or info.get("memory_size") or 0)
    label = str(info.get("device_name") or name)
    return DeviceFacts(name, label, memory or host_memory_bytes(), ("fp32", "bf16", "fp16"))


def prepare_device(device: str) -> None:
    """Set memory limits before the first array. Changes settings of the whole process."""
    facts = detect_device(device)
    if facts.device == "cpu":
        # MLX builds fused CPU kernels with g++ at run time: seconds for each, no gain that could be measured,
        # and an error on a machine without a compiler.
        mx.disable_compile()
        return
    mx.set_memory_limit(usable_bytes(facts))
    mx.set_cache_limit(int(_CACHE_SHARE * facts.memory_bytes))


def usable_bytes(facts: DeviceFacts) -> int:
    """How much of the device's memory a run may fill."""
    return int(_USABLE_SHARE * facts.memory_bytes)


def memory_used_bytes(device: str, peak_bytes: int) -> int:
    """Peak bytes of arrays on a GPU, as the caller has them; resident set of the process on a CPU."""
    return resident_bytes() if device == "cpu" else peak_bytes


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Compute on the device inside, and turn an allocator's complaint into EngineOutOfMemory."""
    try:
        with mx.stream(mx.cpu if device == "cpu" else mx.gpu):
            yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error) or type(error).__name__
        # The frames of the failed pass hold its arrays; without this they outlive the exception.
        clear_frames(error.__traceback__)
    mx.clear_cache()
    raise out_of_memory(device, message.splitlines()[0])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator said this: told apart by its text only."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def out_of_memory(device: str, detail: str) -> EngineOutOfMemory:
    """The error of a pass that does not fit."""
    return EngineOutOfMemory(
        f"no memory left on {device}: {detail}",
        hint="lower train.micro_batch_size or data.seq_len, or set train.activation_checkpointing: true",
        code="engine.out-of-memory",
    )


def _available() -> tuple[str, ...]:
    """Devices of this build and machine, the fastest first."""
    names = [name for name, part in (("metal", mx.metal), ("cuda", mx.cuda)) if part.is_available()]
    return (*names, "cpu")
