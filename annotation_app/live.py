"""A turn of a live dialogue: both models answer at one pace, then their answers are to be judged.

Checks and rows are plain functions; what waits for the models is asynchronous and asks for rows on
the few threads of the event loop's pool, whose database connections are its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpx
from django.db import close_old_connections, transaction

from annotation_app import cards, sampler
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Criterion,
    Dialogue,
    Person,
    Prompt,
    Resampled,
    Response,
    RunningTurn,
    Side,
    Variant,
    leases,
)
from annotation_app.models.comparison import unusable_reason
from annotation_app.models.refusals import (
    BatchClosed,
    MayNotWork,
    NothingToJudge,
    Refusal,
    SamplerUnavailable,
    WrongState,
)
from annotation_app.pacing import TICK_SECONDS, Pace, Pane
from reward.preferences import Message

TRIES = 3
LOOK_SECONDS = 0.25  # how often a stop is looked for
SIDES = (Side.A, Side.B)
T = TypeVar("T")
Event = dict[str, Any]


class Standing(NamedTuple):
    """Where a dialogue stands for its author."""

    criterion: str
    judged: Annotation | None  # the last turn they judged: it goes on from what they chose
    waiting: Annotation | None  # a turn whose answers they have still to judge
    message: str  # what they wrote last, where that led to no judgement

    @property
    def chosen(self) -> Response | None:
        if self.judged is None:
            return None
        return self.judged.comparison.response(self.judged.choice)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The dialogue so far, ending with the chosen answer."""
        if self.judged is None or self.chosen is None:
            return []
        answer = Message("assistant", self.chosen.text)
        return [*self.judged.comparison.prompt.messages, answer._asdict()]


@dataclass(frozen=True)
class Turn:
    """What was asked, by whom and of which variants; the first of them answers as a."""

    running: RunningTurn
    annotator: Person
    batch: Batch
    before: Standing | None
    message: Message
    risk_category: str
    attack_vector: str
    variants: tuple[Variant, Variant]
    questions: tuple[sampler.Question, sampler.Question]
    shown_left: Side

    @property
    def messages(self) -> list[dict[str, str]]:
        said = self.before.messages if self.before else []
        return [*said, self.message._asdict()]

    @property
    def names(self) -> list[str]:
        """What no answer may say."""
        return [
            name
            for variant in self.variants
            for name in (variant.release.checkpoint.name, variant.served_model_id)
        ]


class Answer(NamedTuple):
    text: str
    seed: int
    finish_reason: str


# --- before the models are asked -----------------------------------------------------------------


def standing(dialogue: Dialogue) -> Standing:
    """Raises Dialogue.DoesNotExist for one that its author has no part in judging."""
    turns = list(
        Annotation.objects.filter(
            comparison__prompt__dialogue=dialogue,
            annotator=dialogue.annotator_id,
            purpose=Annotation.Purpose.WORK,
        )
        .filter(superseded_by=None)
        .select_related(
            "comparison__batch",
            "comparison__prompt",
            "comparison__response_a__prompt",
            "comparison__response_b__prompt",
        )
        .order_by("comparison__prompt__turn", "comparison__prompt", "pk")
    )
    if not turns:
        raise Dialogue.DoesNotExist
    states = (Annotation.State.RECORDED, Annotation.State.SURPLUS)
    judged = [turn for turn in turns if turn.state in states]
    waiting = [turn for turn in turns if turn.state == Annotation.State.LEASED]
    if not judged:  # an answer that comes late is kept too, and the dialogue goes on from it
        waiting = waiting or [turn for turn in turns if turn.state == Annotation.State.EXPIRED]
    last = max(turns, key=lambda turn: (turn.comparison.prompt_id, turn.pk))
    led_nowhere = last.state not in states and last not in waiting
    return Standing(
        criterion=last.comparison.criterion,
        judged=judged[-1] if judged else None,
        waiting=waiting[-1] if waiting else None,
        message=last.comparison.prompt.user_message if led_nowhere else "",
    )


