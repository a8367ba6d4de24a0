"""A minibatch as a prefix tree scores and learns as a padded row for each answer does."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reward import attention
from reward.attention import Layout
from reward.model import recompute_activations, score_rows
from reward.trunk import share_prefixes, shares_prefixes

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0, "num_labels": 1,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 16}
DECODERS = {
    "Llama": (transformers.LlamaConfig, GROUPED),
    "Mistral, window": (transformers.MistralConfig, GROUPED | WINDOW),
    "Qwen 2": (transformers.Qwen2Config, GROUPED),
    "Qwen 2, window": (
        transformers.Qwen2Config,
        GROUPED | WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "Qwen 3": (transformers.Qwen3Config, GROUPED | {"head_dim": 8}),
    "Gemma": (transformers.GemmaConfig, GROUPED | {"head_dim": 8}),
    "Gemma 2, window, capped": (transformers.Gemma2Config, GROUPED | WINDOW | {"head_dim": 8}),
    "Gemma 3, window": (transformers.Gemma3TextConfig, GROUPED | WINDOW | {"head_dim": 8}),
    "Phi": (transformers.PhiConfig, GROUPED),
    "Phi 3, window": (transformers.Phi3Config, GROUPED | WINDOW),
    "GPT-NeoX": (transformers.GPTNeoXConfig, SMALL),
    "GPT-2": (
        transformers.GPT2Config,
        {**SMALL, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    ),
    "OLMo": (transformers.OlmoConfig, GROUPED),
    "OLMo 2": (transformers.Olmo2Config, GROUPED),
}


def build(kind, values, dtype=torch.float64):
    """The same model twice: as it comes, and ready to share prefixes."""
    torch.manual_seed(0)
    config = kind(**values)
    plain = transformers.AutoModelForSequenceClassification.from_config(config).to(dtype).eval()
    with torch.no_grad():
        plain.score.weight.normal_(0, 1 / 32**0.5)
    return plain, copy.deepcopy(plain)


def drawn(seed: int, *lengths: int) -> list[list[int]]:
    """Token rows of these lengths."""
    numbers = random.Random(seed)
    return [[numbers.randrange(3, VOCABULARY) for _ in range(n)] for n in lengths]


def a_few_rows() -> list[list[int]]:
    """A dialogue of two turns, a prompt of its own, and a row that another one begins with."""
    stem, good, bad, onwards, alone = drawn(1, 40, 30, 9, 25, 60)
    return [stem + good, stem + bad, stem + good + onwards, alone, stem, stem + good]


def scores_and_gradients(model, rows):
    scores = score_rows(model, rows)
    weights = torch.linspace(-1, 1, len(rows), dtype=scores.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    (scores * weights).sum().backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    model.zero_grad()
    return scores.detach(), torch.cat([g.flatten() for g in found])


@pytest.fixture
def in_float64(monkeypatch):
    """Norms that go to float32 for themselves would round what is compared here."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("name", DECODERS)
def test_scores_and_gradients_are_those_of_plain_rows(in_float64, name):
    plain, shared = build(*DECODERS[name])
    assert share_prefixes(shared) == ""
    assert shares_prefixes(shared)
    assert not shares_prefixes(plain)
    expected, expected_gradient = scores_and_gradients(plain, a_few_rows())
    found, gradient = scores_and_gradients(shared, a_few_rows())
    assert (found - expected).abs().max() < 1e-9
    assert (gradient - expected_gradient).norm() < 1e-9 * expected_gradient.norm()


def test_the_same_in_float32_and_nearly_in_bfloat16():
    plain, shared = build(*DECODERS["Llama"], dtype=torch.float32)
    share_prefixes(shared)
    expected, expected_gradient = scores_and_gradients(plain, a_few_rows())
    found, gradient = scores_and_gradients(shared, a_few_rows())
    assert (found - expected).abs().max() < 1e-5
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()
    rough = score_rows(shared, a_few_rows(), "bfloat16")
    assert rough.dtype == torch.float32
    assert (rough - expected).abs().max() < 0.05


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), split=st.integers(1, 8))
def test_whatever_the_shapes_and_wherever_a_minibatch_is_cut(seed, split):
    numbers = random.Random(seed)
    plain, shared = MODELS
    rows = drawn(seed, *(numbers.randrange(1, 60) for _ in range(3)))
    for _ in range(7):
        stem = numbers.choice(rows)
        rows.append(stem[: numbers.randrange(len(stem) + 1)] + drawn(numbers.random(), 5)[0])
    numbers.shuffle(rows)
    expected = score_rows(plain, rows)
    parts = [score_rows(shared, rows[i : i + split]) for i in range(0, len(rows), split)]
    assert (torch.cat(parts) - expected).abs().max() < 1e-5


