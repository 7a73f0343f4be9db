"""How a server is told whom to let in: TLS, settings from flags, environment and TOML, and what it logs."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import func, select

from certificates import make_certificate
from processes import child_environment, command_line
from service_server import RunningServer, descendants, serve_as_process, wait_until
from tunewright.cli.main import run
from tunewright.errors import ServiceError
from tunewright.service.db.tables import workers
from tunewright.service.schemas.lease import Claim
from tunewright.service.serving import check_tls
from tunewright.service.settings import Tls
from tunewright.service.worker.client import ServerAway, ServerClient

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNKNOWN_KEY = "ftk_not-a-key-of-ours-that-nobody-was-given"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """A server with TLS and one worker, set up by a TOML file, the environment and flags; and its folder."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = make_certificate(folder)
    settings = folder / "serve.toml"
    settings.write_text(
        f"""
        tls_cert = "{certificate}"
        tls_key = "{key}"
        workers = 7
        log_format = "text"
        [limits]
        requests_per_minute = 77
        project_files = 1
        """,
        encoding="utf-8",
    )
    flags = ("--config", settings, "--workers", "1")
    with serve_as_process(folder, *flags, TUNEWRIGHT_LOG_FORMAT="json", TUNEWRIGHT_WORKERS="9") as running:
        yield running, folder


def trusting(folder: Path) -> httpx2.Client:
    return httpx2.Client(verify=ssl.create_default_context(cafile=folder / "cert.pem"), timeout=30)


def logged(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "serve.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_tls_is_spoken_and_nothing_else(secured: tuple[RunningServer, Path]) -> None:
    running, folder = secured
    assert running.url.startswith("https://127.0.0.1:")
    url = running.url.replace("127.0.0.1", "localhost")
    with trusting(folder) as http:
        assert http.get(f"{url}/health").json()["status"] == "ok"
        headers = {"authorization": f"Bearer {running.key()}"}
        answer = http.get(f"{url}/v1/files", headers=headers)
        assert answer.headers["x-ratelimit-limit-requests"] == "77"
    with httpx2.Client(verify=NO_CERTIFICATES) as stranger, pytest.raises(httpx2.ConnectError):
        stranger.get(f"{url}/health")
    with httpx2.Client(verify=NO_CERTIFICATES) as plain, pytest.raises(httpx2.HTTPError):
        plain.get(f"{url.replace('https', 'http')}/health")


def test_the_workers_of_the_machine_have_a_door_of_their_own(secured: tuple[RunningServer, Path]) -> None:
    running, folder = secured

    def seen() -> int:
        with running.service.database.read() as connection:
            return connection.execute(select(func.count()).select_from(workers)).scalar_one()

    assert wait_until(seen, "the worker asked for work") == 1
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in descendants(os.getpid())]
    # Other servers of this test process may have workers too.
    (line,) = [
        line for line in lines if b"--tied" in line and any(str(folder).encode() in part for part in line)
    ]
    door = line[line.index(b"--server") + 1].decode()
    assert door.startswith("http://127.0.0.1:")
    with httpx2.Client(verify=NO_CERTIFICATES) as http:
        headers = {"authorization": f"Bearer {running.key('admin')}"}
        for path in ("/v1/files", "/health", "/metrics", "/openapi.json"):
            assert http.get(f"{door}{path}", headers=headers).status_code == 404
        assert http.post(f"{door}/worker/claim", json={}).status_code == 401


def test_every_request_is_a_line_of_json(secured: tuple[RunningServer, Path]) -> None:
    running, folder = secured
    url = running.url.replace("127.0.0.1", "localhost")
    secret = running.key(project="logged")
    with trusting(folder) as http:
        answer = http.get(f"{url}/v1/files/file-one", headers={"authorization": f"Bearer {secret}"})
        wrong = http.get(f"{url}/v1/files", headers={"authorization": f"Bearer {UNKNOWN_KEY}"})
    sent = {answer.headers["x-request-id"], wrong.headers["x-request-id"]}
    # A request is logged after its answer has gone out.
    wait_until(lambda: sent <= {line.get("request_id") for line in logged(folder)}, "both are logged")
    lines = {line.get("request_id"): line for line in logged(folder)}
    line = lines[answer.headers["x-request-id"]]
    assert line["message"] == "GET /v1/files/{file_id} 404"
    assert (line["level"], line["logger"], line["project"]) == ("info", "tunewright.access", "logged")
    assert line["objects"] == {"file_id": "file-one"}
    assert isinstance(line["seconds"], float)
    # Its worker asks for work all the time; a log of that has no room for anything else.
    assert not [one for one in logged(folder) if one["message"] == "POST /worker/claim 204"]
    assert lines[wrong.headers["x-request-id"]]["outcome"] == 401
    text = (folder / "serve.log").read_text(encoding="utf-8")
    assert secret not in text
    assert UNKNOWN_KEY not in text


