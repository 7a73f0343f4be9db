"""Training files made to hurt, through a job: it fails with a name, and no process of the service grows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai import BadRequestError, OpenAI

from service_server import RunningServer, descendants, serve_as_process, server_pid, wait_for_status
from tunewright.service.worker.checking import check_limits

MEBIBYTE = 2**20
MOST_GROWTH = 200 * MEBIBYTE
DEEP = 50_000


def row(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}],
        **more,
    }


def lines(*rows: Any) -> bytes:
    """JSON lines of good rows with these among them; text stands as it is."""
    good = [json.dumps(row(f"answer {number}")) for number in range(12)]
    return "\n".join(
        [*good, *(each if isinstance(each, str) else json.dumps(each) for each in rows)]
    ).encode()


def parquet(text: str, count: int) -> bytes:
    """Small on disk, as all rows are alike, and large when it is read."""
    made = io.BytesIO()
    table = pa.table({"prompt": pa.array(["hi"] * count), "completion": pa.array([text] * count)})
    pq.write_table(table, made, compression="zstd", row_group_size=count)
    return made.getvalue()


def array(*rows: str) -> bytes:
    return f"[{','.join(rows)}]".encode()


def _many_messages(count: int) -> str:
    turns = '{"role":"user","content":"a"},{"role":"assistant","content":"b"}'
    return f'{{"messages":[{",".join([turns] * (count // 2))}]}}'


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": "y" * 900_000}}}

BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "deep lists": (".jsonl", lambda: lines('{"messages": ' + "[" * DEEP + "]" * DEEP + "}")),
    "no number": (".jsonl", lambda: lines('{"messages": NaN}', '{"a": 1e999}')),
    "a number of 900,000 digits": (
        ".jsonl",
        lambda: lines(json.dumps(row(weight=0)).replace("0", "9" * 900_000)),
    ),
    "half a character, and none": (
        ".jsonl",
        lambda: lines(json.dumps(row("\ud800")), json.dumps(row("a\0b"))),
    ),
    "the same key twice": (".jsonl", lambda: lines('{"messages": [], "messages": []}')),
    "many messages of no use": (".jsonl", lambda: lines(_many_messages(10_000).replace("assistant", "user"))),
}
LARGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a row of 100 MB": (".json", lambda: array(json.dumps(row("x" * 100 * MEBIBYTE)))),
    "a million messages": (".json", lambda: array(_many_messages(1_000_000))),
    "a field of 100 MB": (".csv", lambda: b"prompt,completion\nhi," + b"x" * 100 * MEBIBYTE + b"\n"),
}
STRANGE = lines(
    row("\u202eabc\u200b\ufeff\U0010ffff" + "e" + "\u0301" * 20_000),
    row("x" * 900_000),
    row(tools=[TOOL]),
)
"""Nothing is wrong with these rows."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serve_as_process(tmp_path_factory.mktemp("bombed")) as found:
        yield found


@pytest.fixture
def client(running: RunningServer, project: str) -> Iterator[OpenAI]:
    with running.client(project=project, max_retries=0, timeout=300) as found:
        yield found


def _processes(running: RunningServer) -> dict[str, int]:
    """The server and its worker."""
    server = server_pid(running)
    for pid in descendants(server):
        if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return {"server": server, "worker": pid}
    raise AssertionError("no worker runs")


def _memory(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def _jobs_of(client: OpenAI, files: dict[str, tuple[str, Callable[[], bytes]]]) -> dict[str, Any]:
    """What the jobs on these files ended as; an upload that is refused is its error."""
    ended: dict[str, Any] = {}
    started: dict[str, str] = {}
    for name, (ending, make) in files.items():
        try:
            file = client.files.create(file=(f"rows{ending}", make()), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                model="builtin:tiny",
                training_file=file.id,
                extra_body={"hyperparameters": {"seq_len": 64, "n_epochs": 1, "batch_size": 64}},
            )
            started[name] = job.id
        except BadRequestError as error:
            ended[name] = error
    for name, job_id in started.items():
        job = wait_for_status(client, job_id, "failed", "succeeded", seconds=500)
        ended[name] = job.error if job.status == "failed" else job.status
    return ended


@pytest.mark.parametrize(
    "files", [BOMBS, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_a_bomb_in_a_file_fails_its_job_by_name(
    files: dict[str, tuple[str, Callable[[], bytes]]], running: RunningServer, client: OpenAI
) -> None:
    before = {pid: _memory(pid, "VmRSS") for pid in _processes(running).values()}
    ended = _jobs_of(client, files)
    assert {name: getattr(end, "code", end) for name, end in ended.items()} == dict.fromkeys(
        files, "invalid_training_file"
    ), ended
    for end in ended.values():
        assert len(end.message) < 4000
        assert str(running.service.settings.home) not in end.message
    for name, pid in _processes(running).items():
        assert _memory(pid, "VmHWM") - before[pid] < MOST_GROWTH, name


@pytest.mark.slow
def test_a_small_file_of_many_bytes(running: RunningServer, client: OpenAI) -> None:
    """Rows that are cut are rows: the job may succeed, in the memory of one row at a time."""
    data = parquet("x" * MEBIBYTE, 16)
    assert len(data) < MEBIBYTE
    before = {pid: _memory(pid, "VmRSS") for pid in _processes(running).values()}
    ended = _jobs_of(client, {"alike": (".parquet", lambda: data)})["alike"]
    assert getattr(ended, "code", ended) in ("succeeded", "invalid_training_file")
    for name, pid in _processes(running).items():
        assert _memory(pid, "VmHWM") - before[pid] < MOST_GROWTH, name


def test_a_small_file_gets_less_time_than_a_large_one() -> None:
    seconds = [check_limits(size).wall_seconds for size in (0, 50_000_000, 512 * MEBIBYTE)]
    assert seconds == [300, 800, 1800]


def test_strange_text_is_text(running: RunningServer, client: OpenAI) -> None:
    assert _jobs_of(client, {"strange": (".jsonl", lambda: STRANGE)}) == {"strange": "succeeded"}
