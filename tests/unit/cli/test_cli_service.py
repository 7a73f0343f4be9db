"""What the commands of the service say when they cannot speak with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tunewright.cli.service import require_key
from tunewright.errors import ServiceError
from tunewright.service.api_client import call_api


class OtherProgram(BaseHTTPRequestHandler):
    """Answers with errors that are JSON of another form."""

    def do_GET(self) -> None:
        body = b'{"detail": "Not Found"}'
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def other_program() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OtherProgram) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_at_the_address_is_named_as_such(other_program: str) -> None:
    with pytest.raises(ServiceError, match="no Tunewright server answers here") as caught:
        call_api(other_program, "ftk_x", "GET", "/v1/fine_tuning/jobs")
    assert caught.value.code == "service.unreachable"


@pytest.mark.parametrize("scope", ["jobs", "worker"])
def test_the_command_that_makes_a_key_is_told_whole(scope: str) -> None:
    with pytest.raises(ServiceError) as caught:
        require_key(None, scope)
    assert caught.value.hint == f"make a key with: tunewright key create NAME --scope {scope}"
