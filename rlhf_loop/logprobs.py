"""Log-probabilities of answers, from the states that a model's trunk gives.

N response tokens in a row, H hidden, V vocabulary. Logits over the whole vocabulary exist for a
chunk of tokens at a time and are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reward.trunk import Tails, own_attention, tail_states

LOGITS_AT_ONCE = 2**21  # eight megabytes of them
ALIKE = 1e-4  # largest difference of a log-probability from the one by the model's own forward


def next_token_logits(model: Any, states: Tensor, temperature: float = 1.0) -> Tensor:
    """Float32 logits (N, V) of the model's head on hidden states (N, H), by ``temperature``."""
    logits: Tensor = model.get_output_embeddings()(states).float()
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    if cap:
        logits = torch.tanh(logits / cap) * cap
    factor = getattr(config, "logit_scale", 1.0) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", 1.0) or 1.0  # Granite
    return logits if factor == temperature else logits * (factor / temperature)


def refuse_other_heads(model: Any, device: torch.device) -> None:
    """Raises ValueError for a model whose own log-probabilities come out otherwise than ours."""
    highest = model.config.get_text_config().vocab_size
    row = torch.randint(0, highest, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with own_attention(model):
            output = model(row.to(device)[:, :-1], use_cache=False)
        own = output.logits[0].float().log_softmax(-1)
        states = tail_states(model, Tails([row[0, :-1].tolist()], [11], device))
        apart = (next_token_logits(model, states).log_softmax(-1) - own).abs().max().item()
    if not apart < ALIKE:
        raise ValueError(
            f"{type(model).__name__} makes its logits from hidden states in a way that is not "
            f"known here: log-probabilities come out {apart:.1g} apart, allowed is {ALIKE}"
        )


def vocabulary_chunks(model: Any, tokens: int) -> Iterator[slice]:
    """Slices that cover so many ``tokens``, as many at a time as LOGITS_AT_ONCE allows."""
    vocabulary = model.config.get_text_config().vocab_size
    size = max(LOGITS_AT_ONCE // vocabulary, 16)
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
