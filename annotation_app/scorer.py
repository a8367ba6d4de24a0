"""Scores over HTTP from the reward server, ``python -m reward.serve`` (docs/reward-server.md)."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

import httpx
from django.conf import settings

from annotation_app import sampler
from annotation_app.models.refusals import ScorerUnavailable

LONGEST_REASON = 300
Chat = Sequence[dict[str, str]]


def connect() -> httpx.AsyncClient:
    """A client for a few questions; closing it ends them."""
    return sampler.client_of(settings.SCORER_API_KEY, settings.SCORER_TIMEOUT_SECONDS)


async def scores(
    client: httpx.AsyncClient, storage_key: str, conversations: Sequence[Chat]
) -> list[float]:
    """The raw score of each conversation's last answer, by the reward model of this storage key.

    Raises ScorerUnavailable with a sentence for the researcher.
    """
    body = {"model": storage_key, "conversations": [list(chat) for chat in conversations]}
    try:
        async with (
            asyncio.timeout(settings.SCORER_TIMEOUT_SECONDS),
            client.stream("POST", settings.SCORER_URL + "/score", json=body) as response,
        ):
            reply = b"".join([block async for block in sampler.blocks(response)])
        if response.status_code != httpx.codes.OK:
            reason = _reason(reply, response.status_code)
            raise ScorerUnavailable(f"The reward server gave no score: {reason}")
        return _read(json.loads(reply), len(conversations))
    except (TimeoutError, httpx.TimeoutException):
        raise ScorerUnavailable(
            f"The reward server did not answer within {settings.SCORER_TIMEOUT_SECONDS} seconds; "
            "a model that is loaded for the first time may need longer: try again."
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise ScorerUnavailable(
            f"The reward server cannot be reached at {settings.SCORER_URL}, so there are no "
            "scores. Answers need it not."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ScorerUnavailable("The reward server's reply cannot be read.") from None


def _reason(reply: bytes, status: int) -> str:
    """The server's own sentence, or the bare status of a stranger."""
    try:
        said = json.loads(reply)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = None
    return said[:LONGEST_REASON] if isinstance(said, str) else f"status {status}."


def _read(reply: Any, count: int) -> list[float]:
    found = [float(score) for score in reply["scores"]]
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"scores are {found}")
    return found
