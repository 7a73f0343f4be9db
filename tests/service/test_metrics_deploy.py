"""The files of deploy/ against what the program has: metrics, options and settings by their names."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from certificates import make_certificate
from processes import child_environment, command_line
from service_server import RunningServer
from tunewright.cli.lazy import build_command
from tunewright.cli.main import COMMANDS
from tunewright.service.jobs import Status

DEPLOY = Path(__file__).parents[2] / "deploy"
OF_PROMETHEUS = {"up"}
WORDS = {"and", "or", "unless", "on", "by", "sum", "rate", "increase", "histogram_quantile", "ignoring"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "summary": ("_count", "_sum")}


def rules() -> list[dict[str, Any]]:
    text = (DEPLOY / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def told(server: RunningServer) -> dict[str, set[str]]:
    """The labels of every series that the server can tell, by its name."""
    headers = {"authorization": f"Bearer {server.key('metrics')}"}
    httpx2.get(f"{server.url}/health")
    httpx2.get(f"{server.url}/v1/files")
    text = httpx2.get(f"{server.url}/metrics", headers=headers).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        names = [family.name + suffix for suffix in SUFFIXES[family.type]] if not family.samples else []
        for name in names:
            found.setdefault(name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # A summary without a job that ended has no series yet; its label is the status.
    assert "tunewright_job_seconds_count" in found
    found["tunewright_job_seconds_count"].add("status")
    return found


def names_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series of an expression with the labels that it is selected by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|ignoring)\s*\([^)]*\)", "", bare)
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\s*(?!\()(\{[^}]*\})?(?![\w(])", bare):
        if name not in WORDS and not re.fullmatch(r"e\d+|[smhd]", name):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_about_metrics_that_are_there(rule: dict[str, Any], told: dict[str, set[str]]) -> None:
    expression = rule["expr"]
    used = list(names_of(expression))
    assert used
    for name, labels in used:
        assert name in told or name in OF_PROMETHEUS, name
        unknown = labels - told.get(name, set()) - {"job", "instance"}
        assert unknown == set(), f"{name} has no label {unknown}"
    for status in re.findall(r'status=~?"([a-z_|]+)"', expression):
        assert set(status.split("|")) <= {str(each) for each in Status}
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    assert re.search(r"[<>=]=?\s*[\d.]|> on", expression), "an alert compares with something"
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"]["summary"].endswith((".", "why.", "where."))


def test_a_name_that_is_not_there_is_seen() -> None:
    expression = 'sum by (x) (rate(nobody_total{code="a(b"}[5m])) / other > 5e6 and on (z) up == 0'
    assert list(names_of(expression)) == [("nobody_total", {"code"}), ("other", set()), ("up", set())]


def test_every_metric_of_ours_is_on_the_page(told: dict[str, set[str]]) -> None:
    page = (DEPLOY.parent / "docs/concepts/access.md").read_text(encoding="utf-8")
    ours = {name for name in told if name.startswith("tunewright_")}
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}
    missing = {name for name in bases if f"`{name}`" not in page and f"`{name}_total`" not in page}
    assert missing == set()


def commands() -> list[list[str]]:
    """Every command line of ours in deploy/."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "tunewright.service")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    found = [shlex.split(unit["Service"]["ExecStart"])]
    found += [service["command"] for service in compose.values() if "command" in service]
    return found


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[1])
def test_a_command_is_one_that_we_have(words: list[str]) -> None:
    assert Path(words[0]).name == "tunewright"
    words = [str(DEPLOY / "serve.toml") if word == "/etc/tunewright/serve.toml" else word for word in words]
    command: Any = build_command(words[1], COMMANDS[words[1]])
    context: typer.Context = command.make_context(words[1], words[2:])
    assert context.params


def test_variables_are_ones_that_we_read() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    known = {
        variable
        for name in ("serve", "worker")
        for option in build_command(name, COMMANDS[name]).params
        for variable in ([option.envvar] if isinstance(option.envvar, str) else option.envvar or [])
    }
    for service in services.values():
        ours = {name for name in service["environment"] if name.startswith("TUNEWRIGHT_")}
        # The cache is of every command, so that no option names it.
        assert ours - {"TUNEWRIGHT_CACHE"} <= known


def test_the_settings_file_is_one_that_serve_takes() -> None:
    path = DEPLOY / "serve.toml"
    command: Any = build_command("serve", COMMANDS["serve"])
    context: typer.Context = command.make_context("serve", ["--config", str(path)])
    given = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, value in given.items():
        taken = context.params[name]
        if isinstance(value, dict):
            assert list(taken) == [f"{key}={inner}" for key, inner in value.items()]
        else:
            assert str(getattr(taken, "value", taken)) == str(value)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "tunewright.service").read_text(encoding="utf-8")
    unit = tmp_path / "tunewright.service"
    # Whether the program is installed where the unit says is not the unit's fault.
    unit.write_text(text.replace("/opt/tunewright/bin/tunewright", sys.executable), encoding="utf-8")
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_server_could_start_with_the_shipped_settings(tmp_path: Path) -> None:
    text = (DEPLOY / "serve.toml").read_text(encoding="utf-8")
    for shipped, made in zip(("cert", "key"), make_certificate(tmp_path), strict=True):
        text = text.replace(f"/etc/tunewright/{shipped}.pem", str(made))
    (tmp_path / "serve.toml").write_text(text.replace("port = 8200", "port = 0"), encoding="utf-8")
    found = subprocess.run(
        command_line(["serve", "--config", tmp_path / "serve.toml", "--home", tmp_path / "home", "--check"]),
        env=child_environment(tmp_path, {}), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


def test_the_image_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*)", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_the_services_of_the_compose_file_fit_together() -> None:
    made = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services, volumes = made["services"], made["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= volumes.keys()
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    # The server as the worker and the port map name it.
    serve = services["serve"]
    assert serve["ports"] == ["127.0.0.1:8200:8200"]
    assert "http://serve:8200" in services["worker"]["command"]
