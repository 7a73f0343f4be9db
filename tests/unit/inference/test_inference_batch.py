from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from families import FAMILIES
from tunewright.inference.batch import Answer, Batch
from tunewright.inference.generator import Generator, load_base
from tunewright.inference.sampling import Sampler, SamplingOptions

ENGINES = ("torch", "mlx")


def _prompts() -> list[list[int]]:
    """Lengths below and beyond the window of 16."""
    draw = np.random.default_rng(1)
    return [draw.integers(4, 300, size=length).tolist() for length in (30, 3, 12, 45)]


def _answer(prompt: list[int], limit: int, log_probs: int | None = None, number: int = 0) -> Answer:
    options = SamplingOptions(temperature=0.8, seed=3)
    return Answer(prompt, Sampler(options, number), limit, frozenset(), log_probs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_join_and_leave_are_those_of_each_alone(family: str, engine: str, family_model) -> None:
    decoders = load_base(family_model(family), engine=engine, device="cpu").decoders()
    limits = (25, 40, 9, 12)
    options = SamplingOptions(temperature=0.8, seed=3, max_new_tokens=40)
    alone = Generator(decoders, None)
    expected = [
        alone.generate_batch([p], options, [])[0][:n] for p, n in zip(_prompts(), limits, strict=True)
    ]
    answers = [_answer(prompt, limit) for prompt, limit in zip(_prompts(), limits, strict=True)]
    batch = Batch(decoders)
    # A long one first, then a short one on its own, then two together; the longest padding leaves early.
    for joining in (answers[:1], answers[1:2], answers[2:]):
        assert batch.accepts()
        batch.add(joining)
        for _ in range(5):
            batch.step()
    while batch.step():
        pass
    assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_several_answers_to_one_prompt_feed_it_once(engine: str, family_model, monkeypatch) -> None:
    decoders = load_base(family_model("llama"), engine=engine, device="cpu").decoders()
    prompt = _prompts()[0]
    expected = Generator(decoders, None).generate_batch(
        [prompt] * 3, SamplingOptions(temperature=0.8, seed=3, max_new_tokens=8), []
    )
    fed: list[int] = []
    kind = type(decoders())
    start = kind.start
    monkeypatch.setattr(kind, "start", lambda self, prompts: fed.append(len(prompts)) or start(self, prompts))
    answers = [_answer(prompt, 8, number=number) for number in range(3)]
    batch = Batch(decoders)
    batch.add(answers)
    while batch.step():
        pass
    assert [answer.tokens for answer in answers] == expected
    assert fed == [1]
    assert len({tuple(tokens) for tokens in expected}) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_dropped_answers_are_gone_at_once(engine: str, family_model) -> None:
    batch = Batch(load_base(family_model("qwen2"), engine=engine, device="cpu").decoders())
    answers = [_answer(prompt, 30) for prompt in _prompts()]
    batch.add(answers)
    batch.drop(answers[::2])
    assert list(batch.answers) == answers[1::2]
    batch.step()
    assert [len(answer.tokens) for answer in answers] == [1, 2, 1, 2]
    batch.drop(answers)
    assert list(batch.step()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_log_probabilities_are_those_of_the_plain_softmax(engine: str, family_model) -> None:
    files = family_model("gemma2")
    decoders = load_base(files, engine=engine, device="cpu").decoders()
    prompt = _prompts()[3]
    sampler = Sampler(SamplingOptions(temperature=0.5, logit_bias={9: 3.0}, presence_penalty=1.0), 0)
    answers = [Answer(prompt, sampler, 12, frozenset(), 4), _answer(_prompts()[1], 12)]
    batch = Batch(decoders)
    steps = list(batch.add(answers))
    while more := batch.step():
        steps += more
    told = [step.likely for step in steps if step.answer is answers[0]]
    assert [step.likely for step in steps if step.answer is answers[1]] == [None] * 12
    model = AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager").eval()
    tokens = answers[0].tokens
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.float().log_softmax(-1)
    chosen = expected.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    np.testing.assert_allclose([each.log_prob for each in told], chosen, atol=2e-5, rtol=0)
    top = expected.topk(4).values
    np.testing.assert_allclose([[value for _, value in each.top] for each in told], top, atol=2e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_is_scored_token_by_token(engine: str, family_model) -> None:
    files = family_model("gemma3")
    decoder = load_base(files, engine=engine, device="cpu").decoders()()
    prompt = _prompts()[3]
    chosen, values, tokens = decoder.score(prompt, 3)
    model = AutoModelForCausalLM.from_pretrained(files.folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
    np.testing.assert_allclose(
        chosen, expected.gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0], atol=2e-5
    )
    np.testing.assert_allclose(values, expected.topk(3).values, atol=2e-5, rtol=0)
    assert (tokens == expected.topk(3).indices.numpy()).mean() > 0.97


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("engine", ENGINES)
def test_adapters_share_the_base_and_leave_it_as_it_is(engine: str, family_model, tmp_path) -> None:
    files = family_model("qwen2")
    for name in ("one", "two"):
        model = AutoModelForCausalLM.from_pretrained(files.folder)
        torch.manual_seed(len(name) if name == "one" else 99)
        config = LoraConfig(
            r=4, target_modules=["q_proj"], bias="all", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        tuned = get_peft_model(model, config)
        for key, values in tuned.named_parameters():
            if key.endswith(".bias"):
                values.data += 0.3
        tuned.save_pretrained(tmp_path / name)

    def greedy(decoders) -> list[list[int]]:
        return Generator(decoders, None).generate_batch(_prompts(), SamplingOptions(max_new_tokens=12), [])

    base = load_base(files, engine=engine, device="cpu")
    plain = greedy(base.decoders())
    loaded = [base.adapted(tmp_path / name) for name in ("one", "two")]
    answers = [greedy(decoders) for decoders, _ in loaded]
    alone = load_base(files, engine=engine, device="cpu").adapted(tmp_path / "two")[0]
    assert answers[1] == greedy(alone)
    assert greedy(base.decoders()) == plain
    assert len({str(each) for each in (plain, *answers)}) == 3
    assert all(0 < own < base.bytes / 10 for _, own in loaded)
