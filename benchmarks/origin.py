"""Where a result comes from: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "liger-kernel", "flash-attn")


def describe_origin(device: str) -> dict[str, Any]:
    """For a result file. device: its name as the engine tells it."""
    return {
        "device": device,
        # At the end of a run: above its own threads, it is what else the machine did.
        "load": os.getloadavg(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := find_version(name))},
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        # A figure of code that no commit holds could not be measured again.
        "changed": [line[3:] for line in _git("status", "--porcelain", "--", "src").splitlines()],
    }


def find_version(package: str) -> str | None:
    """The installed version, None without one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.rstrip()
