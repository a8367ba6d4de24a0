"""Rows of tokens through a language model's trunk, for whatever head stands on it.

B rows, H hidden. Where the model can, a minibatch goes through as a prefix tree: every distinct
token once, nothing padded. The reward model reads each row's last token; the policy, fine-tuning
and a value model read the state before each token of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reward import attention
from reward.prefix_tree import SHORTEST, prefix_tree

STUMBLES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a stranger's modelling code raises that does not hear of a prefix tree."""
ALIKE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far apart two ways through a model may come out, as a share of the norm, by the type of its
weights: a wrong mask is far beyond, rounding far below."""
ALIKE_ROUNDED = 5e-2  # in bfloat16 and the like


class Reads:
    """B rows of tokens, and the places of each row that are read.

    Its prefix tree is built when it is asked for, and serves any number of models.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        device: torch.device,
        shortest: int = SHORTEST,
    ) -> None:
        self.rows, self.places, self.device, self.shortest = rows, places, device, shortest

    @cached_property
    def layout(self) -> attention.Layout:
        return attention.Layout(prefix_tree(self.rows, self.shortest), self.device, self.places)


class Tails(Reads):
    """The last ``counts`` tokens of each row are read."""

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        counts: Sequence[int],
        device: torch.device,
        shortest: int = SHORTEST,
    ) -> None:
        ends = [range(len(row) - n, len(row)) for row, n in zip(rows, counts, strict=True)]
        super().__init__(rows, ends, device, shortest)


def states_at(model: Any, reads: Reads, dtype: str = "float32") -> Tensor:
    """The trunk's hidden states at the places that are read, row by row, (their number, H).

    Equal to putting each row through alone. ``dtype`` "bfloat16" lets the trunk compute in it; what
    comes out is float32, as whatever stands on it computes.
    """
    packed = shares_prefixes(model)
    states = (
        _packed_states(model, reads.layout, dtype) if packed else _plain_states(model, reads, dtype)
    )
    if dtype == "float32":
        return states
    return states.to(torch.promote_types(states.dtype, torch.float32))


def share_prefixes(model: Any) -> str:
    """Let rows of a minibatch share their prefixes; returns why this model cannot, or "".

    It is tried on a few rows against plain ones: an architecture whose attention does not hear of
    the tree (recurrent state, relative biases, sinks) is found by what it computes, whatever its
    name.
    """
    plain = model.config._attn_implementation
    numbers = torch.Generator().manual_seed(0)
    highest = model.config.get_text_config().vocab_size
    stem, left, right = torch.randint(0, highest, (3, 12), generator=numbers).tolist()
    rows = [stem + left, stem + right, stem + left + stem, right]
    device = model.get_input_embeddings().weight.device
    tails = Tails(rows, [len(left), 1, 2, 5], device, shortest=1)
    with torch.no_grad():
        expected = _plain_states(model, tails, "float32")
        why = _try_tree(model, tails.layout, expected)
    model.set_attn_implementation(plain)
    if not why:
        take_trees(model)
    return why


def take_trees(model: Any) -> None:
    """From now on minibatches go through the model as prefix trees: it is known that it can."""
    model.plain_attention = model.config._attn_implementation
    model.set_attn_implementation(attention.NAME)
    if not getattr(model, "reads_at_ends", False):
        attention.read_only_at_ends(model.base_model)
        model.reads_at_ends = True


def _try_tree(model: Any, layout: attention.Layout, expected: Tensor) -> str:
    try:
        model.set_attn_implementation(attention.NAME)
        found = _packed_states(model, layout, "float32")
    except (torch.OutOfMemoryError, MemoryError):
        raise  # says nothing of what the model can do
    except STUMBLES as error:
        return f"{type(error).__name__}: {error}"
    if not shares_prefixes(model):
        return "its attention cannot be exchanged"
    apart = ((found - expected).norm() / expected.norm()).item()
    if not apart < alike(model):
        return f"its hidden states come out {apart:.1g} of their size apart"
    window = sliding_window(model)
    if window not in (None, *layout.windows):
        return f"its sliding window of {window} tokens does not reach the attention"
    return ""


def alike(model: Any) -> float:
    """How far apart this model's states or logits may come out by two ways, of their norm."""
    return ALIKE.get(model.dtype, ALIKE_ROUNDED)


def sliding_window(model: Any) -> int | None:
    """The window of those layers that have one."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    found: int | None = getattr(config, "sliding_window", None)
    return found


def shares_prefixes(model: Any) -> bool:
    """Whether a minibatch goes through the model as a prefix tree."""
    return bool(model.config._attn_implementation == attention.NAME)


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """The model with the attention that it came with, as drawing answers needs it."""
    if not shares_prefixes(model):
        yield
        return
    model.set_attn_implementation(model.plain_attention)
    try:
        yield
    finally:
        model.set_attn_implementation(attention.NAME)


def _packed_states(model: Any, layout: attention.Layout, dtype: str) -> Tensor:
    """The hidden states that are read, each distinct token computed once."""
    with _computing_in(dtype, layout.tokens.device):
        trunk = model.base_model(
            input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout
        )
    states: Tensor = trunk.last_hidden_state[0].index_select(0, layout.places)
    return states


def _plain_states(model: Any, reads: Reads, dtype: str) -> Tensor:
    """The same from a row each, padded on the right and masked."""
    ids, mask = right_pad(reads.rows, 0, reads.device)  # (B, T) both
    with _computing_in(dtype, reads.device):
        trunk = model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    rows = [number for number, places in enumerate(reads.places) for _ in places]
    places = [place for of_row in reads.places for place in of_row]
    states: Tensor = trunk.last_hidden_state[rows, places]
    return states


def right_pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, T) with pads on the right, and the mask (True: a real token)."""
    width = max(map(len, rows))
    tokens = [list(row) + [pad_id] * (width - len(row)) for row in rows]
    mask = [[True] * len(row) + [False] * (width - len(row)) for row in rows]
    return (
        torch.tensor(tokens, dtype=torch.long, device=device),
        torch.tensor(mask, dtype=torch.bool, device=device),
    )


def _computing_in(dtype: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
