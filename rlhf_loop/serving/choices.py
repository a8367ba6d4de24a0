"""What a choice of a server's reply holds, none of it believed before it was looked at."""

from __future__ import annotations

import sys
from typing import Any

from rlhf_loop.policy import Drawing
from rlhf_loop.serving.address import SHOWN, Address, Unusable


def is_finished(address: Address, choice: dict[str, Any]) -> bool:
    """True where the model itself ended its answer, False where it was cut at the limit.

    Raises Unusable for any other end: filtered, broken off or a call of a tool, it is not what the
    model answers to the prompt, neither whole nor up to the limit.
    """
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        shown = repr(reason[:SHOWN]) if isinstance(reason, str) else "no text"
        raise Unusable(
            f"{address.url} ended the answer for the finish_reason {shown}, allowed are 'stop' and "
            "'length'"
        )
    return bool(reason == "stop")


def drawn_tokens(address: Address, drawn: list[Any], drawing: Drawing) -> list[int]:
    """Raises Unusable for what cannot be the tokens of an answer."""
    known = address.vocabulary or len(address.tokenizer)
    limit = drawing.max_new_tokens
    if not all(type(token) is int and 0 <= token < known for token in drawn):
        raise Unusable(
            f"{address.url} answered with token ids that its model does not have, allowed are "
            f"0 to {known - 1}"
        )
    if not 1 <= len(drawn) <= limit:
        raise Unusable(f"{address.url} answered with {len(drawn)} tokens, allowed are 1 to {limit}")
    return drawn


def token_logprobs(address: Address, choice: dict[str, Any], count: int) -> list[float] | None:
    """One for each token, or None where the address gives none at all.

    Raises Unusable for anything else: what cannot be read must not pass for what is not there.
    """
    given = choice.get("logprobs") or {}
    found = given.get("token_logprobs") or [] if isinstance(given, dict) else None
    if found == []:
        return None
    if not isinstance(found, list) or len(found) != count or not all(map(_is_number, found)):
        raise Unusable(
            f"{address.url} answered with log-probabilities that are not one number for each of "
            f"{count} tokens"
        )
    return [float(x) for x in found]


def _is_number(found: Any) -> bool:
    """Whether it is a number that a float can hold, and neither infinite nor NaN."""
    return type(found) in (int, float) and abs(found) <= sys.float_info.max
