"""Who draws the answers: this process, or an OpenAI-compatible server at an address.

``answer_prompts`` is the one way from prompts to answers, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from reward.model import context_tokens
from reward.preferences import Message
from rlhf_loop.config import ServedPolicy
from rlhf_loop.drawing import generate_answers
from rlhf_loop.policy import Answer, Drawing, prompt_tokens
from rlhf_loop.serving import Address, answers_from, serve


class Here(NamedTuple):
    """A model in this process."""

    model: Any
    tokenizer: Any
    rows: int


Engine = Here | Address


def engine_for(compute: ServedPolicy, model: Any, tokenizer: Any) -> Engine:
    """Who answers for a model that was loaded here: it, or the address that serves its folder.

    Raises SamplerRefused where the address cannot be made to serve it, or serves other weights.
    """
    if compute.address is None:
        return Here(model, tokenizer, compute.generation_rows)
    return serve(compute, model, tokenizer, str(model.name_or_path))


def has_room(engine: Engine, prompt: Sequence[Message], max_new_tokens: int) -> bool:
    """Whether the prompt and an answer of so many tokens are within the model's context; True where
    that is not known."""
    context = engine.context if isinstance(engine, Address) else context_tokens(engine.model)
    if context is None:
        return True
    return len(prompt_tokens(engine.tokenizer, prompt)) + max_new_tokens <= context


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    drawing: Drawing,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer to each prompt by its own seed, in the prompts' order; none to none.

    Raises ValueError for a prompt that leaves no room for an answer here, SamplerRefused where an
    address does not answer, or refuses a prompt.
    """
    if not prompts:
        return []
    if isinstance(engine, Address):
        return answers_from(engine, prompts, seeds, drawing, progress)
    queries = [prompt_tokens(engine.tokenizer, prompt) for prompt in prompts]
    return generate_answers(
        engine.model, engine.tokenizer, queries, seeds, drawing, engine.rows, progress
    )
