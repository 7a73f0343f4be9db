"""Decoding speed with a grammar beside that without, in turns in one run: benchmarks/structured.py.

The grammar is a list of objects with numbers and texts, at temperature 1, one thread; tokens for each second
of computing, so that others on the machine matter little. It writes structured.json and ends with 1 when the
ratio of the medians is below the bar.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.append(str(Path(__file__).parent))

import torch
from origin import describe_origin

from tunewright.data.templates import load_tokenizer
from tunewright.inference.batch import Answer, Batch
from tunewright.inference.constraint import GrammarVocabulary
from tunewright.inference.decoder import Decoders
from tunewright.inference.detokenize import TokenBytes
from tunewright.inference.generator import load_base
from tunewright.inference.grammar import Grammar, write_grammar
from tunewright.inference.sampling import Sampler, SamplingOptions
from tunewright.inference.vocabulary import Vocabulary
from tunewright.models.resolve import resolve_model
from tunewright.types import Message

MODEL = "builtin:tiny"
TOKENS, ROWS, ROUNDS = 256, (1, 4), 7
BAR = 0.7
"""Least ratio of tokens a second with a grammar to those without."""
SCHEMA = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
}


def main(model: str) -> int:
    """Measure, print and write the result. 1 when a bar is missed."""
    torch.set_num_threads(1)
    files = resolve_model(model)
    tokenizer = load_tokenizer(files.folder, None)
    known = Vocabulary(
        tokenizer.backend, tokenizer.special_ids, frozenset(tokenizer.stop_ids), tokenizer.largest_id
    )
    start = GrammarVocabulary(known, TokenBytes(known)).constrain(
        write_grammar(Grammar(json.dumps(SCHEMA)), None, {})
    )
    decoders = load_base(files, device="cpu").decoders()
    prompt = tokenizer.encode_prompt([Message("user", "Oct 12, 2044")])

    def rate(rows: int, *, held: bool) -> float:
        answers = [
            # Without a grammar the model would end early: there its end counts as any token.
            Answer(
                prompt, Sampler(SamplingOptions(temperature=1.0, seed=1), row), TOKENS,
                known.stop_ids if held else frozenset(), None, start.copy() if held else None,
            )
            for row in range(rows)
        ]  # fmt: skip
        return _rate(decoders, answers)

    rates: dict[str, dict[str, list[float]]] = {"free": {}, "grammar": {}}
    for rows in ROWS:
        for _ in range(ROUNDS):
            for name in rates:
                rates[name].setdefault(str(rows), []).append(rate(rows, held=name == "grammar"))
    ratios = {
        rows: statistics.median(rates["grammar"][rows]) / statistics.median(rates["free"][rows])
        for rows in rates["free"]
    }
    found = {
        "model": model, "tokens": TOKENS, "rounds": ROUNDS, "tokens_per_cpu_second": rates,
        "ratios": ratios, "bar": BAR, "met": all(ratio >= BAR for ratio in ratios.values()),
        "origin": describe_origin("cpu"),
    }  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(ratios, indent=1) + "\n")
    return 0 if found["met"] else 1


def _rate(decoders: Decoders, answers: list[Answer]) -> float:
    batch = Batch(decoders)
    begun = time.process_time()
    batch.add(answers)
    while batch.step():
        pass
    return sum(len(answer.tokens) for answer in answers) / (time.process_time() - begun)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else MODEL))
