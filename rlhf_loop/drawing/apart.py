"""Answers of a model of any kind, each row by itself, with transformers' cache.

B rows, Q prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_loop.drawing.record import Record
from rlhf_loop.policy import accepted, chunks, left_pad, position_ids

STOPPED_SHARE = 0.125  # rows apart leave when this share has stopped: their whole cache is copied


def draw_apart(
    model: Any, prompts: Sequence[list[int]], record: Record, rows: int, pad: int
) -> Iterator[int]:
    """Draw the answers to prompts into the record, so many rows of similar length side by side,
    padded on the left; yields how many are done."""
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for part in chunks(len(prompts), rows):
        chosen = longest_first[part]
        _draw_rows(model, [prompts[i] for i in chosen], record, chosen, pad)
        yield min(part.stop, len(prompts))


def _draw_rows(
    model: Any, prompts: Sequence[list[int]], record: Record, answers: Sequence[int], pad: int
) -> None:
    tokens, mask = left_pad(prompts, pad, model.device)  # (B, Q) both
    rows = torch.tensor(answers, device=model.device)  # (B,) answers still in the batch
    cache, positions = DynamicCache(config=model.config), position_ids(mask)
    going = torch.ones_like(rows, dtype=torch.bool)
    for step in range(record.drawing.max_new_tokens):
        logits = _cached_logits(model, tokens, mask, positions, cache)  # (B, V)
        drawn = logits.new_zeros(len(rows), dtype=torch.long)
        steps = torch.full_like(rows[going], step)
        drawn[going], still = record.draw(logits[going], rows[going], steps)
        going[going.clone()] = still
        if not bool(going.any()):
            return
        tokens, positions = drawn[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if int((~going).sum()) >= STOPPED_SHARE * len(rows):
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            tokens, positions, mask, rows, going = (
                x[kept] for x in (tokens, positions, mask, rows, going)
            )


def _cached_logits(
    model: Any, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any
) -> Tensor:
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **accepted(model, position_ids=positions, logits_to_keep=1),
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits
