"""What the benchmarks train on: random weights of real shapes, and documents of realistic lengths.

Speed depends on shapes, lengths and label rows, not on what the words mean, so tokens are drawn at random.
`python workload.py NAME FOLDER DTYPE DEVICE` writes a model.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.types import Example, SourceRef


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, as in its published config.json."""

    family: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocabulary: int
    tied: bool

    @property
    def linear_sizes(self) -> list[tuple[int, int]]:
        """(in, out) of the seven linear modules of a layer."""
        kv = self.hidden_size // self.heads * self.kv_heads
        h, wide = self.hidden_size, self.intermediate_size
        return [(h, h), (h, kv), (h, kv), (h, h), (h, wide), (h, wide), (wide, h)]

    def flops(self, tokens: float, label_tokens: float, squares: float, rank: int) -> float:
        """Model FLOPs of a LoRA step without recomputation: frozen weights forward and towards the input, the
        adapter also towards itself, the head on label rows. squares: Σ length² over the documents; causal
        attention sees half of them."""
        linear = self.layers * sum(a * b for a, b in self.linear_sizes)
        lora = self.layers * rank * sum(a + b for a, b in self.linear_sizes)
        head = self.hidden_size * self.vocabulary
        attention = 3 * 2 * self.layers * self.hidden_size * squares
        return tokens * (4 * linear + 6 * lora) + label_tokens * 4 * head + attention


SHAPES = {
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 1536, 49_152, True),
    "tiny": Shape("qwen2", 64, 2, 4, 2, 96, 512, False),
    "qwen2-55m": Shape("qwen2", 512, 8, 8, 2, 1408, 32_000, False),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151_936, True),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151_936, True),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 18_944, 152_064, False),
    "llama3-8b": Shape("llama", 4096, 32, 32, 8, 14_336, 128_256, False),
    "mistral-7b": Shape("mistral", 4096, 32, 32, 8, 14_336, 32_768, False),
}
_CLASSES = {"qwen2": "Qwen2Config", "llama": "LlamaConfig", "mistral": "MistralConfig"}


def write_model(name: str, folder: Path, *, dtype: str, device: str = "cpu") -> Path:
    """Random weights of the named shape as a Hugging Face model folder. dtype: a name in torch."""
    import torch
    import transformers

    shape = SHAPES[name]
    config = getattr(transformers, _CLASSES[shape.family])(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32_768,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **({"sliding_window": None} if shape.family == "mistral" else {}),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def draw_documents(rows: str, count: int, *, longest: int, vocabulary: int) -> list[Example]:
    """The documents of a benchmark; the same for every program that asks with the same values.

    rows: `conversations` have lognormal lengths (mean 180 tokens, half below 130) up to `longest`, and a
    prompt without loss that takes 10 to 80 % of each; `full` ones have `longest` tokens, all with a loss: the
    shape of published records.
    """
    draw = np.random.Generator(np.random.Philox(0))
    if rows == "full":
        return [_document(draw, longest, 0, vocabulary) for _ in range(count)]
    lengths = np.clip(draw.lognormal(4.87, 0.8, size=count), 16, longest).astype(int)
    shares = 0.1 + 0.7 * draw.beta(2, 2, size=count)
    return [
        _document(draw, int(n), int(n * share), vocabulary) for n, share in zip(lengths, shares, strict=True)
    ]


def _document(draw: np.random.Generator, length: int, prompt: int, vocabulary: int) -> Example:
    # Frequencies fall off like those of words: there is something to learn, so a loss that falls in the same
    # way says that two programs do the same.
    tokens_T = (2 + np.exp(draw.uniform(0, np.log(vocabulary - 3), size=length))).astype(np.int32)
    weights_T = np.ones(length, np.float32)
    weights_T[: max(1, prompt)] = 0
    return Example(tokens_T, weights_T, SourceRef("drawn", 1))


if __name__ == "__main__":
    write_model(sys.argv[1], Path(sys.argv[2]), dtype=sys.argv[3], device=sys.argv[4])
