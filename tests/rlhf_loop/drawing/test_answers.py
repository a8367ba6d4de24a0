"""Drawing answers: what is drawn has the computed probabilities, whatever is drawn beside it."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.trunk import right_pad
from rlhf_loop.drawing import blocks, generate_answers, record
from rlhf_loop.drawing.apart import draw_apart
from rlhf_loop.drawing.shared import shares_prompts
from rlhf_loop.policy import (
    Answer,
    Drawing,
    left_pad,
    load_chat_model,
    prompt_tokens,
    row_seed,
    stop_tokens,
)
from tests.rlhf_loop.conftest import make_prompt
from tests.rlhf_loop.plain_rows import response_logits, response_logprobs
from tests.tiny_models import SHAPE, tiny_tokenizer

GROUPED = SHAPE | {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 16}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Llama": (transformers.LlamaConfig, GROUPED),
    "Mistral, window": (transformers.MistralConfig, GROUPED | WINDOW),
    "Qwen 2": (transformers.Qwen2Config, GROUPED),
    "Qwen 3": (transformers.Qwen3Config, GROUPED | {"head_dim": 8}),
    "Gemma": (transformers.GemmaConfig, SHAPE | {"num_key_value_heads": 1, "head_dim": 8}),
    "Gemma 2, window, capped": (transformers.Gemma2Config, GROUPED | WINDOW | {"head_dim": 8}),
    "Phi": (transformers.PhiConfig, GROUPED),
    "GPT-NeoX": (transformers.GPTNeoXConfig, SHAPE),
    "GPT-2": (
        transformers.GPT2Config,
        {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    ),
    "OLMo": (transformers.OlmoConfig, GROUPED),
    "OLMo 2": (transformers.Olmo2Config, GROUPED),
}
APART = {
    "Bloom, biases by distance": (
        transformers.BloomConfig,
        {"vocab_size": 320, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
    "LFM2, convolutions": (
        transformers.Lfm2Config,
        GROUPED | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    ),
}


def build(kind: Any, values: dict[str, Any], seed: int = 0) -> tuple[Any, Any]:
    """A model with random weights that says different things, and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = kind(**values)
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, None
    config.pad_token_id = tokenizer.pad_token_id
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return model, tokenizer


@pytest.fixture(scope="module", params=list(FAMILIES))
def policy(request) -> tuple[Any, Any]:
    return build(*FAMILIES[request.param])


@pytest.fixture(scope="module")
def llama() -> tuple[Any, Any]:
    return build(*FAMILIES["Llama"])


def queries(tokenizer, count=9):
    return [prompt_tokens(tokenizer, make_prompt(i).messages) for i in range(count)]


def asked(tokenizer, answers=(3, 1, 4, 2, 1)):
    """Several answers to each of a few prompts, mixed up."""
    rows = [p for p, n in zip(queries(tokenizer), answers, strict=False) for _ in range(n)]
    random.Random(0).shuffle(rows)
    return rows, [row_seed(0, i) for i in range(len(rows))]


def tokens_of(answers):
    return [(answer.tokens, answer.finished) for answer in answers]


def test_it_works(llama):
    model, tokenizer = llama
    prompts, seeds = asked(tokenizer)
    heard: list[int] = []
    answers = generate_answers(model, tokenizer, prompts, seeds, Drawing(24), 256, heard.append)
    assert len({tuple(answer.tokens) for answer in answers}) == len(prompts)
    assert heard == sorted(set(heard))
    assert heard[-1] == len(prompts)
    assert generate_answers(model, tokenizer, [], [], Drawing(24), 256) == []


