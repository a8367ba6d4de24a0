"""Log-probabilities by padded rows through the whole model: what shared prefixes are held against.

B rows, Q query tokens, T response tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_loop.policy import accepted, position_ids


def response_logits(
    model: Any, query: Tensor, query_mask: Tensor, response: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What the model predicts for every response token, and the hidden state it does so from.

    ``query`` (B, Q) padded on the left, ``response`` (B, T) on the right, masks True where a token
    is real. Returns float32 logits (B, T, V) and hidden states (B, T, H).
    """
    length = response.shape[1]
    attention = torch.cat([query_mask, mask], dim=1)  # (B, Q + T)
    output = model(
        input_ids=torch.cat([query, response], dim=1),
        attention_mask=attention,
        use_cache=False,
        output_hidden_states=True,
        **accepted(model, position_ids=position_ids(attention), logits_to_keep=length + 1),
    )
    logits = output.logits[:, -length - 1 : -1].float()  # (B, T, V)
    hidden = output.hidden_states[-1][:, -length - 1 : -1].float()  # (B, T, H)
    return logits, hidden


def response_logprobs(logits: Tensor, response: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, T) natural log-probability of each response token at the rollout's temperature."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)  # (B, T, V)
    return logprobs.gather(-1, response[:, :, None])[:, :, 0]
