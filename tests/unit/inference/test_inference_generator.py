from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from families import EAGER, FAMILIES, STATEFUL
from tunewright.errors import ConfigError, EngineError, ModelError
from tunewright.inference import generator as generator_module
from tunewright.inference.generator import Generator, load_generator
from tunewright.inference.sampling import SamplingOptions
from tunewright.inference.torch_base import load_base
from tunewright.models.resolve import ModelFiles

END = 3
GREEDY = SamplingOptions(max_new_tokens=30)
ENGINES = ("torch", "mlx")
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def _prompts() -> list[list[int]]:
    """Lengths below, at and beyond the window of 16, so that padding, window and cache all matter."""
    draw = np.random.default_rng(0)
    return [draw.integers(4, 300, size=length).tolist() for length in (5, 40, 1, 16, 23, 70)]


def _reference(model, prompts: list[list[int]], new_tokens: int = 30) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
            eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        answer = output[0, len(prompt) :].tolist()
        answers.append(answer[:-1] if answer and answer[-1] == END else answer)
    return answers


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_transformers(family: str, engine: str, family_model) -> None:
    files: ModelFiles = family_model(family)
    model = AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager").eval()
    expected = _reference(model, _prompts())
    generator = load_generator(files, None, engine=engine, device="cpu", dtype="fp32")
    assert generator.generate_batch(_prompts(), GREEDY, [END]) == expected
    assert [list(generator.stream(prompt, GREEDY, [END])) for prompt in _prompts()[:2]] == expected[:2]


@torch.no_grad()
def _read_again(model, prompts: list[list[int]], new_tokens: int, stop: int) -> list[list[int]]:
    """Greedy answers without any cache: everything is read again for each token."""
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + new_tokens:
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token == stop:
                break
            ids.append(token)
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.parametrize("family", [name for name in (*STATEFUL, *EAGER) if name != "recurrent_gemma"])
def test_families_with_state_answer_as_if_they_read_everything_again(family: str, family_model) -> None:
    files: ModelFiles = family_model(family)
    model = AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager").eval()
    prompts, options = _prompts()[:5], SamplingOptions(max_new_tokens=8)
    stop = _read_again(model, prompts[:1], 8, -1)[0][3]
    expected = _read_again(model, prompts, 8, stop)
    assert len(expected[0]) <= 3
    generator = load_generator(files, None, engine="torch", device="cpu", dtype="fp32")
    assert generator.generate_batch(prompts, options, [stop]) == expected
    assert [generator.generate_batch([prompt], options, [stop])[0] for prompt in prompts] == expected


def test_a_model_without_a_cache_is_refused_by_name(family_model) -> None:
    generator = load_generator(family_model("recurrent_gemma"), None, engine="torch", device="cpu")
    with pytest.raises(EngineError, match="RecurrentGemmaForCausalLM") as caught:
        generator.generate_batch([[5, 6]], GREEDY, [END])
    assert caught.value.code == "engine.no-cache"


