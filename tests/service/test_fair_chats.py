"""One project that floods the server with chats, and another that wants to talk."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI, RateLimitError

from service_server import RunningServer, serve_here, wait_until
from tunewright.service.inference.settings import InferenceSettings
from tunewright.service.settings import Limits, ServeSettings

ENDLESS = {
    "model": "builtin:tiny",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 3000,
    "temperature": 2,
    "logit_bias": {"257": -100},
    "stream": True,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    inference = InferenceSettings(wait_seconds=100)
    settings = ServeSettings(home=tmp_path_factory.mktemp("home"), inference=inference)
    with serve_here(settings) as running:
        yield running


class Flood:
    """Streams of one key that nobody reads to their end. first: of each, what it was answered with."""

    def __init__(self, server: RunningServer, key: str, answers: list[int]) -> None:
        port = int(server.url.rpartition(":")[2])
        self.first: dict[int, bytes] = {}
        self.bytes = 0
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in answers]
        for number, (connection, count) in enumerate(zip(self._sockets, answers, strict=True)):
            body = json.dumps({**ENDLESS, "n": count}).encode()
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            threading.Thread(target=self._read, args=(number, connection), daemon=True).start()

    def _read(self, number: int, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1 << 16):
                self.first.setdefault(number, data)
                self.bytes += len(data)
        except OSError:
            pass

    def close(self) -> None:
        for connection in self._sockets:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def ask(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="builtin:tiny", messages=[{"role": "user", "content": "x"}], max_tokens=2
    )
    assert chat.choices[0].finish_reason in ("stop", "length")


def is_answered(client: OpenAI) -> bool:
    try:
        ask(client)
    except RateLimitError:
        return False
    return True


def test_a_flood_keeps_nobody_else_waiting(server: RunningServer) -> None:
    with server.client(project="other", max_retries=0, timeout=60) as other:
        ask(other)
        flood = Flood(server, server.key(project="flood"), [128] + [1] * 80)
        wait_until(lambda: len(flood.first) == 81, "each was begun or refused")
        begun = sum(data.startswith(b"HTTP/1.1 200") for data in flood.first.values())
        refused = [data for data in flood.first.values() if data.startswith(b"HTTP/1.1 429")]
        assert (begun, len(refused)) == (64, 17)
        assert all(b"too_many_chats" in data and b"retry-after: 5" in data for data in refused)
        for _ in range(3):
            before = flood.bytes
            ask(other)
            wait_until(lambda before=before: flood.bytes > before, "the flood goes on")
        flood.close()
        with server.client(project="flood", max_retries=0) as former:
            wait_until(lambda: is_answered(former), "its places are free again")


def test_answers_are_counted_too(tmp_path: Path) -> None:
    limits = Limits(project_answers=4)
    inference = InferenceSettings(wait_seconds=100)
    with serve_here(ServeSettings(home=tmp_path, limits=limits, inference=inference)) as server:
        flood = Flood(server, server.key(), [3])
        wait_until(lambda: flood.first, "it began")
        with server.client(max_retries=0) as client, pytest.raises(RateLimitError) as caught:
            client.chat.completions.create(
                model="builtin:tiny", messages=[{"role": "user", "content": "x"}], n=2
            )
        assert caught.value.code == "too_many_chats"
        with server.client(max_retries=0) as client:
            ask(client)
        # A single call may be larger than all that is left.
        with server.client(project="other") as client:
            prompts = ["x"] * 6
            done = client.completions.create(model="builtin:tiny", prompt=prompts, max_tokens=1)
            assert len(done.choices) == 6
        flood.close()
