"""Blocks on their way through a model: prompts once, then a token of every row at a time.

A model that is told NAME attends through ``attend``. G prompts, R rows, V vocabulary; N packed
tokens, H heads of queries, K of keys, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from reward.attention import Layout
from reward.attention import attend as attend_in_tree
from reward.prefix_tree import PrefixTree, prefix_tree
from rlhf_loop.drawing.blocks import Block
from rlhf_loop.policy import accepted

NAME = "drawing"
PREFILL_TOKENS = 8192  # prompts are put through the model this many tokens at a time


class Prefill:
    """Prompts on their way through the model, each distinct beginning once."""

    def __init__(self, block: Block, part: slice, device: Any) -> None:
        self.block, self.first = block, part.start
        tree = prefix_tree(block.prompts[part])
        self.tree = Layout(tree, device)
        self.index = torch.tensor(_packed_places(tree, block.width), device=device)  # (g, Q)
        self.windows: set[int | None] = set()

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """``query`` (1, H, N, D), ``key`` and ``value`` (1, K, N, D), which the block remembers;
        returns (1, N, H, D)."""
        keys, values = (x[0][:, self.index].transpose(0, 1) for x in (key, value))
        self.block.remember(module.layer_idx, self.first, keys, values)
        found, _ = attend_in_tree(
            module, query, key, value, None, scaling=scale, layout=self.tree,
            sliding_window=window, softcap=softcap,
        )  # fmt: skip
        return found


def _packed_places(tree: PrefixTree, width: int) -> list[list[int]]:
    """Where each row's tokens stand in the tree, filled up to ``width``."""
    found = []
    for end in tree.ends:
        chain = next(chain for chain in tree.chains if chain.start <= end < chain.end)
        runs = [*chain.before, (chain.start, end + 1)]
        row = [place for start, stop in runs for place in range(start, stop)]
        found.append(row + [0] * (width - len(row)))
    return found


class Decode:
    """One token of every row on its way through the model."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.sizes = [len(block) for block in blocks]
        self.windows: set[int | None] = set()

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """``query`` (1, H, R, D), ``key`` and ``value`` (1, K, R, D); returns (1, R, H, D)."""
        parts = (torch.split(x[0], self.sizes, dim=1) for x in (query, key, value))
        found = [
            block.attend(module.layer_idx, q, k, v, scale, window, softcap)
            for block, q, k, v in zip(self.blocks, *parts, strict=True)
        ]
        return torch.cat(found)[None]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Prefill | Decode | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of a model that was told NAME: ``query`` (1, H, N, D), ``key`` and ``value``
    (1, K, N, D) → (1, N, H, D). Raises ValueError where that model is called outside a pass."""
    if layout is None:
        raise ValueError("answers are being drawn by a model that was not told where they stand")
    layout.windows.add(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(module, query, key, value, scale, sliding_window, softcap), None


AttentionInterface.register(NAME, attend)
_one_at_a_time = RLock()


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """A model that attends through ``attend``, in one thread at a time."""
    with _one_at_a_time:
        plain = model.config._attn_implementation
        try:
            model.set_attn_implementation(NAME)
            yield
        finally:
            model.set_attn_implementation(plain)


def prefill(model: Any, block: Block) -> Tensor:
    """Put the block's prompts through the model; returns the logits (G, V) behind each."""
    logits, start = [], 0
    for end in _prefill_ends(block.lengths):
        layout = Prefill(block, slice(start, end), block.answers.device)
        tree = layout.tree
        logits.append(packed_logits(model, tree.tokens, tree.positions, tree.places, layout))
        start = end
    return torch.cat(logits)


def _prefill_ends(lengths: Sequence[int]) -> list[int]:
    """Where to part prompts so that each part has PREFILL_TOKENS at most, or one prompt."""
    ends, tokens = [], 0
    for g, length in enumerate(lengths):
        if tokens and tokens + length > PREFILL_TOKENS:
            ends.append(g)
            tokens = 0
        tokens += length
    return [*ends, len(lengths)]


def decode(model: Any, blocks: Sequence[Block]) -> Tensor:
    """Put every row's newest token through the model; returns the next one's logits (R, V)."""
    tokens = torch.cat([block.tokens for block in blocks])[None]  # (1, R)
    positions = torch.cat([block.positions() for block in blocks])[None]
    logits = packed_logits(model, tokens, positions, None, Decode(blocks))
    for block in blocks:
        block.step += 1
    return logits


def packed_logits(
    model: Any, tokens: Tensor, positions: Tensor, read: Tensor | None, layout: Prefill | Decode
) -> Tensor:
    """The float32 logits at the packed places ``read``, or at all: (R, V)."""
    head = {} if read is None else accepted(model, logits_to_keep=read)
    output = model(input_ids=tokens, position_ids=positions, use_cache=False, layout=layout, **head)
    logits: Tensor = output.logits[0]
    return (logits if read is None or head else logits[read]).float()
