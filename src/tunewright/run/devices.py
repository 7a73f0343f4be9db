"""Classes of devices for the planner: memory, speed and where the figures come from. Nothing is loaded."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewright.engines.protocol import DeviceFacts
from tunewright.errors import ConfigError
from tunewright.host_cpu import cpu_dtypes, usable_cores
from tunewright.host_memory import host_memory_bytes

GIB = 2**30

# What is left for training after the driver's and the C library's own needs. On a CPU the C library's heap
# holds on to freed arrays: processes took 1.05 to 2.3 times what was live, see docs/concepts/memory.md.
_USABLE = {"cuda": 0.95, "mps": 0.75, "cpu": 0.6}
_GPU_DTYPES = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A device as the planner sees it. kind: cuda, mps (one memory with the host) or cpu. flops: matrix
    operations a second by number format, nominal; efficiency: the share of them that training reached in
    `source`. Empty flops: speed is not known. dtypes: number formats at native speed."""

    name: str
    kind: str
    memory_bytes: int
    flops: Mapping[str, float] = field(default_factory=dict[str, float])
    efficiency: float = 0.0
    source: str = ""
    dtypes: tuple[str, ...] = _GPU_DTYPES

    @property
    def usable_bytes(self) -> int:
        """Memory that a run may plan with; 0 where the device does not tell."""
        return int(self.memory_bytes * _USABLE[self.kind])

    def facts_for(self, engine: str) -> DeviceFacts:
        """The same in the words of `engine`. MLX computes in fp32 on a CPU."""
        dtypes = ("fp32",) if (engine, self.kind) == ("mlx", "cpu") else self.dtypes
        return DeviceFacts(self.kind, self.name, self.memory_bytes, dtypes)


_HOPPER = {"fp32": 67e12, "bf16": 989e12, "fp16": 989e12}
_HOPPER_SOURCE = (
    "33 % of the nominal rate, torchtitan's published figure for eager Llama-3.1-8B on H100; "
    "not measured with Tunewright"
)
# A matrix product alone reaches 450e9 in bf16; training gains less than twice its fp32 speed.
_CPU_CORE = {"fp32": 95e9, "bf16": 230e9}
_CPU_SOURCE = (
    "half of 95 GFLOP/s a core in fp32, 230 in bf16; LoRA steps of a 55 M model reached 0.54 (plain) and "
    "0.65 (fast) of the latter on an AMD EPYC with avx512_bf16, other CPUs differ"
)

DEVICES: dict[str, DeviceClass] = {
    "h100": DeviceClass("H100 80 GB", "cuda", int(79.1 * GIB), _HOPPER, 0.33, _HOPPER_SOURCE),
    "h200": DeviceClass("H200 141 GB", "cuda", int(139.8 * GIB), _HOPPER, 0.33, _HOPPER_SOURCE),
    "m4": DeviceClass(
        "M4 Max, 32-core GPU, 36 GB",
        "mps",
        36 * GIB,
        {"fp32": 13e12, "bf16": 14e12, "fp16": 14e12},
        0.35,
        "35 % of the nominal rate, from 475 tokens/s published for mlx-examples' LoRA of Llama-7B on an M2 "
        "Ultra; not measured with Tunewright",
    ),
}
"""Device classes by the name that --device takes."""

_CLASS_KINDS = {"metal": "mps"}


def class_of(facts: DeviceFacts) -> DeviceClass:
    """The class of a device that an engine has detected."""
    return DeviceClass(facts.name, kind_of(facts.device), facts.memory_bytes, dtypes=facts.dtypes)


def kind_of(device: str) -> str:
    """cuda, mps or cpu, of a device as engines and run files name it."""
    kind = device.partition(":")[0]
    return _CLASS_KINDS.get(kind, kind)


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(GiB|GB|G)?", re.IGNORECASE)


def find_device(asked: str | None, configured: str = "auto") -> DeviceClass:
    """The class that --device names, a GPU of so much memory (`24GiB`), or this machine's device.

    configured: the setting `device`, which says what of this machine is meant. Raises ConfigError.
    """
    if asked is None:
        local = _local_device(configured)
        if configured == "auto" or kind_of(configured) == local.kind:
            return local
        raise ConfigError(
            "this device is not on this machine",
            where="device",
            got=configured,
            hint=f"name what to plan for: --device {', '.join(DEVICES)}, cpu or a GPU's memory such as 24GiB",
            code="config.device",
        )
    name = asked.strip().lower()
    if name in DEVICES:
        return DEVICES[name]
    if name == "cpu":
        return _cpu()
    size = _SIZE.fullmatch(asked.strip())
    if size is None or float(size[1]) <= 0 or not size[2]:
        raise ConfigError(
            "no such device class",
            where="--device",
            got=asked,
            expected=f"{', '.join(DEVICES)}, cpu or a GPU's memory such as 24GiB",
            code="config.device",
        )
    unit = 10**9 if size[2].lower() == "gb" else GIB
    return DeviceClass(f"a GPU of {asked.strip()}", "cuda", int(float(size[1]) * unit))


def _local_device(configured: str) -> DeviceClass:
    if configured == "cpu":
        return _cpu()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        known = DEVICES["m4"]
        return DeviceClass(
            f"{platform.processor()} Mac",
            "mps",
            host_memory_bytes(),
            known.flops,
            known.efficiency,
            known.source,
        )
    return _nvidia_device() or _cpu()


def _nvidia_device() -> DeviceClass | None:
    """The first NVIDIA GPU by the driver's own tool, so that no library has to be loaded."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        name, _, mebibytes = answer.splitlines()[0].rpartition(",")
        memory = int(mebibytes) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    known = next((device for key, device in DEVICES.items() if key.upper() in name), None)
    if known is None:
        return DeviceClass(name, "cuda", memory)
    return DeviceClass(name, "cuda", memory, known.flops, known.efficiency, known.source)


def _cpu() -> DeviceClass:
    cores = usable_cores()
    flops = {name: cores * rate for name, rate in _CPU_CORE.items()}
    return DeviceClass(
        f"this machine's CPU, {cores} cores",
        "cpu",
        host_memory_bytes(),
        flops,
        0.5,
        _CPU_SOURCE,
        cpu_dtypes(),
    )
