"""The policy: a causal language model that answers, and what PPO asks of it.

``rlhf_loop.drawing`` draws the answers. B rows, Q query tokens, T response tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from reward.data import answer_end, template_tokens
from reward.model import load_tokenizer, pick_device, save_tokenizer, save_weights
from reward.preferences import Message

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # NUL, and halves of surrogate pairs


class Answer(NamedTuple):
    """One generated answer."""

    tokens: list[int]  # the stop token included where there is one
    finished: bool  # False: cut at the longest allowed length
    logprobs: list[float] | None = None
    """Natural log-probability of each token in the full softmax at the drawing's temperature; None
    where it is not known, as in greedy answers."""
    text: str | None = None  # as a server wrote it that says no tokens


class Drawing(NamedTuple):
    """How answers are drawn."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0


def load_chat_model(folder: Path, device: str = "auto", dtype: str = "float32") -> tuple[Any, Any]:
    """A causal language model and its tokenizer from a Hugging Face folder, without dropout.

    ``device`` "auto" is a GPU where there is one. Raises ValueError for a folder without a model or
    a tokenizer without a chat template.
    """
    tokenizer = load_tokenizer(folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=getattr(torch, dtype)
        )
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no chat model: {' '.join(str(error).split())}") from None
    # eval() for good, also while training: dropout would make PPO's first ratio differ from 1.
    return model.to(pick_device(device)).eval(), tokenizer


def save_chat_model(
    model: Any, tokenizer: Any, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Save in the Hugging Face layout, weights as safetensors, ready to be sampled from; ``state``
    where the model's own weights are a part of them only.

    The generation config is a new one, since a server draws by it: ``do_sample``, without which one
    decodes greedily whatever temperature it is asked for; temperature 1, top-p 1 and top-k 0, the
    full softmax; every token that ends an answer. Of the base model's own (a repetition penalty,
    min-p) nothing stays.
    """
    stops, own = sorted(stop_tokens(model, tokenizer)), model.generation_config
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
        eos_token_id=stops if len(stops) > 1 else next(iter(stops), None),
        bos_token_id=own.bos_token_id, pad_token_id=own.pad_token_id,
    )  # fmt: skip
    save_weights(model, folder, state)
    save_tokenizer(tokenizer, folder)


def prompt_tokens(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The tokens of a prompt in the chat template, up to where the assistant's answer begins.

    Raises ValueError where the template refuses it.
    """
    return template_tokens(tokenizer, messages, add_generation_prompt=True)


def answer_text(tokenizer: Any, answer: Answer) -> str:
    """The text of an answer, without special tokens and surrounding white space, and with U+FFFD
    for what no database and no UTF-8 file stores."""
    if answer.text is not None:
        return UNSTORABLE.sub("\ufffd", answer.text)
    text: str = tokenizer.decode(answer.tokens, skip_special_tokens=True)
    return UNSTORABLE.sub("\ufffd", text.strip())


def other_word(tokenizer: Any, other: Any) -> str | None:
    """A token of the first tokenizer to which the other one gives another id or none; None where it
    reads all of them alike."""
    its = other.get_vocab()
    own = tokenizer.get_vocab().items()
    return next((word for word, number in own if its.get(word) != number), None)


def refuse_other_words(tokenizer: Any, other: Any, whose: str) -> None:
    """Raises ValueError where a model that reads the policy's tokens has others of its own."""
    word = other_word(tokenizer, other)
    if word is not None:
        own, its = (known.get_vocab().get(word) for known in (tokenizer, other))
        raise ValueError(
            f"{whose} has the id {its} for {word!r}, and the policy has {own}: "
            "it must read the policy's tokens"
        )


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of the generation config, the tokenizer's own, and the
    chat template's, by which answers end that are learnt."""
    named = model.generation_config.eos_token_id
    stops = {named} if isinstance(named, int) else set(named or ())
    return frozenset(stops | {tokenizer.eos_token_id, answer_end(tokenizer)} - {None})


def pad_token(tokenizer: Any) -> int:
    """A token id to fill rows with; it is always masked, so which one does not matter."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def row_seed(seed: int, *names: object) -> int:
    """The seed of one answer, from the run's seed and the names of what it answers (31 bits)."""
    words = "\x00".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 1


def accepted(model: Any, **arguments: Any) -> dict[str, Any]:
    """Those arguments that the model's forward knows (some families have no position ids)."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in arguments.items() if name in known}


def left_pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, Q) with pads on the left, and the mask (True: a real token)."""
    width = max(map(len, rows))
    tokens = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    return (
        torch.tensor(tokens, dtype=torch.long, device=device),
        torch.tensor(mask, dtype=torch.bool, device=device),
    )


def position_ids(mask: Tensor) -> Tensor:
    """(B, T) positions that count only what ``mask`` (B, T) says is real."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """(B, T) KL divergence of the first next-token distribution from the second, in nats."""
    logprobs = torch.log_softmax(logits, dim=-1)
    ref_logprobs = torch.log_softmax(ref_logits, dim=-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(dim=-1)


class ValueHead(torch.nn.Linear):
    """One value per token from the policy's hidden state; it starts at 0 everywhere."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``hidden`` (B, T, H) → values (B, T)."""
        return super().forward(hidden).squeeze(-1)


def chunks(count: int, size: int) -> Iterable[slice]:
    """Slices that cover ``count`` rows, ``size`` at a time."""
    return (slice(start, start + size) for start in range(0, count, size))
