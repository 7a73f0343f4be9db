"""Record the examples of the API reference on a real server: `python docs/record_api.py`, half a minute.

Starts `tunewright serve` with a worker in a folder of its own, makes every call once, trains builtin:tiny,
and writes docs/reference/api_examples.json. Ids, keys and times are replaced by ones that stay the same.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tunewright.assets.files import DATE_SAMPLES

EXAMPLES = Path(__file__).parent / "reference" / "api_examples.json"
ROWS = 200
JOBS = "/v1/fine_tuning/jobs"
LINES_OF_METRICS = 12
TEXT_LINES = 3


def main() -> None:
    """Record and write."""
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as (url, key):
        session = Session(httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60))
        record_files(session)
        record_jobs(session)
        if "/v1/chat/completions" in session.client.get("/openapi.json").json()["paths"]:
            record_chat(session)
        record_ends(session)
    text = json.dumps(session.recorded, indent=1, ensure_ascii=False)
    EXAMPLES.write_text(steady(text) + "\n", encoding="utf-8")


@contextmanager
def serve(home: Path) -> Generator[tuple[str, str]]:
    """A server with a worker; gives its address and its admin key."""
    command = [sys.executable, "-m", "tunewright.cli.main", "serve", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        told = ""
        while "serving at" not in told:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit(f"the server did not start: {told}")
            told += line
        yield re.findall(r"serving at (\S+)/v1", told)[0], re.findall(r"ftk_\S+", told)[0]
    finally:
        process.terminate()
        process.communicate(timeout=120)


@dataclass
class Session:
    """A client that keeps what it says and hears, by the route that it went."""

    client: httpx2.Client
    recorded: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def call(
        self, method: str, route: str, query: str = "", body: Any = None, upload: Any = None, **ids: str
    ) -> Any:
        """Make a call, keep it below `METHOD route`, and return the answer."""
        path = route.format_map(ids) + query
        asked: dict[str, Any] = {"request": f"{method} {path}"}
        if body is not None:
            asked["body"] = body
        if upload is not None:
            asked["form"] = "".join(f"{name}={value}\n" for name, value in upload["shown"].items())
        sent = {} if upload is None else {"data": upload["data"], "files": upload["files"]}
        answer = self.client.request(method, path, json=body, **sent)
        told = answer.json() if "json" in answer.headers["content-type"] else answer.text
        kept = {**asked, "status": answer.status_code, "answer": told}
        self.recorded.setdefault(f"{method} {route}", []).append(kept)
        return told

    def shorten(self, key: str, lines: int) -> None:
        """Keep the first lines of a text answer."""
        kept = self.recorded[key][-1]
        kept["answer"] = "\n".join([*kept["answer"].splitlines()[:lines], "…"])


def record_files(session: Session) -> None:
    """Upload, look at, read."""
    rows = "".join(DATE_SAMPLES.read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]).encode()
    upload = {
        "data": {"purpose": "fine-tune"},
        "files": {"file": ("dates.jsonl", rows)},
        "shown": {"purpose": "fine-tune", "file": "@dates.jsonl"},
    }
    file = session.call("POST", "/v1/files", upload=upload)
    session.call("GET", "/v1/files", "?purpose=fine-tune&limit=1")
    session.call("GET", "/v1/files/{file_id}", file_id=file["id"])
    session.call("GET", "/v1/files/{file_id}/content", file_id=file["id"])
    session.shorten("GET /v1/files/{file_id}/content", 2)


def record_jobs(session: Session) -> None:
    """One job to its end, another one paused, resumed and cancelled on the way."""
    file = session.recorded["POST /v1/files"][0]["answer"]["id"]
    job = session.call("POST", JOBS, body=_job(file, "dates", n_epochs=2))
    session.call("POST", JOBS, body={"model": "builtin:tiny", "training_file": file, "n_epochs": 2})
    other = session.client.post(JOBS, json=_job(file, "later", n_epochs=50)).json()
    _wait(session, other["id"], "queued", "running")
    for action in ("pause", "resume", "cancel"):
        session.call("POST", f"{JOBS}/{{job_id}}/{action}", job_id=other["id"])
    _wait(session, job["id"], "succeeded")
    session.call("GET", JOBS, "?limit=1&metadata[task]=dates")
    session.call("GET", f"{JOBS}/{{job_id}}", job_id=job["id"])
    session.call("GET", f"{JOBS}/{{job_id}}/events", "?limit=3", job_id=job["id"])
    session.call("GET", f"{JOBS}/{{job_id}}/events", "?stream=true", job_id=job["id"])
    kept = session.recorded[f"GET {JOBS}/{{job_id}}/events"][-1]
    told = kept["answer"].strip().split("\n\n")
    kept["answer"] = "\n\n".join([told[0], "…", *told[-2:]])
    session.call("GET", f"{JOBS}/{{job_id}}/checkpoints", "?limit=1", job_id=job["id"])
    results = session.client.get(f"{JOBS}/{job['id']}").json()["result_files"]
    for file_id in results:
        session.call("GET", "/v1/files/{file_id}/content", file_id=file_id)
        session.shorten("GET /v1/files/{file_id}/content", TEXT_LINES)
    session.call("GET", "/v1/models")
    session.call("GET", "/v1/models/{name}", name=_tuned(session))
    session.call("GET", "/v1/models/{name}/content", name=_tuned(session))
    archive = session.client.get(f"/v1/models/{_tuned(session)}/content").content
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        kept = session.recorded["GET /v1/models/{name}/content"][-1]
        kept["answer"] = "\n".join(["(a tar archive of)", *members.getnames()])


def _job(file: str, task: str, n_epochs: int) -> dict[str, Any]:
    return {
        "model": "builtin:tiny",
        "training_file": file,
        "suffix": task,
        "seed": 7,
        "metadata": {"task": task},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs}}},
        "hyperparameters": {"lora_r": 8, "learning_rate": 5e-3},
        "x_config": {"train": {"warmup_ratio": 0.1}},
    }


def _wait(session: Session, job_id: str, *statuses: str) -> None:
    while True:
        job = session.client.get(f"{JOBS}/{job_id}").json()
        if job["status"] in statuses:
            return
        if job["status"] == "failed":
            raise SystemExit(f"{job_id} failed: {job['error']}")
        time.sleep(0.3)


def _tuned(session: Session) -> str:
    return session.recorded[f"GET {JOBS}/{{job_id}}"][-1]["answer"]["fine_tuned_model"]


def record_chat(session: Session) -> None:
    """Answers of the tuned model, whole and in pieces."""
    question = {"role": "user", "content": "Oct 12, 2044"}
    asked = {"model": _tuned(session), "messages": [question], "max_completion_tokens": 16, "temperature": 0}
    session.call("POST", "/v1/chat/completions", body=asked)
    more = {"stream": True, "stream_options": {"include_usage": True}}
    session.call("POST", "/v1/chat/completions", body={**asked, **more})
    prompt = {"model": "builtin:tiny", "prompt": "The cat", "max_tokens": 8, "logprobs": 1, "temperature": 0}
    session.call("POST", "/v1/completions", body=prompt)


def record_ends(session: Session) -> None:
    """What a server tells of itself, and deletions."""
    session.call("GET", "/health")
    session.call("GET", "/metrics")
    kept = session.recorded["GET /metrics"][-1]
    ours = [line for line in kept["answer"].splitlines() if "tunewright_j" in line or "_leases" in line]
    kept["answer"] = "\n".join([*ours[:LINES_OF_METRICS], "…"])
    session.call("DELETE", "/v1/models/{name}", name=_tuned(session))
    file = session.recorded["POST /v1/files"][0]["answer"]["id"]
    session.call("DELETE", "/v1/files/{file_id}", file_id=file)


def steady(text: str) -> str:
    """The same text with ids, name endings and times that do not change from one recording to the next.

    An id becomes its prefix and a number in order of appearance; times keep their distance from the first.
    """
    seen: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        prefix = match[1]
        return seen.setdefault(match[0], f"{prefix}{len(seen) + 1:03d}{'0' * (len(match[2]) - 3)}")

    text = re.sub(
        r"\b(file-|ftjob-|ftevent-|ftckpt_|chatcmpl-|cmpl-|ft:[\w:.-]+?:)([A-Za-z0-9]{8,32})\b", replace, text
    )
    times = [int(found) for _, found in TIME.findall(text)]
    start = min(times)
    return TIME.sub(lambda match: f"{match[1]}{FIRST_TIME + int(match[2]) - start}", text)


TIME = re.compile(r'(\\?": ?)(\d{10})\b')
"""Unix seconds as a value, also within a text that is JSON itself."""
FIRST_TIME = 1_800_000_000


if __name__ == "__main__":
    main()
