"""Live answers for annotators, over HTTP from an OpenAI-compatible sampler.

The same client for `transformers serve` on a laptop and vLLM in production; only addresses differ.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
from django.conf import settings

from annotation_app import storage
from annotation_app.models import Variant
from annotation_app.models.comparison import unusable_reason
from annotation_app.models.refusals import SamplerUnavailable

SEED_LIMIT = 2**31 - 1
TRIES = 3


class Answer(NamedTuple):
    text: str
    seed: int
    finish_reason: str


class Question(NamedTuple):
    """All that one request needs, taken from the rows before threads start."""

    url: str
    model: str
    temperature: float
    top_p: float


def answer_pair(
    messages: Sequence[dict[str, str]],
    variants: tuple[Variant, Variant],
    drop: Callable[[Variant, Answer, str], None],
) -> tuple[Answer, Answer]:
    """One answer of each variant, asked for at the same time.

    An answer that is empty, cut off or names its model, or that is like the other one, goes to
    ``drop`` with the reason and is asked for again, a few times. Raises SamplerUnavailable with a
    sentence for the annotator.
    """
    questions = [_question(variant) for variant in variants]
    answers: list[Answer | None] = [None, None]
    reasons: list[str] = []
    for _ in range(TRIES):
        wanted = [i for i in (0, 1) if answers[i] is None]
        with ThreadPoolExecutor(max_workers=2) as pool:
            asked = pool.map(lambda i: _ask(questions[i], messages), wanted)
        reasons = []
        for i, answer in zip(wanted, asked, strict=True):
            other = answers[1 - i]
            if reason := _fault(answer, variants[i], other.text if other else None):
                drop(variants[i], answer, reason)
                reasons.append(reason)
            else:
                answers[i] = answer
        first, second = answers
        if first is not None and second is not None:
            return first, second
    raise SamplerUnavailable(
        f"The models gave {reasons[0]} {TRIES} times in a row. No comparison was made; try again "
        "or change your prompt."
    )


def _fault(answer: Answer, variant: Variant, other: str | None) -> str:
    """Why nobody can judge this answer beside the other one; empty where they can."""
    if not answer.text.strip():
        return "an empty answer"
    if answer.finish_reason == "length":
        return "an answer that is cut off"
    names = [variant.release.checkpoint.name, variant.served_model_id]
    if any(re.search(rf"\b{re.escape(n)}\b", answer.text, re.IGNORECASE) for n in names if n):
        return "an answer that names the model"
    if other is not None and unusable_reason(answer.text, other):
        return "identical answers"
    return ""


def _question(variant: Variant) -> Question:
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


def _ask(question: Question, messages: Sequence[dict[str, str]]) -> Answer:
    seed = secrets.randbelow(SEED_LIMIT)
    key = settings.SAMPLER_API_KEY
    try:
        response = httpx.post(
            question.url,
            json={
                "model": question.model,
                "messages": list(messages),
                "temperature": question.temperature,
                "top_p": question.top_p,
                "seed": seed,
                "max_tokens": settings.SAMPLER_MAX_TOKENS,
                "stream": False,
            },
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.SAMPLER_TIMEOUT_SECONDS, connect=5.0),
            trust_env=False,
        )
    except httpx.TimeoutException:
        raise SamplerUnavailable(
            f"The models did not answer within {settings.SAMPLER_TIMEOUT_SECONDS} seconds. "
            "Nothing was stored; your prompt is kept here: try again."
        ) from None
    except httpx.HTTPError:
        raise SamplerUnavailable(
            "The models cannot be reached right now. Nothing was stored; your prompt is kept "
            "here: try again in a minute, or tell your researcher."
        ) from None
    return _read(response, seed)


def _read(response: httpx.Response, seed: int) -> Answer:
    """The answer's text. Raises SamplerUnavailable for anything else than one."""
    try:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}")
        choice: Any = response.json()["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason") or ""
        if not isinstance(text, str) or not isinstance(reason, str):
            raise ValueError(f"content is {text!r}")
    except (ValueError, KeyError, IndexError, TypeError):
        raise SamplerUnavailable(
            "A model gave an answer that cannot be read. Nothing was stored; your prompt is kept "
            "here: try again, or tell your researcher."
        ) from None
    return Answer(text, seed, reason[:20])
