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


def program_path() -> str:
    """The command as another terminal finds it, in another folder and without this environment."""
    if sys.prefix == sys.base_prefix and shutil.which(NAME):
        return NAME
    started = Path(sys.argv[0])
    beside = Path(sys.executable).parent / NAME
    for path in (started if started.name == NAME else beside, beside):
        if path.is_file():
            return os.path.abspath(path)
    return NAME
