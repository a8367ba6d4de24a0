"""A researcher's talk with chat models: both answers as they come, then what the rewards say.

Nothing of it is stored: the talk lives in the page, which sends all of it with each message. Only
the person's place at the models is a row, for as long as they answer.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import struct
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
from django.conf import settings

from annotation_app import exchange, sampler, scorer, storage
from annotation_app.live import Event, place_at_models
from annotation_app.models import Checkpoint, Criterion, Person, Promotion, RunningTurn
from annotation_app.models.refusals import Refusal, SamplerUnavailable, ScorerUnavailable
from rlhf_loop.config import RoundConfig

Chat = list[dict[str, str]]


class Side(NamedTuple):
    """One of the models that answer: what it is asked, and the dialogue that it answers."""

    asked: sampler.Question
    messages: Chat
    seed: int


@dataclass(frozen=True)
class Talk:
    """A message with everything that its answers and their scores need."""

    running: RunningTurn
    sides: tuple[Side, ...]
    rewards: Mapping[str, Checkpoint | None]  # criterion → the model in force
    is_safety: bool
    threshold: float


class Decision(NamedTuple):
    """The combined score of section 3.2.3, as a raw score, and the criterion that gave it."""

    score: float
    by: str


# --- before the models are asked -----------------------------------------------------------------


def chat_models() -> list[Checkpoint]:
    """Those whose weights are in the storage, the newest first; released or not."""
    rows = Checkpoint.objects.chat().order_by("-pk")
    return [row for row in rows if (storage.path(row.storage_key) / "config.json").is_file()]


def usual_models(models: Sequence[Checkpoint], released: Sequence[int]) -> list[Checkpoint]:
    """The two to begin with: what is released now, the newest first; else the newest there are."""
    places = {pk: place for place, pk in enumerate(released)}
    return sorted(models, key=lambda model: places.get(model.pk, len(places)))[:2]


def rewards_in_force() -> dict[str, Checkpoint | None]:
    found = {c: Promotion.objects.in_force(c) for c in Criterion.values}
    return {c: event.checkpoint if event else None for c, event in found.items()}


def threshold() -> float:
    """The safety probability that the rounds of this installation gate at."""
    return float(exchange.installed_settings("round").get("threshold", RoundConfig.threshold))


def begin(person: Person, asked: Mapping[str, Any]) -> Talk:
    """Take the person's place at the models. Raises WrongState while they have it elsewhere.

    ``asked`` is what ``TalkForm`` has cleaned.
    """
    models = [model for model in (asked["left"], asked["right"]) if model is not None]
    dialogues = (asked["left_messages"], asked["right_messages"])
    system = [{"role": "system", "content": asked["system"]}] if asked["system"] else []
    sides = tuple(
        Side(_question(model, asked), [*system, *messages], _seed(asked["seed"]))
        for model, messages in zip(models, dialogues, strict=False)
    )
    rewards = rewards_in_force()
    running = RunningTurn.begin(person)
    return Talk(running, sides, rewards, asked["is_safety"], threshold())


def _question(model: Checkpoint, asked: Mapping[str, Any]) -> sampler.Question:
    return sampler.Question(
        url=settings.SAMPLER_URL + "/v1/chat/completions",
        model=str(storage.path(model.storage_key)),
        temperature=asked["temperature"],
        top_p=asked["top_p"],
        max_tokens=asked["max_tokens"],
    )


def _seed(given: int | None) -> int:
    return secrets.randbelow(sampler.SEED_LIMIT) if given is None else given


# --- while they answer ---------------------------------------------------------------------------


async def events(talk: Talk) -> AsyncGenerator[Event, None]:
    """All that the page is told. Closing it ends the requests."""
    last: Event = {"event": "done"}
    try:
        async with place_at_models(talk.running) as stopped:
            seeds = [side.seed for side in talk.sides]
            yield {"event": "start", "turn": str(talk.running.pk), "seeds": seeds}
            async with sampler.connect() as client:
                answering = Answering(talk, client)
                async with aclosing(answering.told(stopped)) as told:
                    async for event in told:
                        yield event
            if answering.standing:
                yield {"event": "scoring"}
                yield {"event": "scores", **await scored(talk, answering.standing)}
    except Refusal as refusal:
        last = {"event": "refused", "sentence": str(refusal)}
    yield last


class Answering:
    """The answers while they come, each read by a task of its own; one may fail alone."""

    def __init__(self, talk: Talk, client: httpx.AsyncClient) -> None:
        self.talk, self.client = talk, client
        self.heard: asyncio.Queue[Event | None] = asyncio.Queue()  # None: a stop was asked for
        self.texts = ["" for _ in talk.sides]  # what was told, no more
        self.coming = set(range(len(talk.sides)))
        self.failed: set[int] = set()

    @property
    def standing(self) -> dict[int, str]:
        """The answers that can be scored, by side."""
        return {n: t for n, t in enumerate(self.texts) if t.strip() and n not in self.failed}

    async def told(self, stopped: asyncio.Task[None]) -> AsyncGenerator[Event, None]:
        """Pieces of text and ends, until all have ended or a stop is asked for.

        Raises WrongState where the person's place was taken.
        """
        stopped.add_done_callback(lambda _: self.heard.put_nowait(None))
        readers = [asyncio.create_task(self._read(side)) for side in self.coming]
        try:
            while self.coming and (event := await self.heard.get()):
                self._note(event)
                yield event
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        if self.coming:
            stopped.result()
        for side in sorted(self.coming):
            yield {"event": "ended", "side": side, "reason": "stopped"}

    def _note(self, event: Event) -> None:
        side = event["side"]
        if event["event"] == "text":
            self.texts[side] += event["text"]
            return
        self.coming.discard(side)
        if event["event"] == "failed":
            self.failed.add(side)

    async def _read(self, number: int) -> None:
        side, began = self.talk.sides[number], time.monotonic()

        def hear(text: str) -> None:
            if text:
                self.heard.put_nowait({"event": "text", "side": number, "text": text})

        try:
            reason = await sampler.answer(self.client, side.asked, side.messages, side.seed, hear)
        except SamplerUnavailable as error:
            self.heard.put_nowait({"event": "failed", "side": number, "sentence": error.why})
        else:
            end = {"event": "ended", "side": number, "reason": reason}
            self.heard.put_nowait({**end, "seconds": round(time.monotonic() - began, 1)})


# --- and then ------------------------------------------------------------------------------------


async def scored(talk: Talk, texts: Mapping[int, str]) -> dict[str, Any]:
    """What both reward models say of the answers: ``sides`` with raw scores, and ``missing``,
    sentences that say why there is no score."""
    chats = [
        [*talk.sides[number].messages, {"role": "assistant", "content": text}]
        for number, text in texts.items()
    ]
    async with scorer.connect() as client:
        found = await asyncio.gather(
            *(_scores(client, criterion, talk.rewards[criterion], chats) for criterion in Criterion)
        )
    missing = [said for said in found if isinstance(said, str)]
    columns = [said if isinstance(said, list) else [None] * len(chats) for said in found]
    sides = [
        _side(talk, number, *scores)
        for number, scores in zip(texts, zip(*columns, strict=True), strict=True)
    ]
    return {"sides": sides, "missing": list(dict.fromkeys(missing))}


async def _scores(
    client: httpx.AsyncClient, criterion: str, reward: Checkpoint | None, chats: Sequence[Chat]
) -> list[float] | str:
    """One score for each chat, or why there are none."""
    if reward is None:
        return f"No {criterion} reward model is promoted yet."
    try:
        return await scorer.scores(client, reward.storage_key, chats)
    except ScorerUnavailable as error:
        return str(error)


def _side(
    talk: Talk, number: int, helpfulness: float | None, safety: float | None
) -> dict[str, Any]:
    told: dict[str, Any] = {"side": number, "helpfulness": helpfulness, "safety": safety}
    if helpfulness is not None and safety is not None:
        decision = decide(helpfulness, safety, talk.is_safety, talk.threshold)
        told |= {"combined": decision.score, "by": decision.by}
    return told


def decide(helpfulness: float, safety: float, is_safety_prompt: bool, threshold: float) -> Decision:
    """``rlhf_loop.advantages.combine_scores`` of one answer, without torch.

    Raw float32 scores. Safety decides on a prompt that is tagged so, and where its score lies under
    logit(threshold), rounded to float32 as there.
    """
    gate = math.log(threshold) - math.log1p(-threshold)
    (gate,) = struct.unpack("f", struct.pack("f", gate))
    if is_safety_prompt or safety < gate:
        return Decision(safety, Criterion.SAFETY.value)
    return Decision(helpfulness, Criterion.HELPFULNESS.value)
