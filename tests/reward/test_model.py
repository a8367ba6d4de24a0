"""Scores: the same whatever stands beside a row, and the same in transformers' own class."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward.data import row_tokens
from reward.model import load_reward_model, save_reward_model, score_rows, start_from_chat_model
from reward.preferences import Message
from reward.score import score_tokens
from tests.tiny_models import CONFIGS, tiny_chat_model

CONVERSATIONS = [
    [Message("user", "Hello"), Message("assistant", "Hi, how can I help you today?")],
    [Message("user", "Is it safe?"), Message("assistant", "No.")],
    [
        Message("system", "Be brief."),
        Message("user", "How long is the warranty?"),
        Message("assistant", "Two years."),
        Message("user", "And of the kettle?"),
        Message("assistant", "Two years from the day you bought it, as for all of them."),
    ],
]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_equal_scores_in_transformers(tmp_path, architecture, padding_side):
    chat = tiny_chat_model(tmp_path / "chat", architecture)
    model, tokenizer = start_from_chat_model(chat, seed=3)
    rows = [row_tokens(tokenizer, c) for c in CONVERSATIONS]
    alone = torch.cat([score_rows(model, [row]) for row in rows])
    save_reward_model(model, tokenizer, tmp_path / "reward")

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "reward")
    batch = tokens.pad({"input_ids": rows}, return_tensors="pt", padding_side=padding_side)
    with torch.no_grad():
        scores = theirs(**batch).logits.squeeze(-1)
    torch.testing.assert_close(scores, alone)
    ours, _ = load_reward_model(tmp_path / "reward")
    torch.testing.assert_close(score_tokens(ours, rows, 60), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pad", [None, "<|end|>"])
def test_a_pad_token_that_ends_rows_is_replaced(tmp_path, pad):
    chat = tiny_chat_model(tmp_path / "chat", pad=pad)
    model, tokenizer = start_from_chat_model(chat, seed=3)
    rows = [row_tokens(tokenizer, c) for c in CONVERSATIONS]
    assert all(row[-1] == tokenizer.eos_token_id for row in rows)
    assert model.config.pad_token_id != tokenizer.eos_token_id
    alone = torch.cat([score_rows(model, [row]) for row in rows])
    save_reward_model(model, tokenizer, tmp_path / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        torch.testing.assert_close(theirs(**batch).logits.squeeze(-1), alone)


def test_a_pad_token_that_the_template_ends_with_is_replaced(tmp_path):
    """The end of a turn need not be the tokenizer's own end token (Llama 3, ChatML)."""
    chat = tiny_chat_model(tmp_path / "chat", pad="<|end|>")
    settings = chat / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"eos_token": "<|end|>"',
                                                     '"eos_token": "<|system|>"'))  # fmt: skip
    model, tokenizer = start_from_chat_model(chat, seed=3)
    ending = row_tokens(tokenizer, CONVERSATIONS[0])[-1]
    assert tokenizer.convert_ids_to_tokens(ending) == "<|end|>"
    assert ending not in (tokenizer.eos_token_id, model.config.pad_token_id)


def test_bfloat16_is_for_the_trunk_alone(tmp_path):
    model, tokenizer = start_from_chat_model(tiny_chat_model(tmp_path), seed=0)
    rows = [row_tokens(tokenizer, c) for c in CONVERSATIONS]
    exact, rounded = (score_rows(model, rows, dtype) for dtype in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03)  # 8 bits of significand


def test_scores_do_not_depend_on_the_minibatch(tmp_path):
    model, tokenizer = start_from_chat_model(tiny_chat_model(tmp_path), seed=0)
    rows = [row_tokens(tokenizer, c) for c in CONVERSATIONS * 3]
    expected = torch.cat([score_rows(model, [row]) for row in rows]).detach()
    for tokens in (1, 50, 100, 1000):
        torch.testing.assert_close(score_tokens(model, rows, tokens), expected)


def test_the_head_follows_its_seed(tmp_path):
    chat = tiny_chat_model(tmp_path)
    heads = [start_from_chat_model(chat, seed)[0].score.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(33**-0.5, rel=0.5)  # 32 draws


def test_a_tokenizer_without_template_is_refused(tmp_path):
    chat = tiny_chat_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        start_from_chat_model(chat, seed=0)


def test_a_template_without_end_token_is_refused(tmp_path):
    chat = tiny_chat_model(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", ""))
    with pytest.raises(ValueError, match="writes no end token after an answer"):
        start_from_chat_model(chat, seed=0)


def test_what_the_template_refuses_is_a_sentence(tmp_path):
    chat = tiny_chat_model(tmp_path)
    template = tmp_path / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}"
    template.write_text(refusal + "{% endif %}" + template.read_text())
    _, tokenizer = start_from_chat_model(chat, seed=0)
    with pytest.raises(ValueError, match=r"refuses the roles system, user, .*: no system role"):
        row_tokens(tokenizer, CONVERSATIONS[2])


def test_a_folder_without_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no model"):
        start_from_chat_model(tmp_path, seed=0)


def test_a_chat_model_is_not_taken_for_a_reward_model(tmp_path):
    with pytest.raises(ValueError, match="not a reward model"):
        load_reward_model(tiny_chat_model(tmp_path))
