"""One program on three major versions of the official client, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client_versions import OTHERS, OWN, installed, run_client
from service_server import RunningServer, serve_as_process


def test_the_own_client(any_server: RunningServer, project: str) -> None:
    said = run_client(OWN, any_server.url, any_server.key(project=project), "quick")
    assert said == f"openai {OWN}: as expected\n"


def test_the_own_client_trains_pauses_and_resumes(service_process: RunningServer, project: str) -> None:
    run_client(OWN, service_process.url, service_process.key(project=project), "full")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def fresh_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that was just started, with its worker."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres")()
    with serve_as_process(tmp_path_factory.mktemp("fresh"), database=url) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", [*OTHERS, OWN])
def test_every_client_on_a_fresh_server(version: str, fresh_server: RunningServer) -> None:
    if version != OWN:
        assert (installed(version) / "openai").is_dir()
    key = fresh_server.key(project=f"client-{version.replace('.', '-')}")
    said = run_client(version, fresh_server.url, key, "full")
    assert said == f"openai {version}: as expected\n"
