"""How the user can call this program again, for the commands that it suggests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

NAME = "tunewright"


def program_name() -> str:
    """`tunewright` when the shell finds it, else the path it was started by, as seen from this folder."""
    started = Path(sys.argv[0])
    if shutil.which(NAME) or started.name != NAME:
        return NAME
    near = os.path.relpath(started)
    return str(started) if near.startswith("..") else near
