"""Every route of our own OpenAPI document against every kind of caller. A new route is in it by itself.

Another project's objects have to answer as objects that never were: the same status, headers and bytes. Ids
that are missing have the length of real ones, so that nothing but the request id may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi.openapi.utils import get_openapi
from sqlalchemy import select

from service_server import RunningServer, chat_rows, upload
from tunewright.service.db.artifacts import put_artifact
from tunewright.service.db.blobs import add_blob
from tunewright.service.db.jobs import change_job
from tunewright.service.db.keys import find_key, revoke_key
from tunewright.service.db.tables import metadata
from tunewright.service.keys import SCOPES, create_key, hash_secret
from tunewright.service.records import ArtifactRecord, StoredFile
from tunewright.service.routes import jobs, worker

PUBLIC = {"/health"}
METHODS = ("get", "post", "put", "patch", "delete")
CHANGES_WITH_EACH_ANSWER = {
    "x-request-id",
    "date",
    "openai-processing-ms",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
}
BLOB = "ab" * 32
# One for all: making a client reads every certificate of the machine.
HTTP = httpx2.Client(verify=False, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    HTTP.close()


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    parameters: tuple[str, ...]
    query: tuple[str, ...]
    body: dict[str, Any] | None

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def scope(self) -> str:
        """What a key needs for it."""
        return {"worker": "worker", "metrics": "metrics"}.get(self.path.split("/")[1], "jobs")


@dataclass(frozen=True)
class Objects:
    """Ids to put into a call: those of one project, or of nobody."""

    file: str
    job: str
    model: str
    event: str
    checkpoint: str

    def parameter(self, name: str) -> str:
        """What stands in the path. A name that is not here belongs into it."""
        return {"file_id": self.file, "job_id": self.job, "name": self.model, "sha256": BLOB}[name]

    def field(self, name: str) -> Any:
        """A valid value of a required field of a body."""
        return {
            "model": self.model,
            "training_file": self.file,
            "messages": [{"role": "user", "content": "Hello"}],
            "prompt": "Hello",
        }[name]

    def ids(self) -> tuple[str, ...]:
        return (self.file, self.job, self.model, self.event, self.checkpoint)


NOBODYS = Objects(
    file=f"file-{'x' * 24}",
    job=f"ftjob-{'x' * 24}",
    model="ft:builtin:tiny:own:sums:xxxxxxxx",
    event=f"ftevent-{'x' * 24}",
    checkpoint=f"ftckpt_{'x' * 24}",
)


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method in METHODS & methods.keys():
            given = methods[method].get("parameters", [])
            content = methods[method].get("requestBody", {}).get("content", {})
            yield Operation(
                method,
                path,
                tuple(item["name"] for item in given if item["in"] == "path"),
                tuple(item["name"] for item in given if item["in"] == "query"),
                _schema(document, content["application/json"]["schema"])
                if "application/json" in content
                else None,
            )


def _schema(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


@pytest.fixture(scope="module")
def public(server: RunningServer) -> list[Operation]:
    """What the published document has, and the same below the other spelling of the jobs' path."""
    found = list(operations(httpx2.get(f"{server.url}/openapi.json").json()))
    first, *others = jobs.PREFIXES
    again = [
        Operation(one.method, one.path.replace(first, other), one.parameters, one.query, one.body)
        for one in found
        for other in others
        if one.path.startswith(first)
    ]
    assert len(found) >= 17
    assert len(again) >= 8
    return [*found, *again]


@pytest.fixture(scope="module")
def every(public: list[Operation]) -> list[Operation]:
    """With the calls of workers, which the published document leaves out."""
    document = get_openapi(title="workers", version="1", routes=worker.router.routes)
    found = list(operations(document))
    assert len(found) >= 8
    return [*public, *found]


@pytest.fixture
def owned(server: RunningServer) -> Objects:
    """A running job of the project `own` with its file, events, a checkpoint and a model."""
    with server.client(project="own") as client:
        file = upload(client, chat_rows(10)).id
        made = client.fine_tuning.jobs.create(model="builtin:tiny", training_file=file, suffix="sums")
        event = client.fine_tuning.jobs.list_events(made.id).data[0].id
    model = "ft:builtin:tiny:own:sums:" + made.id[-8:]
    checkpoint = "ftckpt_" + made.id[-24:]
    with server.service.database.write() as connection:
        add_blob(connection, BLOB, 1)
        change_job(connection, made.id, status="queued")
        for number, (kind, name) in enumerate((("checkpoint", f"{model}:ckpt-step-1"), ("model", model))):
            put_artifact(
                connection,
                ArtifactRecord(
                    id=checkpoint if kind == "checkpoint" else f"ftckpt_{number}{made.id[-20:]}",
                    job_id=made.id,
                    project="own",
                    kind=kind,  # type: ignore[arg-type]
                    name=name,
                    base="builtin:tiny",
                    step=1,
                    metrics={},
                    created_at=made.created_at,
                    files=(StoredFile("adapter_config.json", BLOB, 1),),
                ),
            )
    return Objects(file, made.id, model, event, checkpoint)


