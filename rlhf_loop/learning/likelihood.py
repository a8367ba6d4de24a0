"""How likely a model finds tokens: what fine-tuning, DPO and PPO learn from.

Where the model can, rows go through its trunk as a tree of their prefixes, each distinct token once
and none of them padding (``reward.trunk``); and the head is put on the wanted places alone, a chunk
of them at a time, so that logits of the whole vocabulary are never kept. What a model can is tried
out, not read off its name. B rows, N or K tokens that are wanted, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from reward.trunk import (
    STUMBLES,
    Reads,
    Tails,
    alike,
    own_attention,
    right_pad,
    share_prefixes,
    states_at,
)
from rlhf_loop.policy import accepted, exact_kl, position_ids

LOGITS_AT_ONCE = 2**21  # eight megabytes of them
LIKE_ITS_OWN = 1e-4  # largest difference of a log-probability from the one by the model's own head


# --- the head on hidden states --------------------------------------------------------------------


def next_token_logits(model: Any, states: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits (N, V), float32 or better, of the head on hidden states (N, H), by ``temperature``."""
    logits: Tensor = _exact(model.get_output_embeddings()(states))
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    if cap:
        logits = torch.tanh(logits / cap) * cap
    factor = getattr(config, "logit_scale", 1.0) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", 1.0) or 1.0  # Granite
    return logits if factor == temperature else logits * (factor / temperature)


