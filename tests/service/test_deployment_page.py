"""What docs/guides/deployment.md names is there, and its backup is one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx2

from service_server import RunningServer, chat_rows, serve_as_process, serve_here, upload
from tunewright.cli.lazy import Lazy
from tunewright.cli.main import COMMANDS
from tunewright.service.settings import ServeSettings

PAGE = (Path(__file__).parents[2] / "docs/guides/deployment.md").read_text(encoding="utf-8")


def test_the_metrics_to_watch_are_measured(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {server.key('metrics')}"}
    httpx2.get(f"{server.url}/health")
    measured = httpx2.get(f"{server.url}/metrics", headers=headers).text
    named = set(re.findall(r"`((?:tunewright|process)_\w+)`", PAGE))
    assert len(named) > 5
    assert [name for name in named if not re.search(rf"^(# TYPE )?{name}\b", measured, re.MULTILINE)] == []


def test_the_commands_are_there() -> None:
    named = set(re.findall(r"tunewright (serve|worker|key \w+|jobs \w+|db \w+)", PAGE))
    assert len(named) > 5
    for path in named:
        command, _, inner = path.partition(" ")
        entry: Lazy = COMMANDS[command]
        assert not inner or inner in entry.target, path


def test_the_file_of_settings_is_one(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text(
        re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0], encoding="utf-8"
    )
    config = ("--config", tmp_path / "serve.toml", "--host", "127.0.0.1", "--workers", "0")
    with serve_as_process(tmp_path, *config) as running, running.client() as client:
        assert {model.id for model in client.models.list()} == {"builtin:tiny", "qwen"}


def test_the_copy_that_the_page_makes_is_a_home(tmp_path: Path) -> None:
    block = next(text for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "vacuum" in text)
    with serve_here(ServeSettings(home=tmp_path / "home")) as running:
        key = running.key(project="kept")
        with running.client(key=key) as client:
            file = upload(client, chat_rows(12))
        subprocess.run(["sh", "-ec", block], cwd=tmp_path, check=True)
    with serve_here(ServeSettings(home=tmp_path / "backup")) as restored, restored.client(key=key) as client:
        assert client.files.list().data == [file]
        assert client.files.content(file.id).read().count(b"\n") == 12
