"""The page at /docs: whole without the internet, and no place for anybody else's script."""

from __future__ import annotations

import re

import httpx2

from service_server import RunningServer
from tunewright.service.routes.reference import PAGE


def test_the_page_needs_no_key_and_nothing_from_elsewhere(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.url}/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?:|src=|url\(|@import", answer.text) == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "connect-src 'self'" in answer.headers["content-security-policy"]


def test_nothing_of_the_document_or_of_an_answer_becomes_html() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", text) == []


def test_the_document_says_which_calls_need_a_key(server: RunningServer) -> None:
    document = httpx2.get(f"{server.url}/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"key": []}]
    open_calls = [
        path
        for path, calls in document["paths"].items()
        for call in calls.values()
        if call.get("security") == []
    ]
    assert open_calls == ["/health"]


def test_the_address_itself_says_what_runs_there(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.url}/", headers={"host": "<script>.example"})
    if answer.status_code == 200:
        assert "<script>" not in answer.text
    page = httpx2.get(f"{server.url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"export OPENAI_BASE_URL={server.url}/v1" in page.text
    links = re.findall(r'<a href="([^"]+)"', page.text)
    assert [httpx2.get(f"{server.url}{link}").status_code for link in links] == [200, 200, 200]
    assert "<script" not in page.text
