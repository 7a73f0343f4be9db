"""Structured outputs through the clients that people use, against a server of this checkout: `make clients`.

Usage: python scripts/clients.py PYTHON [CLIENT …]. PYTHON has the clients; it prints what worked, and ends
with 1 when something did not. The client `node` is structured.mjs in the folder that PYTHON names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from service_server import serve_here
from tunewright.service.settings import ServeSettings

PROGRAMS = Path(__file__).parent.parent / "tests" / "service" / "clients"
CLIENTS = ("openai", "langchain-openai", "instructor", "pydantic-ai-slim", "llm")


def main(python: str, clients: list[str]) -> int:
    """Run the clients in turn; how many failed."""
    failed = 0
    with (
        tempfile.TemporaryDirectory() as home,
        serve_here(ServeSettings(home=Path(home))) as server,
    ):
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": server.key(),
        }
        for client in clients or CLIENTS:
            command = [python, str(PROGRAMS / "structured.py"), client]
            if client == "node":
                command = ["node", str(Path(python) / "structured.mjs")]
            failed += subprocess.run(command, env=environment, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1], sys.argv[2:])))