def begin_turn(
    annotator: Person,
    batch: Batch,
    before: Standing | None,
    text: str,
    risk_category: str = "",
    attack_vector: str = "",
) -> Turn:
    """Take the person's place at the models and draw the variants to ask.

    Raises WrongState, BatchClosed, MayNotWork, NothingReleased or SamplerUnavailable, each with a
    sentence for the annotator.
    """
    if before is not None and before.waiting is not None:
        raise WrongState("Judge the two answers to your last message first.")
    _refuse_work(annotator, batch)
    first, second = Variant.pair()
    questions = (sampler.question(first), sampler.question(second))
    return Turn(
        running=RunningTurn.begin(annotator),
        annotator=annotator,
        batch=batch,
        before=before,
        message=Message("user", text),
        risk_category=risk_category,
        attack_vector=attack_vector,
        variants=(first, second),
        questions=questions,
        shown_left=secrets.choice(SIDES),
    )


def _refuse_work(annotator: Person, batch: Batch) -> None:
    """Raises BatchClosed or MayNotWork."""
    if not Batch.objects.open().filter(pk=batch.pk, takes_written_prompts=True).exists():
        raise BatchClosed(f"{batch} takes no new messages now. Nothing was stored.")
    annotator.refresh_from_db(fields=["paused_reason", "does_safety"])
    if reason := cards.why_not(annotator, batch):
        raise MayNotWork(reason)


# --- while they answer ---------------------------------------------------------------------------


class Asking:
    """Both answers of a turn while they come, each with the task that reads it."""

    def __init__(self, turn: Turn, client: httpx.AsyncClient) -> None:
        self.turn, self.client = turn, client
        self.tries, self.seeds = [0, 0], [0, 0]
        self.panes = [Pane(turn.names), Pane(turn.names)]
        self.readers: list[asyncio.Task[None]] = [self._ask(0), self._ask(1)]

    def _ask(self, which: int) -> asyncio.Task[None]:
        pane = self.panes[which] = Pane(self.turn.names)
        seed = self.seeds[which] = secrets.randbelow(sampler.SEED_LIMIT)
        self.tries[which] += 1

        async def read() -> None:
            asked = self.turn.questions[which]
            pane.end(await sampler.answer(self.client, asked, self.turn.messages, seed, pane.hear))

        return asyncio.create_task(read())

    async def until_shown(self, stopped: asyncio.Task[None]) -> AsyncIterator[Event]:
        """What happens on the screen, until both answers stand there or are stopped."""
        pace, left = Pace(), SIDES.index(self.turn.shown_left)
        while not stopped.done():
            for reader in self.readers:
                if reader.done():
                    reader.result()
            for which in (0, 1):
                if reason := self._fault(which):
                    await self._ask_again(which, reason)
                    yield {"event": "resampling", "side": "left" if which == left else "right"}
            if all(pane.is_over for pane in self.panes):
                return
            texts = pace.release(self.panes[left], self.panes[1 - left])
            if any(texts):
                yield {"event": "text", "left": texts[0], "right": texts[1]}
            await asyncio.wait([stopped], timeout=TICK_SECONDS)
        stopped.result()

    def _fault(self, which: int) -> str:
        pane, other = self.panes[which], self.panes[1 - which]
        both = which == 1 and pane.has_ended and other.has_ended
        if both and not pane.fault and unusable_reason(other.text, pane.text):
            return "identical answers"
        return pane.fault

    async def _ask_again(self, which: int, reason: str) -> None:
        """Keep what cannot be judged and ask for another. Raises SamplerUnavailable at last."""
        self.readers[which].cancel()
        pane, turn = self.panes[which], self.turn
        await in_thread(
            lambda: Resampled.objects.create(
                variant=turn.variants[which], annotator=turn.annotator, messages=turn.messages,
                reason=reason, text=pane.text, seed=self.seeds[which],
                finish_reason=pane.finish_reason,
            )
        )  # fmt: skip
        if self.tries[which] == TRIES:
            raise SamplerUnavailable(
                f"The models gave {reason} {TRIES} times in a row. No comparison was made; try "
                "again or change your message."
            )
        self.readers[which] = self._ask(which)

    def answers(self) -> list[Answer]:
        """What stands on the screen. Raises NothingToJudge where it was stopped too early."""
        found = [
            Answer(pane.text[: pane.shown], seed, pane.finish_reason if pane.is_over else "stopped")
            for pane, seed in zip(self.panes, self.seeds, strict=True)
        ]
        if reason := unusable_reason(found[0].text, found[1].text):
            what = "one answer had not begun" if reason.startswith("empty") else "both were alike"
            raise NothingToJudge(
                f"Stopped while {what}, so there is nothing to judge. Nothing was stored; your "
                "message is kept here."
            )
        return found

    async def end(self) -> None:
        for reader in self.readers:
            reader.cancel()
        await asyncio.gather(*self.readers, return_exceptions=True)