def test_an_answer_does_not_depend_on_its_neighbours(policy):
    model, tokenizer = policy
    prompts, seeds = asked(tokenizer)
    drawing = Drawing(40, temperature=1.3)
    together = generate_answers(model, tokenizer, prompts, seeds, drawing, 256)
    assert len({tuple(answer.tokens) for answer in together}) > 1
    for rows in (1, 2, 5):
        apart = generate_answers(model, tokenizer, prompts, seeds, drawing, rows)
        assert tokens_of(apart) == tokens_of(together)
        for one, other in zip(apart, together, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_greedy_answers_are_those_of_transformers(policy):
    model, tokenizer = policy
    prompts = queries(tokenizer, 4)
    found = generate_answers(model, tokenizer, prompts * 2, [0] * 8, Drawing(30, 0), 256)
    for prompt, answer, again in zip(prompts, found, found[4:], strict=False):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
            do_sample=False, max_new_tokens=30,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert answer.tokens == again.tokens == expected
        assert answer.logprobs is None


@pytest.mark.parametrize("drawing", [Drawing(30), Drawing(30, 1.4, 0.8), Drawing(30, 0.6)])
def test_log_probabilities_are_those_of_the_full_softmax(policy, drawing):
    model, tokenizer = policy
    prompts, seeds = asked(tokenizer)
    answers = generate_answers(model, tokenizer, prompts, seeds, drawing, 256)
    query, query_mask = left_pad(prompts, 0)
    response, mask = right_pad([answer.tokens for answer in answers], 0)
    with torch.no_grad():
        logits, _ = response_logits(model, query, query_mask, response, mask)
    expected = response_logprobs(logits, response, drawing.temperature)
    for answer, row in zip(answers, expected.tolist(), strict=True):
        assert answer.logprobs == pytest.approx(row[: len(answer.tokens)], abs=1e-4)


def test_every_family_shares_its_prompts(policy, capsys):
    assert shares_prompts(policy[0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", list(APART))
def test_a_family_that_cannot_draws_apart_and_says_so_once(name, capsys):
    model, tokenizer = build(*APART[name])
    prompts, seeds = asked(tokenizer, (2, 1))
    answers = generate_answers(model, tokenizer, prompts, seeds, Drawing(12), 2)
    assert capsys.readouterr().out.count("answers do not share their prompts, it") == 1
    assert generate_answers(model, tokenizer, prompts, seeds, Drawing(12), 2) == answers
    assert capsys.readouterr().out == ""
    for prompt, seed, answer in zip(prompts, seeds, answers, strict=True):
        [alone] = generate_answers(model, tokenizer, [prompt], [seed], Drawing(12), 1)
        assert alone.tokens == answer.tokens


def test_a_mask_that_is_not_heard_of_is_noticed(monkeypatch, capsys):
    monkeypatch.setattr(blocks.Block, "_mask", lambda self, window: None)
    model, _ = build(*FAMILIES["Llama"])
    assert not shares_prompts(model)
    assert "its logits come out" in capsys.readouterr().out


@given(
    answers=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    lengths=st.lists(st.integers(1, 30), min_size=6, max_size=6),
    stem=st.integers(0, 20),
    rows=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_shared_or_apart_the_answers_are_the_same(llama, answers, lengths, stem, rows, seed):
    model, tokenizer = llama
    numbers = random.Random(seed)
    common = [numbers.randrange(5, 320) for _ in range(stem)]
    every = [common + [numbers.randrange(5, 320) for _ in range(n)] for n in lengths]
    prompts = [p for p, n in zip(every, answers, strict=False) for _ in range(n)]
    numbers.shuffle(prompts)
    seeds = [numbers.randrange(2**31) for _ in prompts]
    drawing = Drawing(numbers.choice([1, 2, 12, 40]), 1.6)
    found = generate_answers(model, tokenizer, prompts, seeds, drawing, rows)
    stops = torch.tensor(sorted(stop_tokens(model, tokenizer)))
    drawn = record.Record(len(prompts), drawing, seeds, stops)
    with torch.inference_mode():
        assert [*draw_apart(model, prompts, drawn, 4, 0)][-1:] == [len(prompts)][: len(prompts)]
    assert tokens_of(found) == tokens_of(drawn.answers())


def test_each_token_goes_through_the_model_once(llama):
    model, tokenizer = llama
    rows = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, args, output: rows.append(args[0].numel())
    )
    stem, one, two = ([i] * n for i, n in ((7, 20), (8, 9), (9, 14)))
    shares_prompts(model)
    rows.clear()
    try:
        prompts = [stem + one, stem + two] * 8
        answers = generate_answers(model, tokenizer, prompts, range(16), Drawing(10), 256)
    finally:
        hook.remove()
    assert rows[0] == 20 + 9 + 14
    assert sum(rows[1:]) == sum(len(answer.tokens) - 1 for answer in answers)


def test_the_same_call_gives_the_same_bits(llama):
    """Some answers end early, and others take their places."""
    model, tokenizer = llama
    end = tokenizer.eos_token_id
    with torch.no_grad():
        bias = torch.zeros(model.config.vocab_size)
        bias[end] = 3.0
    hook = model.lm_head.register_forward_hook(lambda _, args, output: output + bias)
    prompts, seeds = asked(tokenizer, (8, 5, 9, 3, 7, 6))
    try:
        first, again = (
            generate_answers(model, tokenizer, prompts, seeds, Drawing(40, 1.2), 12)
            for _ in range(2)
        )
    finally:
        hook.remove()
    assert len({len(answer.tokens) for answer in first}) > 5
    assert {answer.finished for answer in first} == {True, False}
    assert first == again  # log-probabilities to the last bit too


def test_an_answer_ends_with_its_stop_token(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    end = tokenizer.eos_token_id
    prompts, seeds = queries(tokenizer) * 20, list(range(180))
    answers = generate_answers(model, tokenizer, prompts, seeds, Drawing(40, 1.5), 256)
    finished = [answer for answer in answers if answer.finished]
    assert finished
    assert len(finished) < 180
    for answer in answers:
        assert (answer.tokens[-1] == end) == answer.finished
        assert end not in answer.tokens[:-1]
        assert answer.finished or len(answer.tokens) == 40
        assert len(answer.logprobs) == len(answer.tokens)


def test_a_stop_token_of_the_generation_config_ends_an_answer(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")

    def draw() -> Answer:
        [answer] = generate_answers(model, tokenizer, queries(tokenizer, 1), [0], Drawing(5, 0), 1)
        return answer

    other = draw().tokens[1]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    assert stop_tokens(model, tokenizer) == {tokenizer.eos_token_id, other}
    assert draw().finished
    assert draw().tokens[-1] == other


def test_a_prompt_without_room_for_an_answer_is_refused(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    with pytest.raises(ValueError, match="a prompt has 250 tokens, allowed are 246"):
        generate_answers(model, tokenizer, [[5] * 250], [0], Drawing(10), 4)
    with_images = SimpleNamespace(config=transformers.LlavaConfig(text_config=model.config))
    with pytest.raises(ValueError, match="a prompt has 250 tokens, allowed are 246"):
        generate_answers(with_images, tokenizer, [[5] * 250], [0], Drawing(10), 4)


def test_the_model_is_left_as_it_was(llama, monkeypatch):
    model, tokenizer = llama
    prompts, seeds = asked(tokenizer)
    plain = model.config._attn_implementation
    tokens = torch.tensor([prompts[0]])
    before = model(tokens).logits
    generate_answers(model, tokenizer, prompts, seeds, Drawing(4), 4)
    after = model(tokens).logits
    assert torch.equal(before, after)
    after.sum().backward()
    model.zero_grad()
    monkeypatch.setattr(record, "draw_tokens", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_answers(model, tokenizer, prompts, seeds, Drawing(4), 4)
    assert model.config._attn_implementation == plain


def test_it_draws_in_bfloat16():
    model, tokenizer = build(*FAMILIES["Llama"])
    prompts, seeds = asked(tokenizer)
    answers = generate_answers(model.bfloat16(), tokenizer, prompts, seeds, Drawing(12), 256)
    assert shares_prompts(model)
    assert {len(answer.tokens) for answer in answers if not answer.finished} == {12}