MODELS = build(*DECODERS["Mistral, window"], dtype=torch.float32)
share_prefixes(MODELS[1])


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, enable_gqa, window_size
):
    """What torch.nn.attention.varlen.varlen_attn says of itself, a row at a time: the window is
    (left, right) of the diagonal that ends in the lower right corner, -1 for no bound."""
    outputs = []
    starts = (cu_seq_q.tolist(), cu_seq_k.tolist())
    assert (cu_seq_q.dtype, cu_seq_k.dtype) == (torch.int32, torch.int32)
    for a, b, c, d in zip(starts[0], starts[0][1:], starts[1], starts[1][1:], strict=False):
        assert b - a <= max_q
        assert d - c <= max_k
        q, k, v = (x.transpose(0, 1) for x in (query[a:b], key[c:d], value[c:d]))
        if enable_gqa:
            k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
        distance = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = distance >= -window_size[1]
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        logits = q @ k.transpose(1, 2) * (scale or q.shape[2] ** -0.5)
        outputs.append((logits.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    assert (b, d) == (len(query), len(key))
    return torch.cat(outputs)


@pytest.fixture
def at_once(monkeypatch):
    """The way of CUDA in bfloat16, here on the CPU: one kernel, which is the one above."""
    attention._agrees.cache_clear()
    monkeypatch.setattr(attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "_suits", lambda query, key, value, softcap: not softcap)
    monkeypatch.setattr(attention, "_chain_by_chain", watched := Watched(attention._chain_by_chain))
    yield watched
    attention._agrees.cache_clear()


class Watched:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *of, **named):
        self.calls += 1
        return self.function(*of, **named)


@pytest.mark.parametrize("name", DECODERS)
def test_all_chains_at_once_give_what_chain_by_chain_gives(in_float64, at_once, name):
    plain, shared = build(*DECODERS[name])
    assert share_prefixes(shared) == ""
    at_once.calls = 0
    expected, expected_gradient = scores_and_gradients(plain, a_few_rows())
    found, gradient = scores_and_gradients(shared, a_few_rows())
    assert bool(at_once.calls) == ("capped" in name)  # the kernel has no word for that
    assert (found - expected).abs().max() < 1e-9
    assert (gradient - expected_gradient).norm() < 1e-9 * expected_gradient.norm()


def not_causal(*tensors, window_size, **named):
    """A kernel that sees what comes after a token."""
    return varlen_attn(*tensors, window_size=(window_size[0], 10**6), **named)


def one_too_wide(*tensors, window_size, **named):
    return varlen_attn(*tensors, window_size=(window_size[0] + 1, window_size[1]), **named)


def absent(*tensors, **named):
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from")


@pytest.mark.parametrize(
    ("kernel", "has_window", "said"),
    [
        (not_causal, False, "Attention goes chain by chain: one kernel comes out "),
        (one_too_wide, True, "Attention goes chain by chain: one kernel comes out "),
        (absent, False, "Attention goes chain by chain: FlashAttention only supports Ampere GPUs"),
    ],
)
def test_a_kernel_that_gives_something_else_is_not_used(
    at_once, monkeypatch, capsys, kernel, has_window, said
):
    tried = (torch.device("cpu"), torch.bfloat16, 4, 2, 8, has_window)
    assert attention._agrees(*tried)
    attention._agrees.cache_clear()
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    assert not attention._agrees(*tried)
    assert capsys.readouterr().out.startswith(said)
    plain, shared = build(*DECODERS["Llama"], dtype=torch.float32)
    share_prefixes(shared)
    if kernel is absent:
        expected, found = (score_rows(model, a_few_rows()) for model in (plain, shared))
        assert (found - expected).abs().max() < 1e-5


def test_activations_computed_again_change_nothing():
    _, shared = build(*DECODERS["Llama"])
    share_prefixes(shared)
    runs = []
    shared.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    expected = scores_and_gradients(shared, a_few_rows())
    assert len(runs) == 1
    recompute_activations(shared)
    found = scores_and_gradients(shared, a_few_rows())
    assert len(runs) == 3
    assert not any(m.training for m in shared.modules() if isinstance(m, torch.nn.Dropout))
    for now, before in zip(found, expected, strict=True):
        assert torch.equal(now, before)


def test_a_minibatch_is_computed_again_as_it_was_whatever_came_after_it():
    _, shared = build(*DECODERS["Llama"])
    share_prefixes(shared)
    minibatches = [a_few_rows(), drawn(2, 30, 20, 50)]

    def gradient():
        shared.zero_grad()
        sum(score_rows(shared, rows).sum() for rows in minibatches).backward()
        return torch.cat([p.grad.flatten() for p in shared.parameters() if p.grad is not None])

    expected = gradient()
    recompute_activations(shared)
    assert torch.equal(gradient(), expected)


def test_a_model_whose_attention_cannot_be_exchanged_keeps_plain_rows():
    values = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    plain, other = build(transformers.BloomConfig, {**values, "pad_token_id": 0, "num_labels": 1})
    assert share_prefixes(other) == "its attention cannot be exchanged"
    assert torch.equal(score_rows(other, a_few_rows()), score_rows(plain, a_few_rows()))


def test_a_model_that_does_not_hear_of_the_tree_keeps_plain_rows(monkeypatch):
    """As an architecture would whose attention ignored what stands before a chain."""
    plain, other = build(*DECODERS["Llama"])
    monkeypatch.setattr(Layout, "mask", lambda self, chain, window: None)
    assert share_prefixes(other).startswith("its hidden states come out ")
    assert torch.equal(score_rows(other, a_few_rows()), score_rows(plain, a_few_rows()))


def test_a_window_that_does_not_reach_the_attention_is_noticed():
    _, other = build(*DECODERS["Llama"])
    other.config.sliding_window = 16
    why = share_prefixes(other)
    assert why == "its sliding window of 16 tokens does not reach the attention"
    assert not shares_prefixes(other)
