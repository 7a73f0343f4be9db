"""What an upload may look like on the wire, and that its size costs no memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_server import RunningServer, serve_as_process, server_pid
from tunewright.service.upload import label_of

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.key(project='forms')}"}
    with httpx2.Client(base_url=server.url, headers=headers) as found:
        yield found


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


PURPOSE = part("purpose", b"batch")
FILE = part("file", b"{}\n", "rows.jsonl")
END = b"--b--\r\n"


def send(http: httpx2.Client, body: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx2.Response:
    return http.post("/v1/files", content=body, headers={"content-type": kind})


@pytest.mark.parametrize("body", [PURPOSE + FILE + END, FILE + PURPOSE + END])
def test_parts_come_in_any_order(body: bytes, http: httpx2.Client) -> None:
    answer = send(http, body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["bytes"], answer.json()["filename"]) == (3, "rows.jsonl")


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (PURPOSE + END, None, "file"),
        (FILE + END, None, "purpose"),
        (part("purpose", b"fun") + FILE + END, None, "purpose"),
        (PURPOSE + FILE + FILE + END, None, "file"),
        (PURPOSE + part("other", b"x", "x") + END, None, "file"),
        (PURPOSE + part("file", b"text") + END, None, "file"),
        (PURPOSE + FILE, None, None),
        (PURPOSE + FILE[:-9], None, None),
        (b"", None, None),
        (b"nonsense", None, None),
        (PURPOSE + FILE + END, "multipart/form-data", None),
        (PURPOSE + FILE + END, "text/plain", None),
        (PURPOSE + FILE + END, "multipart/form-data; boundary=" + "b" * 300, None),
        (b"purpose=batch", "application/x-www-form-urlencoded", None),
        (PURPOSE * 20 + FILE + END, None, None),
        (
            part("expires_after[anchor]", b"created_at")
            + part("expires_after[seconds]", b"9" * 5000)
            + PURPOSE
            + FILE
            + END,
            None,
            "expires_after.seconds",
        ),
        (part("purpose", b"x" * 70_000) + FILE + END, None, None),
        (
            part("expires_after[anchor]", b"now") + PURPOSE + FILE + END,
            None,
            "expires_after.anchor",
        ),
        (
            part("expires_after[seconds]", b"3600") + PURPOSE + FILE + END,
            None,
            "expires_after.anchor",
        ),
        (PURPOSE + part("foo", b"bar") + FILE + END, None, "foo"),
        (PURPOSE + FILE + part("purposes", b"batch") + END, None, "purposes"),
        (PURPOSE + part("", b"x") + FILE + END, None, ""),
        (PURPOSE + part("n" * 300, b"x") + FILE + END, None, "n" * 200),
        (PURPOSE + PURPOSE + FILE + END, None, "purpose"),
        (PURPOSE + part("expires_after[days]", b"3") + FILE + END, None, "expires_after[days]"),
        (PURPOSE + part("expires_after", b"3600") + FILE + END, None, "expires_after"),
        (PURPOSE + part("expires_after", b"") + FILE + END, None, "expires_after"),
        (PURPOSE + part("expires_after", b"[" * 60_000) + FILE + END, None, "expires_after"),
        (PURPOSE + part("expires_after", b"{}") + FILE + END, None, "expires_after.anchor"),
        (
            PURPOSE + part("expires_after", b'{"anchor":"created_at"}') + FILE + END,
            None,
            "expires_after.seconds",
        ),
        (
            PURPOSE + part("expires_after", b'{"anchor":"created_at","seconds":true}') + FILE + END,
            None,
            "expires_after.seconds",
        ),
        (PURPOSE + part("expires_after", b'{"days":3}') + FILE + END, None, "expires_after.days"),
        (
            PURPOSE
            + part("expires_after", b'{"anchor":"created_at","seconds":3600}')
            + part("expires_after[anchor]", b"created_at")
            + FILE
            + END,
            None,
            "expires_after",
        ),
    ],
)
def test_refused(body: bytes, kind: str | None, param: str | None, http: httpx2.Client) -> None:
    answer = send(http, body, kind or "multipart/form-data; boundary=b")
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert param is None or error["param"] == param


AS_TEXT = part("expires_after", b'{"anchor": "created_at", "seconds": 3600}')
AS_FIELDS = part("expires_after[anchor]", b"created_at") + part("expires_after[seconds]", b"3600")


@pytest.mark.parametrize(
    ("fields", "seconds"), [(AS_TEXT, 3600), (AS_FIELDS, 3600), (part("expires_after", b"null"), None)]
)
def test_an_end_is_read_as_json_and_as_fields(
    fields: bytes, seconds: int | None, http: httpx2.Client
) -> None:
    made = send(http, PURPOSE + fields + FILE + END).json()
    assert ("expires_at" in made) == (seconds is not None)
    assert seconds is None or made["expires_at"] - made["created_at"] == seconds


def test_nothing_stays_of_what_was_refused(server: RunningServer, http: httpx2.Client) -> None:
    send(http, part("purpose", b"fun") + part("file", b"x" * 4096, "x") + END)
    send(http, PURPOSE + part("file", b"x" * 4096, "x"))
    assert list((server.service.settings.home / "blobs" / "tmp").iterdir()) == []


@given(st.text(max_size=300))
def test_a_label_is_no_path(name: str) -> None:
    label = label_of(name)
    assert label
    assert len(label) <= 255
    assert label.isprintable()
    assert "/" not in label
    assert "\\" not in label


@pytest.mark.timeout(180)
def test_a_large_file_goes_through_in_pieces(tmp_path: Path) -> None:
    size, piece = 160 * MEBIBYTE, b"x" * MEBIBYTE

    def body() -> Iterator[bytes]:
        yield PURPOSE + part("file", b"", "large.jsonl")[:-2]
        for _ in range(size // MEBIBYTE):
            yield piece
        yield b"\r\n" + END

    with serve_as_process(tmp_path, "--workers", "0") as server:
        headers = {"authorization": f"Bearer {server.key()}"}
        with httpx2.Client(base_url=server.url, headers=headers, timeout=120) as http:
            before = peak_memory(server)
            made = http.post(
                "/v1/files", content=body(), headers={"content-type": "multipart/form-data; boundary=b"}
            )
            assert made.json()["bytes"] == size, made.text
            with http.stream("GET", f"/v1/files/{made.json()['id']}/content") as answer:
                assert sum(map(len, answer.iter_bytes())) == size
            assert peak_memory(server) - before < 48 * MEBIBYTE


def peak_memory(server: RunningServer) -> int:
    """Most memory that the server's process ever held, in bytes."""
    lines = Path(f"/proc/{server_pid(server)}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
