"""What this machine can train with, found without loading an engine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tunewright.host_cpu import usable_cores
from tunewright.host_memory import host_memory_bytes
from tunewright.service.schemas.lease import Capabilities

_NVIDIA_DEVICE = Path("/dev/nvidia0")
_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 10.0


def installed_engines() -> list[str]:
    """The engines that this machine could train and answer with."""
    return [name for name in ("torch", "mlx") if find_spec(name) is not None]


def find_capabilities() -> Capabilities:
    """What a worker says of this machine when it asks for a job."""
    cuda = _NVIDIA_DEVICE.exists()
    return Capabilities(
        engines=installed_engines(),
        platform=f"{sys.platform}-{platform.machine()}",
        cuda=cuda,
        cpus=usable_cores(),
        memory_bytes=host_memory_bytes(),
        places=find_places(cuda=cuda),
    )


def find_places(*, cuda: bool) -> dict[str, int]:
    """`engine/device` → bytes of its memory. The first is what a run takes by itself."""
    # At least one, so that a machine that tells nothing is given jobs.
    host = max(host_memory_bytes(), 1)
    apple = (sys.platform, platform.machine()) == ("darwin", "arm64")
    accelerator = _cuda_memory_bytes(os.environ) or host if cuda else host
    places: dict[str, int] = {}
    engines = installed_engines()
    if apple and "mlx" in engines:
        places["mlx/metal"] = host
    for engine in engines:
        if cuda:
            places[f"{engine}/cuda"] = accelerator
        if apple and engine == "torch":
            places["torch/mps"] = host
    return places | {f"{engine}/cpu": host for engine in engines}


def _cuda_memory_bytes(environment: Mapping[str, str]) -> int | None:
    """Memory of the first GPU that this process may use; None when the driver does not say."""
    with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
        mebibytes = [int(line) for line in told.stdout.split()]
        first = environment.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
        return mebibytes[int(first) if first.isdigit() else 0] * 2**20
    return None
