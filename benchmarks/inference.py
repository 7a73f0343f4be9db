"""Tokens a second of chats, beside transformers' own generate, in turns in one run: benchmarks/inference.py.

Both have the same weights, prompt and length, greedy, one thread each. Ours is measured three times: the
decoder in this process, and the whole way through the HTTP API and the model server as a client sees it, one
call for all answers and a stream for each.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

THREADS = 1
os.environ |= {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from origin import describe_origin  # noqa: E402
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
PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 64, 64, 5
PROMPT = list(range(5, 5 + PROMPT_TOKENS))
ROWS = (1, 4)
PEER = "transformers"
BAR = 1.0
"""Least ratio to the peer, by medians."""


def main() -> int:
    """Measure, print and write inference.json. 1 when a bar is missed."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = write_model(SHAPE, Path(name) / "model", dtype="float32")
        write_tokenizer(folder, CHATML, eos="<|im_end|>")
        rates = measure(folder, Path(name) / "home")
    ratios = {
        f"{who}, {rows}": statistics.median(rates[who][rows]) / statistics.median(rates[PEER][rows])
        for who in rates if who != PEER for rows in rates[who]
    }  # fmt: skip
    found = {
        "model": SHAPE, "threads": THREADS, "dtype": "float32", "rounds": ROUNDS,
        "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "tokens_per_second": rates,
        "ratios": ratios, "bar": BAR, "met": {name: ratio >= BAR for name, ratio in ratios.items()},
        "origin": describe_origin("cpu"),
    }  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(ratios, indent=1) + "\n")
    return 0 if all(found["met"].values()) else 1


def measure(folder: Path, home: Path) -> dict[str, dict[str, list[float]]]:
    """Who → answers at a time → tokens a second of each round; the parties take turns."""
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
    with (
        serve_here(settings) as server,
        server.client(max_retries=0) as client,
        ThreadPoolExecutor(max(ROWS)) as pool,
    ):
        asked: Any = {"model": "m", "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0,
                      "logit_bias": {str(resolve_stop(folder)): -100}}  # fmt: skip

        def ask(rows: int) -> None:
            done = client.completions.create(**asked, n=rows)
            assert done.usage
            assert done.usage.completion_tokens == rows * NEW_TOKENS

        def read_stream(_: int) -> None:
            *_, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            assert last.usage
            assert last.usage.completion_tokens == NEW_TOKENS

        def stream(rows: int) -> None:
            list(pool.map(read_stream, range(rows)))

        parties: dict[str, Callable[[int], object]] = {
            PEER: generate,
            "decoder": lambda rows: ours.generate_batch([PROMPT] * rows, options, []),
            "one call": ask,
            "streams": stream,
        }
        rates: dict[str, dict[str, list[float]]] = {who: {} for who in parties}
        for turn in range(ROUNDS + 1):
            for rows in ROWS:
                # Each is first as often as the others: whoever follows finds the caches warm.
                for who in list(parties)[turn % len(parties) :] + list(parties)[: turn % len(parties)]:
                    start = time.perf_counter()
                    parties[who](rows)
                    rate = rows * NEW_TOKENS / (time.perf_counter() - start)
                    if turn:
                        rates[who].setdefault(str(rows), []).append(round(rate, 2))
    return rates


def resolve_stop(folder: Path) -> int:
    """The token that ends a turn."""
    from tunewright.data.templates import load_tokenizer

    return load_tokenizer(folder, None).stop_ids[0]


if __name__ == "__main__":
    sys.exit(main())