async def events(turn: Turn) -> AsyncGenerator[Event, None]:
    """All that the page is told of a turn. Closing it ends the requests and stores nothing."""
    last: Event
    try:
        async with place_at_models(turn.running) as stopped:
            yield {"event": "start", "turn": str(turn.running.pk)}
            async with sampler.connect() as client:
                asking = Asking(turn, client)
                try:
                    async for event in asking.until_shown(stopped):
                        yield event
                    answers = asking.answers()
                finally:
                    await asking.end()
            annotation = await in_thread(lambda: store(turn, answers))
        last = {"event": "done", "annotation": annotation.pk}
    except Refusal as refusal:
        last = {"event": "refused", "sentence": str(refusal)}
    yield last


@asynccontextmanager
async def place_at_models(running: RunningTurn) -> AsyncIterator[asyncio.Task[None]]:
    """A person's place while their answers come; gives the task that waits for their stop.

    It is free before the page hears of the end, and a page that leaves in that very moment does not
    keep it: what is cancelled then is the waiting, not the giving back.
    """
    stopped = asyncio.create_task(until_stopped(running))

    async def give_back() -> None:
        await asyncio.gather(stopped, return_exceptions=True)
        await in_thread(running.end)

    try:
        yield stopped
    finally:
        stopped.cancel()
        await asyncio.shield(give_back())


async def until_stopped(running: RunningTurn) -> None:
    while not await in_thread(running.is_asked_to_stop):
        await asyncio.sleep(LOOK_SECONDS)


async def in_thread(act: Callable[[], T]) -> T:
    """Ask for rows on the loop's pool: it has few threads, and each keeps its connection."""

    def connected() -> T:
        close_old_connections()
        try:
            return act()
        finally:
            close_old_connections()

    return await asyncio.to_thread(connected)


# --- and then ------------------------------------------------------------------------------------


@transaction.atomic
def store(turn: Turn, answers: list[Answer]) -> Annotation:
    """The turn becomes a comparison, reserved for its author with the sides they have seen.

    Raises BatchClosed or MayNotWork where that has changed meanwhile.
    """
    _refuse_work(turn.annotator, turn.batch)
    leases.count_draw(turn.annotator.pk, turn.batch.pk)
    prompt = _prompt(turn)
    responses = [
        Response.objects.create(
            prompt=prompt,
            text=answer.text,
            variant=variant,
            checkpoint=variant.release.checkpoint,
            temperature=variant.temperature,
            top_p=variant.top_p,
            seed=answer.seed,
            finish_reason=answer.finish_reason,
        )
        for variant, answer in zip(turn.variants, answers, strict=True)
    ]
    comparison = Comparison.pose(turn.batch, prompt, *responses)
    return Annotation.objects.lease(comparison, turn.annotator, turn.shown_left)


def _prompt(turn: Turn) -> Prompt:
    before = turn.before
    if before is not None and before.judged is not None and before.chosen is not None:
        before.judged.comparison.go_on_with(before.judged.choice)
        return Prompt.go_on(before.chosen, turn.message)
    return Prompt.start(
        [turn.message],
        annotator=turn.annotator,
        is_safety=turn.batch.criterion == Criterion.SAFETY,
        risk_category=turn.risk_category,
        attack_vector=turn.attack_vector,
    )
