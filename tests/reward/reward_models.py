"""Saved reward models for the tests: ours and other people's, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from reward.model import save_reward_model, start_from_chat_model
from tests.tiny_models import CONFIGS, SHAPE, tiny_chat_model, tiny_tokenizer


def ours(folder: Path, seed: int = 0) -> Path:
    """A reward model that has learnt nothing."""
    chat = tiny_chat_model(folder.with_name(folder.name + "-chat"), seed=seed)
    save_reward_model(*start_from_chat_model(chat, seed), folder)
    return folder


def encoder(folder: Path, outputs: int = 1) -> Path:
    """A BERT classifier, whose head reads its first token."""
    torch.manual_seed(1)
    config = BertConfig(**SHAPE, num_labels=outputs, pad_token_id=0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def pad_is_end(folder: Path) -> Path:
    """A Llama whose pad token ends every row, as many published reward models have it."""
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer(pad="<|end|>")
    config = CONFIGS["llama"]()
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
