"""Uploads and requests made to hurt, against `tunewright serve` as a process of its own.

Each has to end within seconds in a refusal with a name, and the server may not grow by it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import ssl
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service_server import RunningServer, chat_rows, descendants, serve_as_process, upload, wait_until

MOST_CPU_SECONDS = 5.0
"""Of the server's process, which other work on the machine does not change."""
PATIENCE = 30.0
MOST_GROWTH = 200 * 2**20
MEBIBYTE = 2**20
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Victim:
    """A server to attack, the memory of its process, and a key for it."""

    running: RunningServer
    pid: int
    secret: str
    http: httpx2.Client

    @property
    def port(self) -> int:
        return int(self.running.url.rpartition(":")[2])

    def memory(self, name: str) -> int:
        """VmRSS or VmHWM in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return 1024 * int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

    def cpu_seconds(self) -> float:
        """What the process has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, *pieces: bytes, pause: float = 0.0) -> bytes:
        """The answer to these bytes over a connection of their own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)
            except (BrokenPipeError, ConnectionResetError):
                pass
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionResetError:
                pass
        return received

    def post(self, path: str, **given: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.secret}", **given.pop("headers", {})}
        return self.http.post(f"{self.running.url}{path}", headers=headers, **given)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("victim")
    with serve_as_process(folder, "--workers", "0") as running:
        (pid,) = [
            pid
            for pid in descendants(os.getpid())
            if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        with httpx2.Client(verify=NO_CERTIFICATES, timeout=PATIENCE) as http:
            yield Victim(running, pid, running.key(), http)


@pytest.fixture(autouse=True)
def unhurt(victim: Victim) -> Iterator[None]:
    """The server answers afterwards, and did not grow on the way."""
    before = victim.memory("VmRSS")
    Path(f"/proc/{victim.pid}/clear_refs").write_text("5", encoding="ascii")
    cpu = victim.cpu_seconds()
    yield
    assert victim.cpu_seconds() - cpu < MOST_CPU_SECONDS
    growth = victim.memory("VmHWM") - before
    assert growth < MOST_GROWTH, f"grew by {growth / MEBIBYTE:.0f} MiB"
    assert victim.http.get(f"{victim.running.url}/health").status_code == 200
    kept = list((victim.running.service.settings.home / "blobs" / "tmp").iterdir())
    assert kept == [], "what was refused is not kept"


def check_refusal(answer: httpx2.Response, status: int, code: str | None) -> None:
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert len(answer.content) < 1000
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")


def parse(received: bytes) -> httpx2.Response:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines[1:]]
    return httpx2.Response(int(lines[0].split()[1]), headers=headers, content=body)  # type: ignore[arg-type]


DEEP = 400_000
JSON_BOMBS: dict[str, tuple[bytes, int, str | None]] = {
    "deep list": (b"[" * DEEP + b"]" * DEEP, 400, "invalid_json"),
    "deep object": (b'{"a":' * 150_000 + b"1" + b"}" * 150_000, 400, "invalid_json"),
    "open list": (b"[" * MEBIBYTE, 400, "invalid_json"),
    "long number": (b'{"seed": ' + b"9" * 900_000 + b"}", 400, "invalid_json"),
    "many fields": (
        json.dumps({f"field{number}": 0 for number in range(50_000)}).encode(),
        400,
        "missing_required_parameter",
    ),
    "long field": (
        json.dumps({"model": "m", "training_file": "f", "x" * 900_000: 1}).encode(),
        400,
        "unknown_parameter",
    ),
    "many small lists": (b"[" + b"[]," * 300_000 + b"[]]", 400, "invalid_value"),
    "not a number": (b'{"model": "m", "training_file": "f", "seed": NaN}', 400, "invalid_value"),
    "no UTF-8": (b'{"model": "\xff\xfe"}', 400, "invalid_json"),
    "compressed": (gzip.compress(b"{}" * 5_000_000), 400, "invalid_json"),
    "too long": (b'{"metadata": {"a": "' + b"x" * MEBIBYTE + b'"}}', 413, "request_too_large"),
    "20 MB of objects": (b"[" + b"{}," * 7_000_000 + b"{}]", 413, "request_too_large"),
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_json_bomb(name: str, victim: Victim) -> None:
    content, status, code = JSON_BOMBS[name]
    headers = {"content-type": "application/json"}
    if name == "compressed":
        headers["content-encoding"] = "gzip"
    answer = victim.post("/v1/fine_tuning/jobs", content=content, headers=headers)
    check_refusal(answer, status, code)


def test_an_endless_body_in_chunks_is_cut(victim: Victim) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"[" * MEBIBYTE

    check_refusal(
        victim.post("/v1/fine_tuning/jobs", content=chunks(), headers={"content-type": "application/json"}),
        413,
        "request_too_large",
    )


@pytest.mark.parametrize(
    "model",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "builtin:tiny/../../..",
        "; touch /tmp/x",
        "$(touch /tmp/x)",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "owner/model",
        "builtin:tiny\u0000",
        "\ud800",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "x" * 100_000,
    ],
)
def test_a_model_is_a_name_of_the_operators_list(model: str, victim: Victim) -> None:
    with victim.running.client(key=victim.secret) as client:
        file = upload(client, chat_rows(10)).id
    body = json.dumps({"model": model, "training_file": file}).encode()
    answer = victim.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["code"] in ("model_not_found", "invalid_value", "invalid_json")
    assert "root:" not in answer.text


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"\0" * 10 * MEBIBYTE)
    return made.getvalue()


def tarred() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("../../rows.jsonl")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"{}\n"))
    return made.getvalue()


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(b"\0" * 50 * MEBIBYTE),
    "zip": zipped,
    "tar": tarred,
    "xz": lambda: b"\xfd7zXZ\x00" + b"\0" * 100,
    "zstd": lambda: b"\x28\xb5\x2f\xfd" + b"\0" * 100,
    "bzip2": lambda: b"BZh9" + b"\0" * 100,
    "7z": lambda: b"7z\xbc\xaf\x27\x1c" + b"\0" * 100,
    "rar": lambda: b"Rar!\x1a\x07" + b"\0" * 100,
    "lz4": lambda: b"\x04\x22\x4d\x18" + b"\0" * 100,
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_no_archive_is_taken(kind: str, victim: Victim) -> None:
    answer = victim.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", ARCHIVES[kind]())}
    )
    check_refusal(answer, 400, "unsupported_file")
    assert f"a {kind} archive" in answer.json()["error"]["message"]


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def field(name: str, content: bytes = b"fine-tune", headers: bytes = b"") -> bytes:
    return b'content-disposition: form-data; name="' + name.encode() + b'"\r\n' + headers + b"\r\n" + content


def file_part(content: bytes, name: bytes = b"rows.jsonl") -> bytes:
    return b'content-disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n' + content


FORM_BOMBS: dict[str, tuple[Callable[[], bytes], int, str | None]] = {
    "100,000 parts": (lambda: form(*[field("purpose")] * 100_000), 400, "invalid_value"),
    "1,000,000 headers": (
        lambda: form(field("purpose", headers=b"x: y\r\n" * 1_000_000)),
        400,
        "invalid_form",
    ),
    "a header of 20 MB": (
        lambda: form(field("purpose", headers=b"x: " + b"y" * 20 * MEBIBYTE + b"\r\n")),
        400,
        "invalid_form",
    ),
    "a field of 20 MB": (lambda: form(field("purpose", b"x" * 20 * MEBIBYTE)), 400, "invalid_form"),
    "a preamble of 20 MB": (lambda: b"x" * 20 * MEBIBYTE + form(field("purpose")), 400, "invalid_form"),
    "line ends for 20 MB": (lambda: b"\r\n" * 10 * MEBIBYTE, 400, "missing_required_parameter"),
    "no end": (
        lambda: form(field("purpose"), file_part(b"{}\n"), end=b""),
        400,
        "missing_required_parameter",
    ),
    "no file": (lambda: form(field("purpose")), 400, "missing_required_parameter"),
    "two files": (lambda: form(field("purpose"), file_part(b"{}"), file_part(b"{}")), 400, "invalid_value"),
    "nothing": (lambda: b"", 400, "missing_required_parameter"),
    "a line of 40 MB": (
        lambda: form(field("purpose"), file_part(b'{"a": "' + b"x" * 40 * MEBIBYTE + b'"}')),
        400,
        "invalid_training_file",
    ),
    "a line of just too much": (
        lambda: form(field("purpose"), file_part(b'{"a": 1}\n{"b": "' + b"x" * MEBIBYTE + b'"}\n')),
        400,
        "invalid_training_file",
    ),
    "a line of 40 MB, then the purpose": (
        lambda: form(file_part(b'{"a": "' + b"x" * 40 * MEBIBYTE + b'"}'), field("purpose")),
        400,
        "invalid_training_file",
    ),
}


@pytest.mark.parametrize("name", FORM_BOMBS)
def test_form_bomb(name: str, victim: Victim) -> None:
    make, status, code = FORM_BOMBS[name]
    content = make()
    answer = victim.post(
        "/v1/files", content=content, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    check_refusal(answer, status, code)


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 300,
        "multipart/form-data; boundary=" + ";" * 20_000,
        "",
    ],
)
def test_an_upload_that_is_no_form(kind: str, victim: Victim) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = victim.post("/v1/files", content=b";" * 5 * MEBIBYTE, headers=headers)
    check_refusal(answer, 400, "invalid_form")


def test_almost_boundaries_cost_no_time(victim: Victim) -> None:
    content = form(field("purpose"), file_part(b"\r\n--" * 5 * MEBIBYTE))
    answer = victim.post(
        "/v1/files", content=content, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "name", [b"../../pepper", b"/etc/passwd", b"C:\\x\\rows.jsonl", b"CON", b"a\0b", b"\xff\xfe", b"x" * 5000]
)
def test_a_file_name_is_a_label(name: bytes, victim: Victim) -> None:
    home = victim.running.service.settings.home
    before = {path for path in home.parent.rglob("*") if "objects" not in path.parts}
    answer = victim.post(
        "/v1/files",
        content=form(field("purpose"), file_part(b"{}\n", name)),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        shown = answer.json()["filename"]
        assert shown.isprintable()
        assert not {"/", "\\"} & set(shown)
        assert len(shown) <= 255
    assert {path for path in home.parent.rglob("*") if "objects" not in path.parts} - before <= {
        home / "audit.jsonl"
    }


HEAD = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nhost: x\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
WIRE_BOMBS: dict[str, tuple[bytes, ...]] = {
    "no HTTP": (b"\x16\x03\x01" + os.urandom(64) + b"\r\n\r\n",),
    "one header of 1 MB": (HEAD, b"x: " + b"y" * MEBIBYTE + b"\r\n\r\n"),
    "100,000 headers": (HEAD, b"x: y\r\n" * 100_000, b"\r\n"),
    "a path of 1 MB": (b"GET /" + b"a" * MEBIBYTE + b" HTTP/1.1\r\nhost: x\r\n\r\n",),
    "two lengths": (HEAD, b"content-length: 5\r\ncontent-length: 6\r\n\r\n", b"hello"),
    "a length below zero": (HEAD, b"content-length: -1\r\n\r\n"),
    "a header with a line end": (HEAD, b"x\n: y\r\n\r\n"),
    "a length and chunks": (
        HEAD,
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ),
    "chunks and a length": (
        HEAD,
        b"Transfer-Encoding: Chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ),
    "chunks and two equal lengths": (
        HEAD,
        b"content-length: 5, 5\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ),
    "chunks of HTTP/1.0": (
        b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        + SMUGGLED,
    ),
    "two codings": (
        HEAD,
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a space before the colon": (HEAD, b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
    "chunks of no size": (HEAD, b"transfer-encoding: chunked, gzip\r\n\r\nzz\r\n"),
}


@pytest.mark.parametrize("name", WIRE_BOMBS)
def test_nonsense_on_the_wire(name: str, victim: Victim) -> None:
    received = victim.send(*WIRE_BOMBS[name])
    # `send` returns when the server closes; whatever stood behind the request was not answered.
    assert received.count(b"HTTP/1.") == 1, received
    answer = parse(received)
    assert 400 <= answer.status_code < 500 or answer.status_code == 501
    check_refusal(answer, answer.status_code, "invalid_http")


def test_a_broken_chunk_in_the_middle_of_a_body(victim: Victim) -> None:
    head = HEAD + f"authorization: Bearer {victim.secret}\r\n".encode()
    received = victim.send(
        head + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", b"nonsense\r\n\r\n"
    )
    check_refusal(parse(received), 400, "invalid_http")


SLOW: dict[str, tuple[bytes, bytes]] = {
    "head": (b"GET /health HTTP/1.1\r\n", b"x"),
    "body": (HEAD + b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n", b" "),
    "upload": (
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\n"
        b"content-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n",
        b"\r\n",
    ),
    "chunked": (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


def test_who_sends_slowly_is_refused(victim: Victim) -> None:
    def send(name: str) -> bytes:
        head, drop = SLOW[name]
        return victim.send(head.replace(b"KEY", victim.secret.encode()), *[drop] * 15, pause=0.4)

    with ThreadPoolExecutor() as threads:
        for received in threads.map(send, SLOW):
            check_refusal(parse(received), 408, "request_timeout")


def test_who_says_nothing_is_let_go_without_a_word(victim: Victim) -> None:
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as silent:
        assert silent.recv(1) == b""


def test_two_hundred_slow_callers_stop_nobody(victim: Victim) -> None:
    slow = [socket.create_connection(("127.0.0.1", victim.port)) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert victim.http.get(f"{victim.running.url}/health").status_code == 200
        for connection in slow:
            connection.settimeout(PATIENCE)
            assert b"408" in connection.recv(100)
    finally:
        for connection in slow:
            connection.close()


def test_who_goes_on_after_the_answer_is_let_go(victim: Victim) -> None:
    """A refusal is read while the body is still on its way; nobody may send for ever."""
    head = b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 500000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", victim.port), timeout=PATIENCE) as connection:
        connection.sendall(head + b"x")
        assert b" 401 " in connection.recv(1000)

        def is_let_go() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(is_let_go, "the connection is closed", PATIENCE)


def test_nothing_of_a_secret_reaches_the_log(victim: Victim) -> None:
    canary = "canary-in-a-field"
    victim.post("/v1/fine_tuning/jobs", json={"model": canary, "training_file": canary, "suffix": canary})
    victim.post("/v1/files", data={"purpose": canary}, files={"file": (canary, b"{}\n")})
    victim.http.get(
        f"{victim.running.url}/v1/files/{canary}", headers={"authorization": f"Bearer {victim.secret}x"}
    )
    home = victim.running.service.settings.home
    text = (home.parent / "serve.log").read_text(encoding="utf-8")
    told = (home / "audit.jsonl").read_text(encoding="utf-8")
    assert victim.secret not in text + told
    assert canary not in text
    # The id in an address is told by the audit log, whatever the caller wrote there; bodies are not.
    assert told.count(canary) == 1
    assert "Traceback" not in text
