"""Random public identifiers. They say the kind of object, and nothing else can be read from them."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_LETTERS = 24
_SHORT = 8

KEY = "key_"
FILE = "file-"
JOB = "ftjob-"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt_"
REQUEST = "req_"
WORKER = "worker_"


def new_id(prefix: str) -> str:
    """A new identifier such as `ftjob-8dKq…`: 24 random letters and digits, 142 bits."""
    return prefix + _random(_LETTERS)


def short_id() -> str:
    """Eight random letters and digits for the end of a model name, which people read."""
    return _random(_SHORT)


def _random(length: int) -> str:
    # One look at the system's random numbers for all letters: there is an id to every request.
    number = secrets.randbelow(len(_ALPHABET) ** length)
    letters: list[str] = []
    for _ in range(length):
        number, place = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[place])
    return "".join(letters)
