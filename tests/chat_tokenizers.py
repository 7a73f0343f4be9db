"""Tiny byte-level tokenizers with a family's control tokens, built offline for tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

# Control tokens of all families. Those that real tokenizers store as non-special stay so here.
_SPECIAL = re.compile(
    r"<[|｜][A-Za-z0-9_▁ ]+[|｜]>|<[|]?[a-z_]+[|]>|<[|][a-z_]+>|<(?:start|end)_of_(?:turn|utterance|image)>"
    r"|</?s>|<(?:bos|eos|sop)>|\[gMASK\]|\[/?INST\]"
)
_PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tokenizer(
    folder: Path,
    template: str | None,
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    add_bos: bool = False,
    special: tuple[str, ...] = (),
    stops: tuple[str, ...] = (),
) -> Path:
    """Write tokenizer files for `template` into `folder`: bytes as tokens, control tokens of the template
    and a few merges, offsets trimmed as byte-level tokenizers of real models trim them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges = [("Ċ", "Ċ"), ("h", "e"), ("l", "l"), ("Ġ", "t")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    names = [bos, eos, *special, *dict.fromkeys(m.group() for m in _SPECIAL.finditer(template or ""))]
    backend.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in dict.fromkeys(names)]
    )
    backend.add_tokens(
        [AddedToken(name, normalized=False, special=False) for name in _PLAIN if name in (template or "")]
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if add_bos:
        start = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), start])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if stops:
        generation = {"eos_token_id": [backend.token_to_id(name) for name in stops]}
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
