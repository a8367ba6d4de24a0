"""Room for an answer: whether a prompt and the longest answer to it fit into a model's context.

Asked of all prompts before anything is drawn: a run that meets one without room later ends there
again whenever it is started again. Folders are enough for that, no weights are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from reward.data import row_tokens
from reward.model import load_tokenizer, stored_context
from reward.preferences import Message
from rlhf_loop.policy import prompt_tokens
from rlhf_loop.prompts import Prompt

SHOWN = 5  # prompts that a refusal names
Read = Callable[[Any, Sequence[Message]], list[int]]


def refuse_without_room(
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    policies: Iterable[Path],
    judges: Iterable[Path] = (),
) -> None:
    """Raises ValueError naming the prompts after which an answer of ``max_new_tokens`` is beyond
    the context of a chat model or, as long in its tokens, of a reward model that judges it."""
    for folder in dict.fromkeys(policies):
        _refuse(folder, prompt_tokens, prompts, max_new_tokens)
    for folder in dict.fromkeys(judges):
        _refuse(folder, _row_without_answer, prompts, max_new_tokens)


def _row_without_answer(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """What a reward model reads beside the answer's own tokens: the end that follows it too."""
    return row_tokens(tokenizer, [*messages, Message("assistant", "")])


def _refuse(folder: Path, read: Read, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    tokenizer, context = load_tokenizer(folder), stored_context(folder)
    if context is None:
        return
    most = context - max_new_tokens
    lengths = {prompt.id: len(read(tokenizer, prompt.messages)) for prompt in prompts}
    over = {name: length for name, length in lengths.items() if length > most}
    if over:
        first = [f"{name!r} with {length} tokens" for name, length in over.items()][:SHOWN]
        more = f" and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
        raise ValueError(
            f"{len(over)} of {len(prompts)} prompts leave no room for an answer: "
            f"{', '.join(first)}{more}; allowed are {most}: the context of {folder}, {context}, "
            f"less max_new_tokens {max_new_tokens}"
        )
