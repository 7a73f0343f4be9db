"""Keys through the command line: made, used, rotated, ended, and never told twice."""

from __future__ import annotations

import json
import ssl
import stat
import subprocess
from pathlib import Path

import httpx2
import pytest
from openai import AuthenticationError, PermissionDeniedError

from processes import child_environment, command_line
from service_server import RunningServer, chat_rows, serve_here, upload
from tunewright.service import audit
from tunewright.service.db.database import clock
from tunewright.service.db.keys import list_keys, note_uses
from tunewright.service.keys import create_key, hash_secret, is_well_formed, rotate_key
from tunewright.service.observe import REFUSED_TOLD
from tunewright.service.records import KeyRecord
from tunewright.service.settings import ServeSettings

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def run_key(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_key_in(server.service.settings.home, *arguments)


def run_key_in(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(["key", *arguments, "--home", home]),
        env=child_environment(home.parent, {"USER": "operator", "LOGNAME": "operator"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(server: RunningServer, secret: str, path: str = "/v1/files") -> int:
    return httpx2.get(f"{server.url}{path}", headers={"authorization": f"Bearer {secret}"}).status_code


def find(server: RunningServer, name: str) -> KeyRecord:
    with server.service.database.read() as connection:
        return next(key for key in list_keys(connection) if key.name == name)


def audited(server: RunningServer) -> list[dict[str, object]]:
    lines = (server.service.settings.home / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_life_of_a_key(server: RunningServer) -> None:
    made = run_key(server, "create", "ann", "--project", "lab", "--requests-per-minute", "50")
    assert (made.returncode, made.stderr) == (0, "")
    secret = made.stdout.strip()
    assert is_well_formed(secret)
    assert status(server, secret) == 200
    assert status(server, secret, "/metrics") == 403
    key = find(server, "ann")
    assert (key.project, key.scopes, key.requests_per_minute) == ("lab", ("jobs",), 50)

    rotated = run_key(server, "rotate", key.id, "--grace-hours", "1")
    second = rotated.stdout.strip()
    assert rotated.returncode == 0
    assert second != secret
    assert [status(server, each) for each in (secret, second)] == [200, 200]
    assert find(server, "ann").id == key.id

    # The one before the last ends at once, and without grace so does the last.
    third = run_key(server, "rotate", key.id, "--grace-hours", "0").stdout.strip()
    assert [status(server, each) for each in (secret, second, third)] == [401, 401, 200]

    shown = run_key(server, "list").stdout
    line = next(line for line in shown.splitlines() if key.id in line)
    assert line.split()[2:5] == ["live", "lab", "jobs"]
    assert " used " in line
    assert line.endswith(" ann")
    assert not any(each in shown for each in (secret, second, third))

    assert run_key(server, "revoke", key.id).returncode == 0
    assert status(server, third) == 401
    again = run_key(server, "revoke", key.id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "error[service.no-such-key]" in again.stderr
    assert "Traceback" not in again.stderr
    assert run_key(server, "rotate", key.id).returncode == 1
    assert "revoked" in run_key(server, "list").stdout

    commands = [entry for entry in audited(server) if str(entry["action"]).startswith("key ")]
    assert [entry["action"] for entry in commands] == ["key create", "key rotate", "key rotate", "key revoke"]
    assert {json.dumps(entry["objects"]) for entry in commands} == {json.dumps({"key_id": key.id})}
    assert {entry["user"] for entry in commands} == {"operator"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--scope", "root"), "--scope root is none of jobs, worker, metrics, admin"),
        (("--project", "a/b"), "--project a/b is not a name"),
        (("--requests-per-minute", "0"), "--requests-per-minute"),
    ],
)
def test_a_wrong_option_makes_no_key(arguments: tuple[str, ...], told: str, server: RunningServer) -> None:
    done = run_key(server, "create", "wrong", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    with server.service.database.read() as connection:
        assert "wrong" not in {key.name for key in list_keys(connection)}


@pytest.mark.parametrize("arguments", [("list",), ("revoke", "key_1"), ("rotate", "key_1")])
def test_a_mistyped_home_is_told_and_not_made(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_key_in(tmp_path / "mistyped", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error[service.no-home]" in done.stderr
    assert str(tmp_path / "mistyped") in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_an_expired_key_is_refused(server: RunningServer) -> None:
    with server.service.database.write() as connection:
        made = create_key(
            connection, server.service.pepper, name="short", project="default", scopes=("jobs",), seconds=-1
        )
    with (
        server.client(key=made.secret, max_retries=0) as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        client.files.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    with server.service.database.write() as connection:
        assert rotate_key(connection, server.service.pepper, made.record.id, 60) is None


def test_the_last_use_is_stored_and_never_goes_back(server: RunningServer) -> None:
    secret = server.key(project="used")
    assert status(server, secret) == 200
    traffic = server.service.traffic
    with server.service.database.write() as connection:
        now = clock(connection)
        traffic.uses.store(connection)
    with server.service.database.read() as connection:
        key = next(key for key in list_keys(connection) if key.project == "used")
    assert key.last_used_at == pytest.approx(now, abs=30)
    with server.service.database.write() as connection:
        note_uses(connection, {key.id: now - 100})
    with server.service.database.read() as connection:
        assert next(one for one in list_keys(connection) if one.id == key.id).last_used_at == key.last_used_at


@pytest.mark.parametrize(
    "header",
    [
        [],
        [("authorization", "Bearer")],
        [("authorization", "Basic dXNlcjpwYXNz")],
        [("authorization", "Bearer sk-something-of-another-service")],
        [("authorization", "Bearer {key}x")],
        [("authorization", "Bearer {cut}")],
        [("authorization", "{key}")],
        [("authorization", "Bearer {key}"), ("authorization", "Bearer {key}")],
        [("authorization", "Bearer {key} {key}")],
        [("x-api-key", "{key}")],
        [("authorization", "Bearer " + "a" * 8000)],
        [("authorization", "Bearer ftk_ü")],
    ],
)
def test_what_is_no_key_is_refused(header: list[tuple[str, str]], server: RunningServer) -> None:
    secret = server.key()
    headers = [(name, value.format(key=secret, cut=secret[:-1]).encode("utf-8")) for name, value in header]
    answer = httpx2.get(f"{server.url}/v1/files", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_a_key_of_another_project_is_refused(server: RunningServer) -> None:
    with server.client(project="mine", max_retries=0) as client:
        same = client.with_options(project="mine")
        assert same.files.list().data == []
        with pytest.raises(PermissionDeniedError):
            client.with_options(project="theirs").files.list()


def test_the_database_opens_nothing_without_the_pepper(server: RunningServer) -> None:
    home = server.service.settings.home
    secret = server.key(project="secret-keeper")
    for path in home.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert hash_secret(b"another pepper", secret) != hash_secret(server.service.pepper, secret)
    assert stat.S_IMODE((home / "pepper").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_changes_are_audited_without_their_contents(server: RunningServer) -> None:
    secret = server.key(project="watched")
    with server.client(key=secret, max_retries=0) as client:
        file = upload(client, chat_rows(10), name="private-name.jsonl")
        client.files.retrieve(file.id)
        client.files.content(file.id).read()
        made = client.fine_tuning.jobs.with_raw_response.create(model="builtin:tiny", training_file=file.id)
        job = made.parse()
        client.fine_tuning.jobs.cancel(job.id)
    found = [entry for entry in audited(server) if entry.get("project") == "watched"]
    assert [(entry["action"], entry["outcome"], entry.get("objects")) for entry in found] == [
        ("POST /v1/files", 200, None),
        ("GET /v1/files/{file_id}/content", 200, {"file_id": file.id}),
        ("POST /v1/fine_tuning/jobs", 200, None),
        ("POST /v1/fine_tuning/jobs/{job_id}/cancel", 200, {"job_id": job.id}),
    ]
    assert {entry["address"] for entry in found} == {"127.0.0.1"}
    assert found[2]["request_id"] == made.headers["x-request-id"]
    assert len({entry["key"] for entry in found}) == 1
    text = json.dumps(found)
    assert secret not in text
    assert "private-name" not in text
    assert "What is" not in text
    path = server.service.settings.home / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_refused_key_is_audited(server: RunningServer) -> None:
    before = len(audited(server)) if (server.service.settings.home / "audit.jsonl").exists() else 0
    assert status(server, "ftk_wrong", "/v1/fine_tuning/jobs/ftjob-1") == 401
    (entry,) = audited(server)[before:]
    assert (entry["action"], entry["outcome"]) == ("GET /v1/fine_tuning/jobs/{job_id}", 401)
    assert "key" not in entry


def test_a_full_audit_file_moves_aside_and_none_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LARGEST_FILE", 300)
    log = audit.AuditLog(tmp_path)
    for number in range(20):
        log.write(audit.AuditEntry(f"POST /{number}", 200))
    told = [
        json.loads(line)["action"]
        for path in (*sorted(tmp_path.glob("audit-*.jsonl")), tmp_path / "audit.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert told == [f"POST /{number}" for number in range(20)]
    assert len(list(tmp_path.glob("audit-*.jsonl"))) >= 3


def test_an_audit_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    audit.AuditLog(tmp_path).write(audit.AuditEntry("POST /v1/files", 200))
    assert not (tmp_path / "elsewhere").exists()
    assert "the audit log cannot be written" in caplog.text


def test_nobody_fills_the_disk_with_refused_keys(tmp_path: Path) -> None:
    with serve_here(ServeSettings(home=tmp_path)) as server, httpx2.Client(verify=NO_CERTIFICATES) as http:
        for number in range(REFUSED_TOLD + 20):
            answer = http.get(f"{server.url}/v1/files", headers={"authorization": f"Bearer {number}"})
            assert answer.status_code == 401
        with server.client() as client:
            upload(client, chat_rows(1))
    actions = [entry["action"] for entry in audited(server)]
    assert actions.count("GET /v1/files") == REFUSED_TOLD
    assert actions[-1] == "POST /v1/files"
