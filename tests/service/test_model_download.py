"""The owner of a model gets its files: by the API, by the command, and as PEFT reads them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import text

from processes import child_environment, command_line
from service_server import RunningServer, wait_until
from tunewright.assets.files import TINY_MODEL

QUESTIONS = ("What is 3 plus 3?", "What is 40 plus 40?", "Oct 12, 2044")


@pytest.fixture(scope="module")
def model(service_process: RunningServer, trained_job: str) -> str:
    with service_process.client(project="trained") as client:
        name = client.fine_tuning.jobs.retrieve(trained_job).fine_tuned_model
    assert name
    return name


def fetch(server: RunningServer, name: str, key: str) -> httpx2.Response:
    return httpx2.get(f"{server.url}/v1/models/{name}/content", headers={"authorization": f"Bearer {key}"})


def run(
    server: RunningServer, folder: Path, *arguments: str | Path, **env: str
) -> subprocess.CompletedProcess[str]:
    variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": server.key(project="trained")}
    return subprocess.run(
        command_line(arguments),
        cwd=folder,
        env=child_environment(folder, {**variables, **env}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_archive_is_the_same_each_time_and_named_by_its_hash(
    service_process: RunningServer, model: str, trained_job: str
) -> None:
    key = service_process.key(project="trained")
    first, again = (fetch(service_process, name, key) for name in (model, quote(model, safe="")))
    assert (first.status_code, first.content == again.content) == (200, True)
    assert first.headers["x-content-sha256"] == hashlib.sha256(first.content).hexdigest()
    assert int(first.headers["content-length"]) == len(first.content)
    with tarfile.open(fileobj=io.BytesIO(first.content)) as archive:
        names = archive.getnames()
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(names)
        assert names == sorted(names)
    # No path of the server's machine.
    assert str(service_process.service.settings.home).encode() not in first.content
    with service_process.client(project="trained") as client:
        checkpoint = client.fine_tuning.jobs.checkpoints.list(trained_job).data[0].fine_tuned_model_checkpoint
    assert fetch(service_process, checkpoint, key).status_code == 200
    log = service_process.service.settings.home / "audit.jsonl"
    # Written once the last byte of the answer has gone.
    action = '"action": "GET /v1/models/{name}/content"'
    wait_until(lambda: action in log.read_text(encoding="utf-8"), "the download is in the audit log")


def test_only_fine_tuned_models_of_the_project_are_given(service_process: RunningServer, model: str) -> None:
    mine, others = service_process.key(project="trained"), service_process.key(project="else")
    base = fetch(service_process, "builtin:tiny", mine)
    assert (base.status_code, base.json()["error"]["param"]) == (400, "model")
    assert "'builtin:tiny' is a base model" in base.json()["error"]["message"]
    theirs, missing = fetch(service_process, model, others), fetch(service_process, "ft:none", mine)
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in (theirs, missing)] == [
        (404, "model_not_found")
    ] * 2
    assert fetch(service_process, model, service_process.key("worker", project="trained")).status_code == 403


# PEFT asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_download_is_the_model_of_the_chats_in_peft(
    service_process: RunningServer, model: str, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = run(service_process, tmp_path, "models", "download", model, "--out", "mine")
    assert done.returncode == 0, done.stderr
    assert "tunewright chat mine" in done.stdout
    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, tmp_path / "mine").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mine")
    with service_process.client(project="trained") as client:
        for question in QUESTIONS:
            messages = [{"role": "user", "content": question}]
            said = client.chat.completions.create(
                model=model, messages=messages, temperature=0, max_completion_tokens=24
            )
            prompt = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            ids = tuned.generate(**prompt, max_new_tokens=24, do_sample=False)[0][
                prompt["input_ids"].shape[1] :
            ]
            assert tokenizer.decode(ids, skip_special_tokens=True) == said.choices[0].message.content
    spoken = run(service_process, tmp_path, "generate", "mine", "--prompt", QUESTIONS[0])
    assert spoken.returncode == 0, spoken.stderr
    again = run(service_process, tmp_path, "models", "download", model, "--out", "mine")
    assert (again.returncode, "error[service.folder-exists]" in again.stderr) == (1, True)


def test_a_download_that_is_refused_leaves_nothing(
    service_process: RunningServer, model: str, tmp_path: Path
) -> None:
    for name, code in (("ft:none", "service.no-model"), ("builtin:tiny", "service.refused")):
        done = run(service_process, tmp_path, "models", "download", name)
        assert (done.returncode, f"error[{code}]" in done.stderr) == (1, True), done.stderr
        assert not [path for path in tmp_path.iterdir() if path.name != "cache"]
    listed = run(service_process, tmp_path, "models", "list").stdout.split()
    assert {model, "builtin:tiny"} <= set(listed)


def test_lost_bytes_are_named_and_nothing_is_sent(
    service_process: RunningServer, model: str, tmp_path: Path
) -> None:
    service = service_process.service
    with service.database.read() as connection:
        sha256 = connection.execute(
            text(
                "select f.sha256 from artifact_files f join artifacts a on a.id = f.artifact_id "
                "where a.name = :name and f.path = 'adapter_model.safetensors'"
            ),
            {"name": model},
        ).scalar_one()
    blob = service.settings.home / "blobs/objects" / sha256[:2] / sha256
    blob.rename(tmp_path / "kept")
    try:
        answer = fetch(service_process, model, service_process.key(project="trained"))
    finally:
        (tmp_path / "kept").rename(blob)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_incomplete")


def test_jobs_are_paused_and_resumed_by_command(
    service_process: RunningServer, tmp_path: Path, trained_job: str
) -> None:
    for action in ("pause", "resume"):
        done = run(service_process, tmp_path, "jobs", action, trained_job)
        assert (done.returncode, "succeeded" in done.stderr) == (1, True), done.stderr
