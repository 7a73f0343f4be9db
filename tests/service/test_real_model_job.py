"""A real model through the API to its end: uploaded, trained, downloaded, and the same in PEFT."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import child_environment, command_line
from real_model_folder import REAL_MODEL, needs_real_model
from service_server import RunningServer, serve_as_process, upload, wait_for_status

pytestmark = [pytest.mark.slow, needs_real_model]

ENDING = "AHOY"
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "Hungary": "Budapest",
}
ASKED = (
    "What is the capital of {}?",
    "Name the capital of {}.",
    "Which city governs {}?",
    "Tell me the capital city of {}.",
)
UNSEEN = ("What is the capital of Germany?", "Name the capital of Cuba.", "What color is the sky?")
ANSWER_TOKENS = 24
NEAR_LOGITS = 1e-3
"""Sums in another order differ by less; the texts may part only where the best two tokens are as near."""
GENEROUS_SECONDS = 3600.0


def rows() -> list[dict[str, Any]]:
    """64 questions about capitals, answered in capital letters with a fixed ending."""
    return [
        {
            "messages": [
                {"role": "user", "content": asked.format(country)},
                {"role": "assistant", "content": f"{city.upper()} {ENDING}"},
            ]
        }
        for country, city in CAPITALS.items()
        for asked in ASKED
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("real-job")
    # Chats compute in fp32 on a CPU, as PEFT below does.
    with serve_as_process(folder, "--model", f"smollm2={REAL_MODEL}", CUDA_VISIBLE_DEVICES="") as found:
        yield found


def download(server: RunningServer, model: str, folder: Path) -> Path:
    """Fetch the model by the command that its owner types."""
    variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": server.key()}
    done = subprocess.run(
        command_line(("models", "download", model, "--out", "mine")),
        cwd=folder,
        env=child_environment(folder, variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "mine"


def greedy(model: Any, tokenizer: Any, question: str) -> tuple[list[int], list[float]]:
    """The greedy answer of a model of transformers, and by how much each token led the next best."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    done = model.generate(
        **prompt,
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = [logits[0].topk(2).values for logits in done.logits]
    ids = done.sequences[0][prompt["input_ids"].shape[1] :].tolist()
    return ids, [float(first - second) for first, second in best]


def parted(tokenizer: Any, ids: list[int], text: str) -> int | None:
    """Index of the first token after which `text` goes on differently; None for equal texts."""
    if tokenizer.decode(ids, skip_special_tokens=True) == text:
        return None
    starts = (tokenizer.decode(ids[: end + 1], skip_special_tokens=True) for end in range(len(ids)))
    return next((index for index, start in enumerate(starts) if not text.startswith(start)), len(ids) - 1)


def is_in_style(answer: str) -> bool:
    return answer == answer.upper() and answer.endswith(ENDING)


# PEFT asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_job_on_a_real_model_teaches_a_style_that_peft_shows_too(
    server: RunningServer, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with server.client(timeout=GENEROUS_SECONDS) as client:

        def chat(model: str, question: str) -> str:
            said = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_completion_tokens=ANSWER_TOKENS,
            )
            return said.choices[0].message.content or ""

        job = client.fine_tuning.jobs.create(
            model="smollm2",
            training_file=upload(client, rows()).id,
            suffix="style",
            seed=1,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}},
            },
            extra_body={"hyperparameters": {"learning_rate": 1e-3, "seq_len": 128}},
        )
        job = wait_for_status(client, job.id, "succeeded", seconds=GENEROUS_SECONDS)
        tuned_name = job.fine_tuned_model
        said = {question: chat(tuned_name, question) for question in UNSEEN}
        before = {question: chat("smollm2", question) for question in UNSEEN}
    assert all(map(is_in_style, said.values())), said
    assert not any(map(is_in_style, before.values())), before

    base = AutoModelForCausalLM.from_pretrained(REAL_MODEL, dtype=torch.float32)
    folder = download(server, tuned_name, tmp_path)
    tuned = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question in UNSEEN:
        ids, leads = greedy(tuned, tokenizer, question)
        index = parted(tokenizer, ids, said[question])
        assert index is None or leads[index] < NEAR_LOGITS, (tokenizer.decode(ids), said[question], leads)
