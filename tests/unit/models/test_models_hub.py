from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def hub(llama: Path, tmp_path: Path) -> Path:
    """Folder of the repositories; org/good is a whole model with more in it than is needed."""
    root = tmp_path / "hub"
    shutil.copytree(llama, root / "good")
    (root / "good/pytorch_model.bin").write_bytes(b"\x80\x04.")
    (root / "good/modeling_custom.py").write_text("raise SystemExit")
    shutil.copytree(root / "good", root / "gated-model")
    return root


@pytest.fixture
def ask(hub: Path, tmp_path: Path) -> Ask:
    """Resolve a name in a process whose hub is the folder `hub`."""

    def ask(name: str, revision: str | None = None, **environment: str) -> dict[str, Any]:
        script = Path(__file__).with_name("fake_hub.py")
        done = subprocess.run(
            [sys.executable, str(script), str(hub), name, *([revision] if revision else [])],
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


def test_a_hub_model_is_fetched_once_and_without_its_code(ask: Ask) -> None:
    found = ask("org/good")
    assert "model.safetensors" in found["files"], found
    fetched = {line.split()[1] for line in found["asked"]}
    assert not fetched & {"pytorch_model.bin", "modeling_custom.py", "README.md"}
    again = ask("org/good")
    assert again == {"files": found["files"], "asked": []}
    assert ask("org/good", HF_HUB_OFFLINE="1")["files"] == found["files"]


def test_settings_are_checked_before_weights_are_fetched(ask: Ask, hub: Path, edit_json) -> None:
    edit_json(hub / "good/config.json", model_type="foreign", auto_map={})
    answer = ask("org/good")
    assert answer["code"] == "model.remote-code"
    assert not [line for line in answer["asked"] if "safetensors" in line]


def test_a_part_in_the_cache_is_completed(ask: Ask, tmp_path: Path) -> None:
    whole = ask("org/good")
    next((tmp_path / "hf").rglob("snapshots/*/model.safetensors")).unlink()
    assert ask("org/good")["files"] == whole["files"]


@pytest.mark.parametrize(
    ("name", "revision", "code"),
    [
        ("org/absent", None, "model.unknown"),
        ("org/good", "no-such-branch", "model.unknown-revision"),
        ("org/gated-model", None, "model.gated"),
        ("org/..", None, "model.fetch"),
    ],
)
def test_what_the_hub_refuses_is_explained(ask: Ask, name: str, revision: str | None, code: str) -> None:
    answer = ask(name, revision)
    assert answer["code"] == code, answer
    assert "hint:" in answer["text"]


def test_offline_without_the_model_is_explained(ask: Ask) -> None:
    assert ask("org/good", HF_HUB_OFFLINE="1")["code"] == "model.offline"


def test_a_model_with_pickle_only_is_refused(ask: Ask, hub: Path) -> None:
    (hub / "good/model.safetensors").unlink()
    answer = ask("org/good")
    assert answer["code"] == "model.no-weights"
    assert "pytorch_model.bin" not in {line.split()[1] for line in answer["asked"]}
