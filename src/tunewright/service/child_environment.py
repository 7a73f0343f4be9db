"""What the processes that a server or worker starts find in their environment: nothing that opens the API.

They read what users send: data, chat templates, tokenizers, weights.
"""

from __future__ import annotations

import os

SECRETS = ("TUNEWRIGHT_KEY", "TUNEWRIGHT_DATABASE", "OPENAI_API_KEY")


def environment_of_child(**more: str) -> dict[str, str]:
    """The environment of this process without its secrets, and with `more`."""
    return {**{name: value for name, value in os.environ.items() if name not in SECRETS}, **more}
