"""The versions of the official client that the service is held to, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tunewright.cache import cache_folder

OWN = "3.54.0"
"""Installed with the development tools."""
OTHERS = ("1.109.1", "2.54.0")
SCRIPT = Path(__file__).parent / "service" / "clients" / "conformance.py"


def run_client(version: str, url: str, key: str, steps: str) -> str:
    """Run the conformance script against a server with this client; returns what it printed. Fails with its
    traceback."""
    environment = {**os.environ, "BASE_URL": f"{url}/v1", "API_KEY": key, "STEPS": steps}
    if version != OWN:
        environment["PYTHONPATH"] = str(installed(version))
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(version: str) -> Path:
    """The folder of this version with all that it needs, made once."""
    folder = cache_folder() / "clients" / f"openai-{version}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial)]
        subprocess.run([*command, f"openai=={version}"], check=True, timeout=300)
        partial.rename(folder)
    return folder
