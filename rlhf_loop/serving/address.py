"""A model at an address, and what may go wrong there."""

from __future__ import annotations

from typing import Any, NamedTuple

SHOWN = 60  # characters of a prompt, or of a reason, that are shown in a sentence


class Address(NamedTuple):
    """A model at an address."""

    url: str
    model: str
    timeout_seconds: float
    parallel_requests: int
    tokenizer: Any
    stops: tuple[int, ...]
    context: int | None = None  # tokens, of the folder that it serves
    vocabulary: int | None = None  # its token ids are below; the tokenizer's when not given
    needs_tokens: bool = False  # refused where it does not say which tokens it drew


class SamplerRefused(ConnectionError):
    """The address did not answer a request, or not with what can be used."""


class Unusable(RuntimeError):
    """What came is no answer of the model's to a prompt; outside it is a SamplerRefused."""


class RequestRefused(Unusable):
    """The address refuses a request as such, or gives no token ids."""
