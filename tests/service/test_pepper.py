"""The secret beside the database: the one that its keys are hashed with, or no server at all."""

from __future__ import annotations

import logging
import re
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text

from processes import child_environment, command_line
from service_server import RunningServer, serve_as_process, serve_here
from tunewright.errors import ServiceError
from tunewright.service.db.database import Database, sqlite_url
from tunewright.service.db.migrate import upgrade
from tunewright.service.home import note_database
from tunewright.service.pepper import PEPPER_BYTES, take_pepper
from tunewright.service.server import first_key, open_service
from tunewright.service.settings import ServeSettings

Spoil = Callable[[Path], object]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda path: path.unlink(), "service.pepper-missing"),
    "other": (lambda path: path.write_bytes(bytes(PEPPER_BYTES)), "service.pepper-other"),
    "short": (lambda path: path.write_bytes(b"short"), "service.pepper"),
}
COMMANDS = (
    ("serve", "--port", "0"),
    ("serve", "--port", "0", "--check"),
    ("key", "create", "NAME"),
    ("key", "list"),
    ("key", "rotate", "key_1"),
    ("key", "revoke", "key_1"),
)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> ServeSettings:
    """A server that was started once and has a key."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres")()
    found = ServeSettings(home=tmp_path / "home", database=url)
    service = open_service(found)
    note_database(found)
    assert first_key(service)
    service.database.close()
    return found


def tunewright(folder: Path, *arguments: str | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(arguments),
        cwd=folder,
        env=child_environment(folder, {}),
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", SPOILT)
def test_no_command_goes_on_with_another_pepper(name: str, settings: ServeSettings, tmp_path: Path) -> None:
    spoil, code = SPOILT[name]
    pepper = settings.home / "pepper"
    spoil(pepper)
    left = pepper.read_bytes() if pepper.exists() else None
    for command in COMMANDS:
        database = ("--database", settings.database) if settings.database else ()
        done = tunewright(tmp_path, *command, "--home", settings.home, *database)
        assert (done.returncode, f"error[{code}]" in done.stderr) == (1, True), done.stderr
        assert "tunewright key reset" in done.stderr
        assert (pepper.read_bytes() if pepper.exists() else None) == left


def test_a_lost_pepper_is_left_behind_with_all_keys(settings: ServeSettings, tmp_path: Path) -> None:
    (settings.home / "pepper").unlink()
    refused = tunewright(tmp_path, "key", "reset", "--home", settings.home, answer="n\n")
    assert (refused.returncode, (settings.home / "pepper").exists()) == (130, False)
    done = tunewright(tmp_path, "key", "reset", "--yes", "--home", settings.home)
    assert done.returncode == 0, done.stderr
    with serve_here(settings) as server:
        headers = {"authorization": f"Bearer {done.stdout.strip()}"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        assert first_key(server.service) is None
    states = [
        line.split()[2]
        for line in tunewright(tmp_path, "key", "list", "--home", settings.home).stdout.splitlines()
    ]
    assert states == ["revoked", "live"]


def test_keys_are_not_reset_under_a_running_server(tmp_path: Path) -> None:
    with serve_as_process(tmp_path, "--workers", "0", "--inference", "off") as server:
        done = tunewright(tmp_path, "key", "reset", "--yes", "--home", server.service.settings.home)
    assert "error[service.home-in-use]" in done.stderr


def test_a_second_server_needs_the_pepper_of_the_first(postgres: Callable[[], str], tmp_path: Path) -> None:
    url = postgres()
    with closing(open_service(ServeSettings(home=tmp_path / "one", database=url)).database):
        for pepper in (None, bytes(PEPPER_BYTES)):
            (tmp_path / "two").mkdir(exist_ok=True)
            if pepper:
                (tmp_path / "two/pepper").write_bytes(pepper)
            with pytest.raises(ServiceError) as caught:
                open_service(ServeSettings(home=tmp_path / "two", database=url))
            assert caught.value.code == f"service.pepper-{'other' if pepper else 'missing'}"
        (tmp_path / "two/pepper").write_bytes((tmp_path / "one/pepper").read_bytes())
        open_service(ServeSettings(home=tmp_path / "two", database=url)).database.close()


@pytest.mark.parametrize("has_pepper", [True, False])
def test_a_database_of_before_is_held_to_the_pepper_that_is_there(
    has_pepper: bool, settings: ServeSettings, tmp_path: Path
) -> None:
    with (
        closing(
            Database(settings.database_url.replace("postgresql://", "postgresql+psycopg://"))
        ) as database,
        database.write() as connection,
    ):
        connection.execute(text("drop table peppers"))
        connection.execute(text("update alembic_version set version_num = '0005'"))
    pepper = (settings.home / "pepper").read_bytes()
    if not has_pepper:
        (settings.home / "pepper").unlink()
        with pytest.raises(ServiceError) as caught:
            open_service(settings)
        assert caught.value.code == "service.pepper-missing"
        return
    open_service(settings).database.close()
    (settings.home / "pepper").write_bytes(bytes(PEPPER_BYTES))
    with pytest.raises(ServiceError, match="not the secret"):
        open_service(settings)
    (settings.home / "pepper").write_bytes(pepper)
    open_service(settings).database.close()


def test_whoever_comes_first_all_have_the_same(tmp_path: Path) -> None:
    with closing(Database(sqlite_url(tmp_path / "test.db"))) as database:
        upgrade(database)
        (tmp_path / "home").mkdir()
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: take_pepper(tmp_path / "home", database), range(8)))
    assert [len(pepper) for pepper in found] == [PEPPER_BYTES]
    [file] = (tmp_path / "home").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_one_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ServeSettings(home=tmp_path)
    open_service(settings).database.close()
    (tmp_path / "pepper").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        open_service(settings).database.close()
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize("home", ["nowhere", "empty"])
def test_no_key_is_made_for_no_server(home: str, tmp_path: Path, postgres: Callable[[], str]) -> None:
    (tmp_path / "empty").mkdir()
    for database in ((), ("--database", postgres())):
        for command in ("create", "list", "reset"):
            name = ("NAME",) if command == "create" else ()
            done = tunewright(tmp_path, "key", command, *name, "--home", tmp_path / home, *database)
            assert (done.returncode, "error[service.no-home]" in done.stderr) == (1, True), done.stderr
            assert "tunewright serve" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    assert not list((tmp_path / "empty").iterdir())


def pasted(server: RunningServer, folder: Path) -> str:
    """The key that the printed line makes in another terminal."""
    log = (folder / "serve.log").read_text(encoding="utf-8")
    [line] = re.findall(r"export OPENAI_API_KEY=.*", log)
    done = subprocess.run(
        ["bash", "-c", f'{line}; printf %s "$OPENAI_API_KEY"'],
        cwd="/",
        env=child_environment(folder, {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("ftk_"), done.stderr
    headers = {"authorization": f"Bearer {done.stdout}"}
    assert httpx2.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    return line


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_serve_prints_can_be_pasted(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    url = None
    if kind == "postgres":
        url = request.getfixturevalue("postgres")().replace("postgres:@", "postgres:s3cret@")
        assert "s3cret" in url
    flags = ("--workers", "0", "--inference", "off")
    for _ in range(2):
        with serve_as_process(folder, *flags, database=url) as server:
            line = pasted(server, folder)
            key = tunewright(tmp_path, "key", "create", "other", "--home", folder / "home")
            assert key.stdout.startswith("ftk_"), key.stderr
    assert "key create NAME" in line
    assert "s3cret" not in (folder / "serve.log").read_text(encoding="utf-8")
    assert (folder / "home/tunewright.db").exists() == (url is None)
