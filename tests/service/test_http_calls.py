"""Calls as people and browsers make them: `curl -d`, HEAD, and pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service_server import RunningServer, chat_rows, serve_as_process, serve_here, upload
from tunewright.cli.main import run
from tunewright.service.settings import ServeSettings

ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.key(project='calls')}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def file(server: RunningServer) -> str:
    with server.client(project="calls") as client:
        return upload(client, chat_rows(10)).id


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", "x", None]
)
def test_json_is_read_whatever_it_is_sent_as(kind: str | None, file: str, http: httpx2.Client) -> None:
    body = f'{{"model": "builtin:tiny", "training_file": "{file}"}}'.encode()
    headers = {"content-type": kind} if kind else {}
    made = http.post("/v1/fine-tuning/jobs", content=body, headers=headers)
    assert made.status_code == 200, made.text
    form = http.post("/v1/fine-tuning/jobs", content=b"model=builtin:tiny", headers=headers)
    assert (form.status_code, form.json()["error"]["code"]) == (400, "invalid_json")


def test_a_form_of_parts_is_no_json(file: str, http: httpx2.Client) -> None:
    made = http.post("/v1/fine_tuning/jobs", files={"model": b"builtin:tiny"})
    assert (made.status_code, made.json()["error"]["code"]) == (400, "invalid_value")


def test_head_is_get_without_its_body(server: RunningServer, file: str, http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    job = http.post("/v1/fine_tuning/jobs", json={"model": "builtin:tiny", "training_file": file}).json()[
        "id"
    ]
    values = {"file_id": file, "job_id": job, "name": "builtin:tiny"}
    paths = [path.format_map(values) for path, item in document["paths"].items() if "get" in item]
    assert len(paths) >= 9
    for path in (*paths, "/docs", "/openapi.json", "/v1/files/none", "/v1/nowhere"):
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers.get("content-type") == whole.headers.get("content-type"), path
        # Figures of the moment are not as long each time.
        if path not in ("/metrics", "/health"):
            assert head.headers.get("content-length") == whole.headers.get("content-length"), path
    assert http.head(f"/v1/fine_tuning/jobs/{job}/cancel").status_code == 405
    with httpx2.Client() as stranger:
        assert stranger.head(f"{server.url}/v1/files").status_code == 401


def test_head_of_a_stream_ends(file: str, http: httpx2.Client) -> None:
    job = http.post("/v1/fine_tuning/jobs", json={"model": "builtin:tiny", "training_file": file}).json()[
        "id"
    ]
    answer = http.head(f"/v1/fine_tuning/jobs/{job}/events?stream=true")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    # The connection is good for another call.
    assert http.get(f"/v1/fine_tuning/jobs/{job}").status_code == 200


PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def test_no_other_origin_is_let_in_by_default(http: httpx2.Client) -> None:
    for answer in (
        http.options("/v1/fine_tuning/jobs", headers=PREFLIGHT),
        http.get("/v1/models", headers={"origin": ORIGIN}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origins", [(ORIGIN,), ("http://localhost:3000", ORIGIN), ("*",)])
def test_pages_of_named_origins_may_call(origins: tuple[str, ...], tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path, cors_origins=origins)) as server:
        shown = "*" if origins == ("*",) else ORIGIN
        preflight = httpx2.options(f"{server.url}/v1/fine_tuning/jobs", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == shown
        assert {"authorization", "x-stainless-lang"} <= set(
            preflight.headers["access-control-allow-headers"].split(", ")
        ) | set(preflight.headers["access-control-allow-headers"].split(","))
        # A refusal can be read by the page too.
        for path, status in (("/v1/models", 401), ("/v1/nowhere", 404), ("/health", 200)):
            answer = httpx2.get(f"{server.url}{path}", headers={"origin": ORIGIN})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == shown
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers
        if shown != "*":
            for stranger in ("https://evil.example.org", f"{ORIGIN}.evil.org", "null"):
                answer = httpx2.get(f"{server.url}/health", headers={"origin": stranger})
                assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("given", ["app.example.org", f"{ORIGIN}/", f"{ORIGIN}/page", "null", "ftp://x", ""])
def test_an_origin_that_no_browser_sends_is_refused(
    given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--home", str(tmp_path), "--check", f"--cors-origin={given}"]) == 2
    assert "is no origin" in capfd.readouterr().err


def test_origins_come_from_a_settings_file(tmp_path: Path) -> None:
    settings = tmp_path / "serve.toml"
    settings.write_text(f'cors_origin = ["{ORIGIN}"]\n', encoding="utf-8")
    flags = ("--config", settings, "--workers", "0", "--inference", "off")
    with serve_as_process(tmp_path, *flags) as server:
        answer = httpx2.get(f"{server.url}/health", headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