def test_learned_positions_count_from_the_first_token_not_from_the_padding(tmp_path) -> None:
    """GPT-2: the other families have rotary positions, which a shift of all positions leaves as they are."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    generator = load_generator(ModelFiles(tmp_path, "gpt2", None, ()), None, device="cpu")
    assert generator.generate_batch(_prompts(), GREEDY, [END]) == _reference(model, _prompts())


@PEFT_WARNS
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("engine", "family", "settings"),
    [
        *((engine, "llama", {"target_modules": "all-linear"}) for engine in ENGINES),
        *(
            (engine, "gemma2", {"target_modules": ["q_proj", "o_proj"], "use_rslora": True})
            for engine in ENGINES
        ),
        ("torch", "qwen2", {"target_modules": ["q_proj"], "bias": "all", "modules_to_save": ["lm_head"]}),
        # Its head is not the embedding; a tied one does not train apart from it on the mlx engine.
        ("mlx", "phi3", {"target_modules": ["qkv_proj"], "modules_to_save": ["lm_head"]}),
        ("mlx", "qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    ],
)
def test_answers_with_an_adapter_equal_those_of_peft(
    engine: str, family: str, settings, family_model, tmp_path
) -> None:
    files: ModelFiles = family_model(family)
    base = AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager").eval()
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    plain = _reference(base, _prompts())
    torch.manual_seed(0)
    tuned = get_peft_model(base, config)
    tuned.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager"), tmp_path
    ).eval()
    expected = _reference(reloaded, _prompts())
    generator = load_generator(files, tmp_path, engine=engine, device="cpu", dtype="fp32")
    assert generator.generate_batch(_prompts(), GREEDY, [END]) == expected
    assert expected != plain


@pytest.mark.parametrize("engine", ENGINES)
def test_stop_tokens_end_an_answer_and_are_not_part_of_it(engine: str, family_model) -> None:
    generator = load_generator(family_model("llama"), None, engine=engine, device="cpu")
    free = generator.generate_batch(_prompts(), GREEDY, [])
    stop = free[1][3]
    cut = generator.generate_batch(_prompts(), GREEDY, [stop])
    for answer, whole in zip(cut, free, strict=True):
        assert answer == (whole[: whole.index(stop)] if stop in whole else whole)
    assert cut[1] == free[1][: free[1].index(stop)]
    assert list(generator.stream(_prompts()[1], GREEDY, [stop])) == cut[1]


def test_batches_are_cut_by_tokens_and_keep_the_order(family_model, monkeypatch) -> None:
    generator = load_generator(family_model("llama"), None, device="cpu")
    whole = generator.generate_batch(_prompts(), GREEDY, [END])
    monkeypatch.setattr(generator_module, "BATCH_TOKENS", 100)
    assert generator.generate_batch(_prompts(), GREEDY, [END]) == whole
    assert generator.generate_batch([], GREEDY, [END]) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_draw_depends_on_seed_and_place_not_on_the_batch(engine: str, family_model) -> None:
    generator = load_generator(family_model("llama"), None, engine=engine, device="cpu")
    options = SamplingOptions(max_new_tokens=12, temperature=1.5, seed=5)
    prompts = _prompts()
    together = generator.generate_batch(prompts, options, [END])
    assert together[:1] == generator.generate_batch(prompts[:1], options, [END])
    assert together[0] == list(generator.stream(prompts[0], options, [END]))
    assert together == generator.generate_batch(prompts, options, [END])
    other = SamplingOptions(max_new_tokens=12, temperature=1.5, seed=6)
    assert together != generator.generate_batch(prompts, other, [END])
    twice = generator.generate_batch([prompts[0]] * 2, options, [END])
    assert twice[0] != twice[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_ends_where_the_positions_of_the_model_end(engine: str, family_model) -> None:
    generator = load_generator(family_model("llama"), None, engine=engine, device="cpu")
    prompt = [5] * 508
    assert len(generator.generate_batch([prompt], GREEDY, [])[0]) == 4
    assert len(list(generator.stream(prompt, GREEDY, []))) == 4


@pytest.mark.parametrize(("prompt", "code"), [([], "config.empty-prompt"), ([5] * 512, "config.long-prompt")])
def test_prompts_without_room_are_refused(prompt: list[int], code: str, family_model) -> None:
    generator = load_generator(family_model("llama"), None, device="cpu")
    for ask in (
        lambda: list(generator.stream(prompt, GREEDY, [])),
        lambda: generator.generate_batch([[5], prompt], GREEDY, []),
    ):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert caught.value.code == code


def test_a_stream_can_be_left_and_keeps_no_mode_on(family_model) -> None:
    stream = load_generator(family_model("llama"), None, device="cpu").stream([5, 6], GREEDY, [])
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_is_loaded_when_asked(engine: str, family_model) -> None:
    generator = load_generator(family_model("llama"), None, engine=engine, device="cpu", dtype="bf16")
    assert len(generator.generate_batch([[5, 6, 7]], GREEDY, [])[0]) == 30
    with pytest.raises(EngineError):
        load_generator(family_model("llama"), None, engine=engine, device="cpu", dtype="int8")


@PEFT_WARNS
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_trained_heads_and_biases_answer_in_half_precision(family_model, tmp_path) -> None:
    base = AutoModelForCausalLM.from_pretrained(family_model("qwen2").folder)
    settings = {"bias": "lora_only", "modules_to_save": ["lm_head"]}
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    get_peft_model(base, config).save_pretrained(tmp_path)
    generator = load_generator(family_model("qwen2"), tmp_path, device="cpu", dtype="bf16")
    assert len(generator.generate_batch([[5, 6, 7]], GREEDY, [])[0]) == 30


@pytest.mark.parametrize("engine", ENGINES)
@PEFT_WARNS
def test_an_adapter_of_another_model_is_refused(engine: str, family_model, tmp_path) -> None:
    base = AutoModelForCausalLM.from_pretrained(family_model("gemma2").folder)
    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError) as caught:
        load_generator(family_model("llama"), tmp_path, engine=engine, device="cpu")
    assert caught.value.code == "model.adapter-mismatch"
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["r"] == 4


def test_positions_are_unbounded_where_the_model_says_nothing(family_model) -> None:
    base = load_base(family_model("llama").folder, device="cpu", dtype="fp32")
    generator = Generator(base.decoders(), None)
    assert len(generator.generate_batch([[5] * 512], SamplingOptions(max_new_tokens=2), [])[0]) == 2


def test_draws_are_the_same_on_both_engines(family_model) -> None:
    options = SamplingOptions(max_new_tokens=12, temperature=1.5, top_k=40, top_p=0.9, seed=5)
    answers = [
        load_generator(family_model("llama"), None, engine=engine, device="cpu").generate_batch(
            _prompts(), options, [END]
        )
        for engine in ENGINES
    ]
    assert answers[0] == answers[1]


def test_a_long_prompt_goes_in_by_pieces(family_model, monkeypatch) -> None:
    pytest.importorskip("mlx.core")
    from tunewright.inference import mlx_decoder

    whole = load_generator(family_model("gemma2"), None, engine="mlx", device="cpu")
    expected = whole.generate_batch(_prompts(), GREEDY, [END])
    # 70 tokens, the longest prompt, are ten pieces without a rest.
    for piece in (7, 16):
        monkeypatch.setattr(mlx_decoder, "_PIECE_TOKENS", piece)
        assert whole.generate_batch(_prompts(), GREEDY, [END]) == expected


def test_an_unknown_engine_is_refused_before_loading(family_model) -> None:
    with pytest.raises(EngineError) as caught:
        load_generator(family_model("llama"), None, engine="abacus")
    assert caught.value.code == "engine.unknown"
