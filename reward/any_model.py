"""Any reward model of transformers beside our own: one output, its own tokenizer and template.

A decoder whose score is read at the last token takes the same way as ours, prefixes shared. For
anything else (encoders, heads with layers of their own, a pad token that also ends rows) the model
computes its own score, of rows of one length at a time, so that padding never comes into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward.data import PairRows, row_tokens
from reward.measures.accuracy import ScoredPair
from reward.model import (
    context_tokens,
    load_reward_model,
    pick_device,
    refuse_no_model,
    row_limit,
)
from reward.preferences import Message, PreferencePair
from reward.score import score_pairs


class AnyModel(NamedTuple):
    """A reward model and its tokenizer; ``is_like_ours``: it scores at the last token."""

    model: Any
    tokenizer: Any
    is_like_ours: bool


def load_any(folder: Path, device: str) -> AnyModel:
    """Raises ValueError for a folder without a reward model of one output and a chat template."""
    config = described(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {folder} has no chat template, and one is needed")
    if _is_like_ours(config, tokenizer):
        model, tokenizer = load_reward_model(folder)
        return AnyModel(model.to(pick_device(device)), tokenizer, True)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    )
    return AnyModel(model.eval().to(pick_device(device)), tokenizer, False)


def described(folder: Path) -> Any:
    """A reward model's configuration. Raises ValueError for a folder that holds none."""
    refuse_no_model(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    names = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise ValueError(f"{folder} holds {', '.join(names) or 'no model'}, not a reward model")
    if config.num_labels != 1:
        raise ValueError(f"{folder} has {config.num_labels} outputs, allowed is one: the score")
    return config


def _is_like_ours(config: Any, tokenizer: Any) -> bool:
    """Whether a bias-free linear head on the last token is all there is, and no row ends in pad."""
    with torch.device("meta"):
        built: Any = AutoModelForSequenceClassification
        head = getattr(built.from_config(config), "score", None)
    row = row_tokens(tokenizer, [Message("user", "?"), Message("assistant", "yes")])
    pad = config.get_text_config().pad_token_id
    return isinstance(head, nn.Linear) and head.bias is None and pad not in {None, row[-1]}


def score_any(
    loaded: AnyModel,
    pairs: Sequence[PreferencePair],
    max_tokens: int,
    tokens: int,
    dtype: str,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ScoredPair]:
    """The pairs with both scores, without those of which a row is longer than ``max_tokens`` or
    the model's context; up to ``tokens`` go through the model at once.
    ``progress`` hears how many pairs are done. Raises ValueError naming a pair whose score is not
    finite.
    """
    longest = row_limit(max_tokens, context_tokens(loaded.model))
    part = max(64, len(pairs) // 100)
    scored: list[ScoredPair] = []
    for start in range(0, len(pairs), part):
        rows = [_rows(loaded.tokenizer, pair) for pair in pairs[start : start + part]]
        fitting = [row for row in rows if row.longest <= longest]
        if loaded.is_like_ours:
            scored += score_pairs(loaded.model, fitting, tokens, dtype)
        else:
            scored += _own_scores(loaded.model, fitting, tokens, dtype)
        progress(min(start + part, len(pairs)))
    for item in scored:
        if not torch.isfinite(torch.tensor([item.chosen, item.rejected])).all():
            raise ValueError(f"pair {item.pair.id!r} scores {item.chosen} and {item.rejected}")
    return scored


def _rows(tokenizer: Any, pair: PreferencePair) -> PairRows:
    chosen, rejected = (
        row_tokens(tokenizer, [*pair.prompt, Message("assistant", answer)])
        for answer in (pair.chosen, pair.rejected)
    )
    return PairRows(pair, chosen, rejected)


@torch.no_grad()
def _own_scores(model: Any, rows: Sequence[PairRows], tokens: int, dtype: str) -> list[ScoredPair]:
    """What the model itself says of each row without padding."""
    flat = [both for row in rows for both in (row.chosen, row.rejected)]
    scores = torch.empty(len(flat))
    order = sorted(range(len(flat)), key=lambda i: len(flat[i]))
    while order:
        length = len(flat[order[0]])
        at_once = max(1, tokens // length)
        alike = [i for i in order[:at_once] if len(flat[i]) == length]
        order = order[len(alike) :]
        ids = torch.tensor([flat[i] for i in alike], device=model.device)  # (B, T)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # (B, 1)
        scores[alike] = logits[:, 0].float().cpu()
    both = scores.view(-1, 2).tolist()
    return [ScoredPair(row.pair, *two) for row, two in zip(rows, both, strict=True)]
