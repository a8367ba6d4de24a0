"""Live answers over HTTP from an OpenAI-compatible sampler, as they are being written.

The same client for `transformers serve` on a laptop and vLLM in production; only addresses differ.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import httpx
from django.conf import settings

from annotation_app import storage
from annotation_app.models import Variant
from annotation_app.models.refusals import SamplerUnavailable

SEED_LIMIT = 2**31 - 1
LONGEST_BODY = 50_000_000  # bytes of a reply; the most tokens that may be asked for take 30 million
LONGEST_LINE = 1_000_000  # bytes of a stream's line, which holds a few tokens


class Question(NamedTuple):
    """All that one request needs, taken from the rows beforehand."""

    url: str
    model: str
    temperature: float
    top_p: float
    max_tokens: int | None = None  # None: SAMPLER_MAX_TOKENS


def question(variant: Variant) -> Question:
    """Raises SamplerUnavailable where the weights are missing."""
    folder = storage.path(variant.release.checkpoint.storage_key)
    if not variant.served_model_id and not folder.is_dir():
        raise SamplerUnavailable(
            "A model that answers is missing from the storage. Nothing was stored; "
            "please tell your researcher."
        )
    return Question(
        url=(variant.sampler_url or settings.SAMPLER_URL) + "/v1/chat/completions",
        model=variant.served_model_id or str(folder),
        temperature=variant.temperature,
        top_p=variant.top_p,
    )


def connect() -> httpx.AsyncClient:
    """A client for the requests of one turn; closing it ends them."""
    return client_of(settings.SAMPLER_API_KEY, settings.SAMPLER_TIMEOUT_SECONDS)


def client_of(key: str, timeout_seconds: float) -> httpx.AsyncClient:
    """A client of a configured server: its key, no proxy, no redirects."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(timeout_seconds, connect=5.0),
        verify=_certificates(),
        trust_env=False,
    )


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: that takes longer than everything else a request does here."""
    return httpx.create_ssl_context(trust_env=False)


async def answer(
    client: httpx.AsyncClient,
    asked: Question,
    messages: Sequence[dict[str, str]],
    seed: int,
    hear: Callable[[str], None],
) -> str:
    """Tell each piece of the answer as it comes; returns why it ended.

    Raises SamplerUnavailable with a sentence for the annotator.
    """
    body = {
        "model": asked.model,
        "messages": list(messages),
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": seed,
        "max_tokens": asked.max_tokens or settings.SAMPLER_MAX_TOKENS,
        "stream": True,
    }
    try:
        async with (
            asyncio.timeout(settings.SAMPLER_TIMEOUT_SECONDS),
            client.stream("POST", asked.url, json=body) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            return await _read(response, hear)
    except (TimeoutError, httpx.TimeoutException):
        why = f"The models did not answer within {settings.SAMPLER_TIMEOUT_SECONDS} seconds."
        raise _unavailable(why, "try again.") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        advice = "try again in a minute, or tell your researcher."
        raise _unavailable("The models cannot be reached right now.", advice) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = "A model gave an answer that cannot be read"
        raise _unavailable(
            f"{why}.", "try again, or tell your researcher.", f"{why}: {error}."
        ) from None


def _unavailable(sentence: str, advice: str, why: str = "") -> SamplerUnavailable:
    kept = "Nothing was stored; your message is kept here:"
    return SamplerUnavailable(f"{sentence} {kept} {advice}", why or sentence)


async def _read(response: httpx.Response, hear: Callable[[str], None]) -> str:
    """The finish reason. Raises ValueError, KeyError, TypeError or RecursionError for anything else
    than a chat."""
    async for line in _lines(response):
        data = line.removeprefix(b"data:").strip()
        if data == line.strip() or data == b"[DONE]":
            continue  # a comment, another field, or the end
        for choice in json.loads(data)["choices"]:
            hear(_piece(choice["delta"]))
            if reason := choice.get("finish_reason"):
                return str(reason)[:20]
    raise ValueError("the answer broke off")


def _piece(delta: Any) -> str:
    """What a chunk adds to the text, as a database can keep it."""
    if not isinstance(delta, dict):
        raise TypeError(f"delta is {delta!r}")
    text = delta.get("content")
    if text is None:
        return ""
    if not isinstance(text, str) or "\x00" in text:
        raise ValueError(f"content is {text!r}")
    text.encode()  # half of a surrogate pair is a ValueError too
    return text


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Split at line feeds alone; httpx's own lines also end where a text has U+2028.

    Raises ValueError for a line that goes on and on.
    """
    rest = b""
    async for block in blocks(response):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
    yield rest


async def blocks(response: httpx.Response) -> AsyncIterator[bytes]:
    """A body as it comes. Raises ValueError where it is longer than any that was asked for."""
    length = 0
    async for block in response.aiter_bytes():
        length += len(block)
        if length > LONGEST_BODY:
            raise ValueError(f"more than {LONGEST_BODY} bytes")
        yield block
