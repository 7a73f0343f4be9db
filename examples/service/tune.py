"""Fine-tune a model through OpenAI's own client, and ask it before and after.

`make demo-service` runs it. On your own: OPENAI_API_KEY=ftk_… python examples/service/tune.py
"""

import itertools
import os
import time
from pathlib import Path

from openai import APIConnectionError, OpenAI

ROWS = Path(__file__).parents[2] / "src/tunewright/assets/samples/dates.jsonl"
QUESTIONS = ("Oct 12, 2044", "the 3rd of March, 2031", "29 February 1988")  # not among the rows
BASE = "builtin:tiny"

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8200/v1"))


def main():
    with ROWS.open("rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    print(f"uploaded {file.id}: {file.filename}, {file.bytes:,} bytes")

    # OpenAI's three hyperparameters go into `method`, those that OpenAI does not have into `extra_body`.
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        suffix="dates",
        seed=0,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 16}}},
        extra_body={"hyperparameters": {"lora_r": 16, "learning_rate": 5e-3, "seq_len": 128}},
    )
    job = follow(job.id)
    if job.status != "succeeded":
        raise SystemExit(f"{job.id} {job.status}: {job.error.message if job.error else 'no error'}")

    print(f"\n{'question':<24} {BASE:<28} {job.fine_tuned_model}")
    for question in QUESTIONS:
        print(f"{question:<24} {ask(BASE, question):<28} {ask(job.fine_tuned_model, question)}")


def follow(job_id: str):
    """Print what happens to a job until it is over, of its steps every 25th. Returns the job."""
    newest = None
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        for event in new_events(job_id, newest):
            newest = event.id
            if event.type == "message" or event.data["step"] % 25 == 0:
                print(f"{time.strftime('%H:%M:%S', time.localtime(event.created_at))} {event.message}")
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1)


def new_events(job_id: str, newest: str | None):
    """Events after the one with the id `newest`, the oldest first. The API lists the newest first."""
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)  # the client fetches page after page
    return list(itertools.takewhile(lambda event: event.id != newest, events))[::-1]


def ask(model: str, question: str) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_completion_tokens=16, temperature=0
    )
    return answer.choices[0].message.content.replace("\n", " ")


if __name__ == "__main__":
    try:
        main()
    except APIConnectionError:
        raise SystemExit(f"nothing answers at {client.base_url}; start a server with: make serve") from None
