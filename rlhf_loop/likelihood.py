"""How likely a model finds chosen tokens of rows: what fine-tuning on answers and DPO learn from.

Where the model can, rows go through it as a tree of their prefixes, each distinct token once and
none of them padding (``reward.prefix_tree``); and the head is put on the wanted places alone, a
chunk of them at a time, so that logits of the whole vocabulary are never kept. What a model can is
tried out, not read off its name. B rows, N distinct tokens, K wanted ones, H hidden, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from reward import attention
from reward.prefix_tree import SHORTEST, PrefixTree, prefix_tree
from reward.trunk import ALIKE, STUMBLES, shares_prefixes, sliding_window
from rlhf_loop.policy import accepted, chunks, position_ids, right_pad

CHUNK_LOGITS = 2**24  # logits that exist at once: 64 MiB of float32


class TokenRow(NamedTuple):
    """A row of tokens, and the places of those whose likelihood is wanted: ascending, none 0."""

    tokens: list[int]
    wanted: list[int]


class Reading(NamedTuple):
    """A model, and how the likelihoods of tokens are read from it.

    "tree": shared prefixes once, head by chunks; "rows": padded rows, head by chunks; "whole":
    padded rows, and the model's own logits of all places.
    """

    model: Any
    way: Literal["tree", "rows", "whole"]

    @property
    def shares(self) -> bool:
        """Whether prefixes that rows share are computed once."""
        return self.way == "tree"


@contextmanager
def reading(model: Any) -> Iterator[Reading]:
    """The best way in which this model can be read, tried on a few rows; its attention is the
    model's own again afterwards."""
    plain = model.config._attn_implementation
    try:
        yield Reading(model, _best_way(model, plain))
    finally:
        model.set_attn_implementation(plain)


def token_logprobs(read: Reading, rows: Sequence[TokenRow]) -> Tensor:
    """(K,) natural log-probability of each wanted token given what stands before it in its row.

    The rows' wanted tokens stand one row after the other. Never less than float32.
    """
    model = read.model
    targets = [row.tokens[place] for row in rows for place in row.wanted]
    wanted = torch.tensor(targets, device=model.device)  # (K,)
    if read.way == "whole":
        return _logprobs(_whole_logits(model, rows), wanted)
    states = _tree_states(model, rows) if read.shares else _row_states(model, rows)  # (K, H)
    return _by_head(model, states, wanted)


def row_logprobs(read: Reading, rows: Sequence[TokenRow]) -> Tensor:
    """(B,) the sum of each row's ``token_logprobs``."""
    found = token_logprobs(read, rows)  # (K,)
    owner = [number for number, row in enumerate(rows) for _ in row.wanted]
    sums = found.new_zeros(len(rows))
    return sums.index_add(0, torch.tensor(owner, device=found.device), found)


def packed_places(tree: PrefixTree, row: int) -> list[int]:
    """Where the tokens of one row stand among the N packed ones, the first token first."""
    end = tree.ends[row]
    last = tree.chains[bisect_right([chain.start for chain in tree.chains], end) - 1]
    return [*chain.from_iterable(range(*run) for run in (*last.before, (last.start, end + 1)))]


def _tree_states(model: Any, rows: Sequence[TokenRow], shortest: int = SHORTEST) -> Tensor:
    """(K, H) the hidden states that the wanted tokens are predicted from."""
    tree = prefix_tree([row.tokens for row in rows], shortest)
    return _layout_states(model, attention.Layout(tree, model.device), _predicting(tree, rows))


def _predicting(tree: PrefixTree, rows: Sequence[TokenRow]) -> list[int]:
    places = (packed_places(tree, number) for number in range(len(rows)))
    return [at[w - 1] for at, row in zip(places, rows, strict=True) for w in row.wanted]


def _layout_states(model: Any, layout: attention.Layout, places: list[int]) -> Tensor:
    trunk = model.base_model(
        input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout
    )
    states: Tensor = trunk.last_hidden_state[0, places]
    return states