def test_who_listens_to_a_network_in_clear_is_warned(tmp_path: Path) -> None:
    with serve_as_process(
        tmp_path, "--host", "0.0.0.0", "--workers", "0", "--limit", "project_jobs=0"
    ) as running:
        port = running.url.rpartition(":")[2]
        with httpx2.Client(verify=NO_CERTIFICATES) as http:
            # Whatever the address, nothing but the health of the server is told without a key.
            assert http.get(f"http://127.0.0.1:{port}/health").status_code == 200
            assert http.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
    text = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert "warning: keys and data cross the network unencrypted: give --tls-cert and --tls-key\n" in text


def serve(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(["serve", "--home", folder / "home", "--port", "0", *arguments]),
        env=child_environment(folder, {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


TOML: dict[str, tuple[str, str]] = {
    "unknown": ("wokers = 2", "wokers is not a setting; did you mean workers?"),
    "broken": ("workers = ", "Invalid value"),
    "wrong kind": ('workers = "many"', "invalid value for '--workers'"),
    "wrong limit": ("[limits]\nproject_jobz = 3", "--limit project_jobz=3 is not NAME=NUMBER"),
    "no limit": ("[limits]\nfile_bytes = 0", "file_bytes has to be 1 or more"),
}


@pytest.mark.parametrize("name", TOML)
def test_a_wrong_settings_file_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, told = TOML[name]
    path = tmp_path / "serve.toml"
    path.write_text(text, encoding="utf-8")
    assert run(["serve", "--home", str(tmp_path / "home"), "--config", str(path)]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "home").exists()


def test_wrong_certificates_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--tls-cert", str(tmp_path / "cert.pem")]) == 2
    assert "belong together" in capsys.readouterr().err
    (tmp_path / "cert.pem").write_text("no certificate", encoding="utf-8")
    done = serve(tmp_path, "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "cert.pem")
    assert done.returncode == 1
    assert "error[service.tls]" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ServiceError) as caught:
        check_tls(Tls(tmp_path / "missing.pem", tmp_path / "cert.pem"))
    assert (caught.value.code, caught.value.got) == ("service.tls", "No such file or directory")


def test_a_worker_elsewhere_trusts_the_certificate_that_it_is_told(
    secured: tuple[RunningServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, folder = secured
    url = running.url.replace("127.0.0.1", "localhost")
    claim = Claim(worker="worker_elsewhere", name="elsewhere")
    with closing(ServerClient(url, running.key("worker"))) as stranger, pytest.raises(ServerAway):
        stranger.claim(claim)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    with closing(ServerClient(url, running.key("worker"))) as client:
        assert client.claim(claim) is None


def test_an_answer_does_not_wait_for_an_acknowledgement(server: RunningServer) -> None:
    """Without TCP_NODELAY every answer on a kept connection takes 40 ms, however idle the machine is."""
    with httpx2.Client(verify=NO_CERTIFICATES) as http:
        seconds = [http.get(f"{server.url}/health").elapsed.total_seconds() for _ in range(40)]
    assert min(seconds[1:]) < 0.035


@pytest.mark.parametrize("proxies", [(), ("10.0.0.0/8", "127.0.0.1")])
def test_only_a_proxy_may_say_who_calls(proxies: tuple[str, ...], tmp_path: Path) -> None:
    flags = [word for address in proxies for word in ("--proxy", address)]
    headers = {"x-forwarded-for": "203.0.113.9, 10.1.2.3"}
    with (
        serve_as_process(tmp_path, "--workers", "0", *flags) as running,
        httpx2.Client(verify=NO_CERTIFICATES) as http,
    ):
        http.get(f"{running.url}/v1/files", headers=headers)
    (line,) = (tmp_path / "home" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["address"] == ("203.0.113.9" if proxies else "127.0.0.1")


def test_what_is_no_proxy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--proxy", "everybody"]) == 2
    assert "--proxy everybody is no address" in capsys.readouterr().err
