"""Tokens a second of chats, beside transformers' own generate, in turns in one run: benchmarks/inference.py.

Both have the same weights, prompt and length, greedy, one thread each. Ours is measured twice: the decoder in
this process, and the whole way through the HTTP API and the model server, as a client sees it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

THREADS = 1
os.environ |= {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from workload import write_model  # noqa: E402

from chat_tokenizers import CHATML, write_tokenizer  # noqa: E402
from service_server import serve_here  # noqa: E402
from tunewright.inference.generator import Generator, load_base  # noqa: E402
from tunewright.inference.sampling import SamplingOptions  # noqa: E402
from tunewright.models.resolve import resolve_model  # noqa: E402
from tunewright.service.inference.settings import InferenceSettings  # noqa: E402
from tunewright.service.settings import ServeSettings  # noqa: E402

SHAPE = "qwen2-55m"
PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 64, 48, 3
PROMPT = list(range(5, 5 + PROMPT_TOKENS))


def main() -> None:
    """Measure, print and write inference.json."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = write_model(SHAPE, Path(name) / "model", dtype="float32")
        write_tokenizer(folder, CHATML, eos="<|im_end|>")
        rates = measure(folder, Path(name) / "home")
    found = {
        "shape": SHAPE, "device": "cpu", "threads": THREADS, "dtype": "float32",
        "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "load": os.getloadavg(),
        "tokens_per_second": rates,
        "ratio_of_medians": {
            f"{who}, {rows}": statistics.median(rates[f"{who}, {rows}"])
            / statistics.median(rates[f"transformers, {rows}"])
            for who in ("decoder", "api") for rows in ("1 row", "4 rows")
        },
    }  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found["ratio_of_medians"], indent=1) + "\n")


def measure(folder: Path, home: Path) -> dict[str, list[float]]:
    """Who and rows → tokens a second of each round; the parties take turns."""
    peer = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = Generator(load_base(resolve_model(str(folder)), device="cpu").decoders(), None)
    options = SamplingOptions(max_new_tokens=NEW_TOKENS)

    def generate(rows: int) -> None:
        ids = torch.tensor([PROMPT] * rows)
        peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0,
        )  # fmt: skip

    settings = ServeSettings(home, models={"m": str(folder)}, inference=InferenceSettings(wait_seconds=300))
    with serve_here(settings) as server, server.client(max_retries=0) as client:
        stop = str(resolve_stop(folder))

        def ask(rows: int) -> None:
            done = client.completions.create(
                model="m", prompt=PROMPT, max_tokens=NEW_TOKENS, n=rows, temperature=0,
                logit_bias={stop: -100},
            )  # fmt: skip
            assert done.usage
            assert done.usage.completion_tokens == rows * NEW_TOKENS

        parties: dict[str, Callable[[int], object]] = {
            "transformers": generate,
            "decoder": lambda rows: ours.generate_batch([PROMPT] * rows, options, []),
            "api": ask,
        }
        rates: dict[str, list[float]] = {}
        for turn in range(ROUNDS + 1):
            for rows in (1, 4):
                for who, run in parties.items():
                    start = time.perf_counter()
                    run(rows)
                    rate = rows * NEW_TOKENS / (time.perf_counter() - start)
                    if turn:
                        rates.setdefault(f"{who}, {rows} row{'s' * (rows > 1)}", []).append(round(rate, 2))
    return rates


def resolve_stop(folder: Path) -> int:
    """The token that ends a turn."""
    from tunewright.data.templates import load_tokenizer

    return load_tokenizer(folder, None).stop_ids[0]


if __name__ == "__main__":
    main()