def _row_states(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """The same from rows padded on the right."""
    states: Tensor = _padded(model.base_model, rows, model.device).last_hidden_state
    return states[_before(rows)]


def _whole_logits(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """(K, V) the logits that the wanted tokens are predicted by."""
    logits: Tensor = _padded(model, rows, model.device).logits
    return logits[_before(rows)]


def _padded(module: Any, rows: Sequence[TokenRow], device: torch.device) -> Any:
    tokens, mask = right_pad([row.tokens for row in rows], 0, device)  # (B, T) both; pads masked
    positions = accepted(module, position_ids=position_ids(mask))
    return module(input_ids=tokens, attention_mask=mask, use_cache=False, **positions)


def _before(rows: Sequence[TokenRow]) -> tuple[list[int], list[int]]:
    """Row and place of the token before each wanted one."""
    places = [(number, w - 1) for number, row in enumerate(rows) for w in row.wanted]
    return [row for row, _ in places], [place for _, place in places]


def _by_head(model: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """(K,) log-probabilities of ``wanted`` (K,) from ``states`` (K, H), a chunk at a time.

    Of each chunk only its states are kept; its logits are computed again on the way back.
    """
    head = model.get_output_embeddings()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    size = max(CHUNK_LOGITS // head.weight.shape[0], 1)

    def read(part: Tensor, targets: Tensor) -> Tensor:
        logits = head(part)
        return _logprobs(torch.tanh(logits / cap) * cap if cap else logits, targets)

    found = [
        checkpoint(read, states[part], wanted[part], use_reentrant=False, preserve_rng_state=False)
        for part in chunks(len(wanted), size)
    ]
    return torch.cat(found) if found else states.new_zeros(0)


def _logprobs(logits: Tensor, wanted: Tensor) -> Tensor:
    exact = torch.promote_types(logits.dtype, torch.float32)
    return -F.cross_entropy(logits.to(exact), wanted, reduction="none")


# --- what a model can -----------------------------------------------------------------------------


@torch.no_grad()
def _best_way(model: Any, plain: str) -> Literal["tree", "rows", "whole"]:
    numbers = torch.Generator().manual_seed(0)
    highest = model.config.get_text_config().vocab_size
    stem, left, right = torch.randint(0, highest, (3, 12), generator=numbers).tolist()
    tried = [stem + left, stem + right, stem + left + stem, right]
    rows = [TokenRow(row, list(range(1, len(row)))) for row in tried]
    expected = token_logprobs(Reading(model, "whole"), rows)
    why = _why_no_tree(model, rows, expected)
    if not why:
        return "tree"
    model.set_attn_implementation(plain)
    print(f"Rows do not share their prefixes, {why}.", flush=True)
    try:
        apart = _apart(token_logprobs(Reading(model, "rows"), rows), expected)
    except STUMBLES:
        apart = float("inf")
    if apart < ALIKE:
        return "rows"
    print("The head cannot be read alone: logits of the whole vocabulary are kept.", flush=True)
    return "whole"


def _why_no_tree(model: Any, rows: Sequence[TokenRow], expected: Tensor) -> str:
    try:
        model.set_attn_implementation(attention.NAME)
        tree = prefix_tree([row.tokens for row in rows], shortest=1)
        layout = attention.Layout(tree, model.device)
        states = _layout_states(model, layout, _predicting(tree, rows))
        targets = torch.tensor([row.tokens[w] for row in rows for w in row.wanted])
        found = _by_head(model, states, targets.to(model.device))
    except (torch.OutOfMemoryError, MemoryError):
        raise  # says nothing of what the model can do
    except STUMBLES as error:
        return f"{type(error).__name__}: {error}"
    if not shares_prefixes(model):
        return "its attention cannot be exchanged"
    if not (apart := _apart(found, expected)) < ALIKE:
        return f"its log-probabilities come out {apart:.1g} of their spread apart"
    window = sliding_window(model)
    if window not in (None, *layout.windows):
        return f"its sliding window of {window} tokens does not reach the attention"
    return ""


def _apart(found: Tensor, expected: Tensor) -> float:
    """How far log-probabilities are apart, as a share of their own spread."""
    share = (found - expected).norm() / (expected - expected.mean()).norm()
    return float(share)
