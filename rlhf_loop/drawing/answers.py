"""From prompts to answers, whichever way the model draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from reward.model import context_tokens
from rlhf_loop.drawing.apart import draw_apart
from rlhf_loop.drawing.record import Record
from rlhf_loop.drawing.shared import draw_shared, shares_prompts
from rlhf_loop.policy import Answer, Drawing, pad_token, stop_tokens


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    drawing: Drawing,
    rows: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer for each prompt (token ids), in the prompts' order; equal prompts share theirs.

    At most ``rows`` answers are drawn side by side. ``progress`` is called with the number of
    answers done. No other change is made to the probabilities than temperature and top-p. The same
    call gives the same bits on the same CPU with as many threads. Raises ValueError for a prompt
    that leaves no room for an answer of ``drawing.max_new_tokens`` in the model's context.
    """
    _refuse_too_long(model, prompts, drawing.max_new_tokens)
    stops = torch.tensor(sorted(stop_tokens(model, tokenizer)), device=model.device)
    record = Record(len(prompts), drawing, seeds, stops)
    draw = draw_shared if shares_prompts(model) else draw_apart
    with torch.inference_mode():
        for done in draw(model, prompts, record, rows, pad_token(tokenizer)):
            progress(done)
    return record.answers()


def _refuse_too_long(model: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    context = context_tokens(model)
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt has {longest} tokens, allowed are {context - max_new_tokens}: the model's "
            f"context of {context} less max_new_tokens {max_new_tokens}"
        )