def call(
    server: RunningServer, operation: Operation, secret: str | None, objects: Objects, **query: str
) -> httpx2.Response:
    """The answer to one operation about these objects."""
    path = operation.path.format_map({name: objects.parameter(name) for name in operation.parameters})
    headers = {"x-attempt": "1"}
    if secret is not None:
        headers["authorization"] = f"Bearer {secret}"
    body = None
    if operation.body is not None:
        needed = operation.body.get("required", []) if operation.scope == "jobs" else []
        body = {name: objects.field(name) for name in needed}
    return HTTP.request(
        operation.method, f"{server.url}{path}", headers=headers, params=query or None, json=body
    )


def seen(answer: httpx2.Response, objects: Objects) -> tuple[int, dict[str, str], bytes]:
    """An answer with the ids of `objects` in place of those that it was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name not in CHANGES_WITH_EACH_ANSWER}
    content = answer.content
    for own, nobodys in zip(objects.ids(), NOBODYS.ids(), strict=True):
        content = content.replace(own.encode(), nobodys.encode())
    return answer.status_code, headers, content


def everything(server: RunningServer) -> dict[str, list[Any]]:
    """All rows but what a look changes."""
    with server.service.database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in metadata.sorted_tables
            if table.name not in ("keys", "replays")
        }


def test_the_owner_gets_at_everything(server: RunningServer, public: list[Operation], owned: Objects) -> None:
    """Without this the other tests would compare two refusals of a call that nobody could make."""
    secret = server.key(project="own")
    about = [one for one in public if one.scope == "jobs" and (one.parameters or one.body)]
    # What removes things comes last.
    answers = {
        str(one): call(server, one, secret, owned).status_code
        for one in sorted(about, key=lambda one: (one.method == "delete", one.path.endswith("cancel")))
    }
    assert {name: code for name, code in answers.items() if code in (401, 403, 404)} == {}
    assert answers["GET /v1/files/{file_id}/content"] == 200
    assert answers["DELETE /v1/models/{name}"] == 200
    assert sum(1 for code in answers.values() if code == 200) >= 14


def test_another_tenants_objects_are_as_missing_ones(
    server: RunningServer, public: list[Operation], owned: Objects
) -> None:
    # A tenant who runs the server's workers or reads its metrics is still another tenant.
    for scopes in (("jobs",), ("admin",)):
        stranger = server.key(*scopes, project="stranger")
        before = everything(server)
        for one in public:
            if not one.parameters and not one.body:
                continue
            theirs = call(server, one, stranger, owned)
            nobodys = call(server, one, stranger, NOBODYS)
            assert seen(theirs, owned) == seen(nobodys, NOBODYS), f"{one} as {scopes}"
            assert theirs.status_code in (400, 404), f"{one} as {scopes}: {theirs.text}"
        assert everything(server) == before


def test_lists_show_nothing_of_another_tenant(
    server: RunningServer, public: list[Operation], owned: Objects
) -> None:
    lists = [one for one in public if one.method == "get" and not one.parameters and one.scope == "jobs"]
    assert len(lists) >= 3
    for one in lists:
        secret = server.key(project="stranger")
        text = call(server, one, secret, owned).text
        assert not [each for each in owned.ids() if each in text], str(one)
        if "after" in one.query:
            for own, nobodys in zip(owned.ids(), NOBODYS.ids(), strict=True):
                theirs = call(server, one, secret, owned, after=own)
                missing = call(server, one, secret, owned, after=nobodys)
                assert seen(theirs, owned) == seen(missing, NOBODYS), f"{one} after {own}"
                assert theirs.status_code == 400


def test_without_a_good_key_nothing_answers(
    server: RunningServer, every: list[Operation], owned: Objects
) -> None:
    pepper = server.service.pepper
    with server.service.database.write() as connection:
        scopes = ("admin",)
        revoked = create_key(connection, pepper, name="revoked", project="own", scopes=scopes)
        assert revoke_key(connection, revoked.record.id)
        expired = create_key(connection, pepper, name="expired", project="own", scopes=scopes, seconds=-1)
        assert find_key(connection, hash_secret(pepper, expired.secret)) is None
    before = everything(server)
    for secret in (None, revoked.secret, expired.secret):
        for one in every:
            if one.path in PUBLIC:
                continue
            real = call(server, one, secret, owned)
            assert real.status_code == 401, f"{one}: {real.text}"
            assert real.json()["error"]["code"] == "invalid_api_key"
            if one.parameters:
                nobodys = call(server, one, secret, NOBODYS)
                assert seen(real, owned) == seen(nobodys, NOBODYS), str(one)
    assert everything(server) == before


def test_a_key_opens_what_its_scope_says(
    server: RunningServer, every: list[Operation], owned: Objects
) -> None:
    before = everything(server)
    for scope in SCOPES.keys() - {"admin"}:
        secret = server.key(scope, project="own")
        for one in every:
            if one.path in PUBLIC or one.scope == scope:
                continue
            real = call(server, one, secret, owned)
            assert real.status_code == 403, f"{one} with {scope}: {real.text}"
            assert real.json()["error"]["code"] == "insufficient_permissions"
            if one.parameters:
                nobodys = call(server, one, secret, NOBODYS)
                assert seen(real, owned) == seen(nobodys, NOBODYS), str(one)
    assert everything(server) == before


def test_the_public_routes_are_known(server: RunningServer, every: list[Operation]) -> None:
    open_to_all = {one.path for one in every if call(server, one, None, NOBODYS).status_code != 401}
    assert open_to_all == PUBLIC