def refuse_other_heads(model: Any, device: torch.device) -> None:
    """Raises ValueError for a model whose own log-probabilities come out otherwise than ours."""
    highest = vocabulary(model)
    row = torch.randint(0, highest, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with own_attention(model):
            output = model(row.to(device)[:, :-1], use_cache=False)
        own = output.logits[0].float().log_softmax(-1)
        states = states_at(model, Tails([row[0, :-1].tolist()], [11], device))
        apart = (next_token_logits(model, states).log_softmax(-1) - own).abs().max().item()
    if not apart < LIKE_ITS_OWN:
        raise ValueError(
            f"{type(model).__name__} makes its logits from hidden states in a way that is not "
            f"known here: log-probabilities come out {apart:.1g} apart, allowed is {LIKE_ITS_OWN}"
        )


def vocabulary(model: Any) -> int:
    """How many logits a token has, V."""
    return int(model.config.get_text_config().vocab_size)


def vocabulary_chunks(model: Any, tokens: int) -> Iterator[slice]:
    """Slices that cover so many ``tokens``, as many at a time as LOGITS_AT_ONCE allows."""
    size = max(LOGITS_AT_ONCE // vocabulary(model), 16)
    return (slice(start, start + size) for start in range(0, tokens, size))


def spread_out(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Under ``logits`` (N, V) the log-probability of each token (N,), and of every word, (N, V)."""
    spread = torch.log_softmax(logits, dim=-1)  # (N, V)
    return spread.gather(-1, tokens[:, None])[:, 0], spread


def entropies(spread: Tensor) -> Tensor:
    """(N,) entropies, nats, of distributions with these log-probabilities (N, V)."""
    finite = spread.clamp(min=torch.finfo(spread.dtype).min)
    found: Tensor = -torch.linalg.vecdot(spread.exp(), finite)
    return found


@torch.no_grad()
def answer_logprobs(model: Any, states: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """(N,) log-probability of each token, from the state (N, H) before it, without gradient."""
    parts = [
        spread_out(next_token_logits(model, states[part], temperature), tokens[part])[0]
        for part in vocabulary_chunks(model, len(tokens))
    ]
    return torch.cat(parts)


# --- rows -----------------------------------------------------------------------------------------


class TokenRow(NamedTuple):
    """A row of tokens, and the places of those whose likelihood is wanted: ascending, none 0, one
    at least."""

    tokens: list[int]
    wanted: list[int]

    @property
    def inputs(self) -> list[int]:
        """What goes through a model: nothing is asked of the last wanted token or behind it."""
        return self.tokens[: self.wanted[-1]]


def tail_row(query: Sequence[int], answer: Sequence[int]) -> TokenRow:
    """A query and its answer; every token of the answer is wanted."""
    return TokenRow([*query, *answer], list(range(len(query), len(query) + len(answer))))


class Policy(torch.nn.Module):
    """A model as one module that gives hidden states: what several ranks divide among themselves,
    since a pass begins with its call."""

    def __init__(self, model: Any, dtype: str = "float32") -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, reads: Reads) -> Tensor:
        """The trunk's states at the places that are read, (K, H), computed in ``dtype``."""
        return states_at(self.model, reads, self.dtype)


class Reading(NamedTuple):
    """A model, and how the likelihoods of tokens are read from it.

    "tree": shared prefixes once, head by chunks; "rows": padded rows, head by chunks; "whole":
    padded rows, and the model's own logits of all places.
    """

    policy: Policy
    way: Literal["tree", "rows", "whole"]

    @property
    def model(self) -> Any:
        return self.policy.model

    @property
    def shares(self) -> bool:
        """Whether prefixes that rows share are computed once."""
        return self.way == "tree"


@contextmanager
def reading(model: Any, dtype: str = "float32") -> Iterator[Reading]:
    """The best way in which this model can be read, tried on a few rows; its attention is the
    model's own again afterwards. With ``dtype`` "bfloat16" the trunk computes in it.

    Raises ValueError for that and a model whose head cannot be read alone: it would too.
    """
    plain = model.config._attn_implementation
    try:
        way = _best_way(model)
        if way == "whole" and dtype != "float32":
            raise ValueError(
                f"{type(model).__name__} makes its logits in a way that is not known here, so they "
                f"would be {dtype} like its trunk; allowed is float32"
            )
        yield Reading(Policy(model, dtype), way)
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
    return _by_head(model, read.policy(_reads(model, rows)), wanted)


def read_nothing(read: Reading) -> None:
    """A pass, forth and back where gradients are wanted, that changes nothing: the part in a step
    of a rank that has no more rows."""
    states = read.policy(Reads([[0]], [[0]], read.model.device))
    nothing = 0 * next_token_logits(read.model, states).sum()
    if nothing.requires_grad:
        nothing.backward()  # type: ignore[no-untyped-call]


def row_logprobs(read: Reading, rows: Sequence[TokenRow]) -> Tensor:
    """(B,) the sum of each row's ``token_logprobs``."""
    found = token_logprobs(read, rows)  # (K,)
    owner = [number for number, row in enumerate(rows) for _ in row.wanted]
    sums = found.new_zeros(len(rows))
    return sums.index_add(0, torch.tensor(owner, device=found.device), found)


@torch.no_grad()
def divergences(read: Reading, other: Reading, rows: Sequence[TokenRow]) -> Tensor:
    """(K,) the KL divergence, nats, at each wanted place of what the first model expects there from
    what the other one does.

    Both read the same words; where one has rows behind them that stand for none, as models padded
    to a round number do, only what both have counts.
    """
    narrow, wide = sorted((read.model, other.model), key=vocabulary)
    parts = [*vocabulary_chunks(wide, sum(len(row.wanted) for row in rows))]
    both = zip(
        _logits_in_chunks(read, rows, parts), _logits_in_chunks(other, rows, parts), strict=True
    )
    common = vocabulary(narrow)
    return torch.cat([exact_kl(mine[:, :common], its[:, :common]) for mine, its in both])


def _logits_in_chunks(
    read: Reading, rows: Sequence[TokenRow], parts: Sequence[slice]
) -> Iterator[Tensor]:
    """The logits (N, V) that the wanted tokens are predicted by, one part of them at a time."""
    model, whole = read.model, read.way == "whole"
    found = (
        _whole_logits(model, rows) if whole else read.policy(_reads(model, rows))
    )  # (K, V) or (K, H)
    for part in parts:
        yield _exact(found[part]) if whole else next_token_logits(model, found[part])


def _reads(model: Any, rows: Sequence[TokenRow]) -> Reads:
    """Where the hidden states stand that the wanted tokens are predicted from."""
    before = [[place - 1 for place in row.wanted] for row in rows]
    return Reads([row.inputs for row in rows], before, model.device)


def _whole_logits(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    """(K, V) the logits that the wanted tokens are predicted by, of the model's own forward."""
    tokens, mask = right_pad([row.inputs for row in rows], 0, model.device)  # (B, T); pads masked
    positions = accepted(model, position_ids=position_ids(mask))
    output = model(input_ids=tokens, attention_mask=mask, use_cache=False, **positions)
    owner = [number for number, row in enumerate(rows) for _ in row.wanted]
    before = [place - 1 for row in rows for place in row.wanted]
    logits: Tensor = output.logits[owner, before]
    return logits


def _by_head(model: Any, states: Tensor, wanted: Tensor) -> Tensor:
    """(K,) log-probabilities of ``wanted`` (K,) from ``states`` (K, H), a chunk at a time.

    Of each chunk only its states are kept; its logits are computed again on the way back.
    """

    def read(part: Tensor, targets: Tensor) -> Tensor:
        return _logprobs(next_token_logits(model, part), targets)

    found = [
        checkpoint(read, states[part], wanted[part], use_reentrant=False, preserve_rng_state=False)
        for part in vocabulary_chunks(model, len(wanted))
    ]
    return torch.cat(found) if found else states.new_zeros(0)


def _logprobs(logits: Tensor, wanted: Tensor) -> Tensor:
    return -F.cross_entropy(_exact(logits), wanted, reduction="none")


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def _best_way(model: Any) -> Literal["tree", "rows", "whole"]:
    numbers = torch.Generator().manual_seed(0)
    highest = vocabulary(model)
    stem, left, right = torch.randint(0, highest, (3, 12), generator=numbers).tolist()
    tried = [stem + left, stem + right, stem + left + stem, right]
    rows = [TokenRow(row, list(range(1, len(row)))) for row in tried]
    expected = token_logprobs(Reading(Policy(model), "whole"), rows)
    plain = model.config._attn_implementation
    why = share_prefixes(model)
    if not why and (apart := _apart(model, "tree", rows, expected)) >= alike(model):
        why = f"its log-probabilities come out {apart:.1g} of their spread apart"
    if not why:
        return "tree"
    model.set_attn_implementation(plain)
    print(f"Rows do not share their prefixes, {why}.", flush=True)
    if _apart(model, "rows", rows, expected) < alike(model):
        return "rows"
    print("The head cannot be read alone: logits of the whole vocabulary are kept.", flush=True)
    return "whole"


def _apart(
    model: Any, way: Literal["tree", "rows"], rows: Sequence[TokenRow], expected: Tensor
) -> float:
    """How far log-probabilities are apart, as a share of their own spread; for ever where the
    model cannot be read so."""
    try:
        found = token_logprobs(Reading(Policy(model), way), rows)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # says nothing of what the model can do
    except STUMBLES:
        return float("inf")
    share = float((found - expected).norm() / (expected - expected.mean()).norm())
    return share if share == share else float("inf")
