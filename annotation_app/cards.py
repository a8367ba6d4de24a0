"""What the judging page is told: a comparison as HTML, or why there is none."""

from __future__ import annotations

from typing import Any

from django.template.loader import render_to_string
from django.utils import timezone

from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Criterion,
    Organisation,
    Person,
    Seat,
    leases,
)
from annotation_app.models.person import DECLINED

TURN_WAITS = "A turn of your dialogue waits to be judged."


def following(
    annotator: Person, criterion: str, batch: Batch | None, leased: int | None
) -> dict[str, Any]:
    """``{"next": a card or null, "why": a sentence where it is null}``.

    A turn of a live dialogue has a page of its own, to which ``annotate_next`` leads.
    """
    card = None if leased is None else leases.read_card(leased)
    if card is None:
        return {"next": None, "why": why_nothing(annotator, criterion, batch)}
    if card.dialogue is not None:
        return {"next": None, "why": TURN_WAITS}
    return {"next": shown(card), "why": ""}


def shown(card: leases.Card) -> dict[str, Any]:
    """A card for the page's script: the annotation's id, its HTML, the guidelines' version."""
    html = render_to_string("annotate/_card.html", {"card": card})
    version = card.question.guideline_version
    return {"id": card.question.annotation, "html": html, "guidelines": version}


def why_nothing(annotator: Person, criterion: str, batch: Batch | None) -> str:
    """What keeps this person from a comparison: the first reason that holds."""
    if batch is None or batch.state != Batch.State.OPEN:
        closed = f"No {criterion} batch is open now. The next one opens by itself."
        return _paused(annotator) or closed
    return why_not(annotator, batch) or _nothing_left(annotator, batch)


def _paused(annotator: Person) -> str:
    reason = annotator.paused_reason
    return f"Your work is paused: {reason}" if reason else ""


def why_not(annotator: Person, batch: Batch) -> str:
    """The sentences for what ``leases.MAY_WORK`` asks; empty where nothing forbids it."""
    return _paused(annotator) or _not_for_them(annotator, batch)


def _not_for_them(annotator: Person, batch: Batch) -> str:
    batch.refresh_from_db()
    missing = batch.required_skills.exclude(people=annotator)
    if missing:
        names = ", ".join(skill.name for skill in missing)
        return f"This batch asks for what you do not have yet: {names}."
    seat = Seat.objects.filter(annotator=annotator, batch=batch).first()
    if batch.most_per_annotator is not None and seat and seat.draws >= batch.most_per_annotator:
        most = batch.most_per_annotator
        return f"You have had your {most} comparisons of this batch; the rest is for others."
    if batch.criterion == Criterion.SAFETY:
        return _no_safety_work(annotator)
    return ""


def why_no_writing(author: Person, criterion: str) -> str:
    """What keeps this person from writing demonstrations; empty where nothing does."""
    if author.paused_reason:
        return f"Your work is paused: {author.paused_reason}"
    return DECLINED if criterion == Criterion.SAFETY and not author.does_safety else ""


def _no_safety_work(annotator: Person) -> str:
    if not annotator.does_safety:
        return DECLINED
    cap = Organisation.current().safety_daily_cap
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    today = Annotation.objects.without_corrections().filter(
        annotator=annotator, leased_at__gte=midnight, comparison__criterion=Criterion.SAFETY
    )
    if cap is not None and today.exclude(state=Annotation.State.EXPIRED).count() >= cap:
        return f"{cap} safety comparisons are enough for one day. More tomorrow, from 00:00 UTC."
    return ""


def _nothing_left(annotator: Person, batch: Batch) -> str:
    """Tells "all done" from "reserved by others" and from a batch that is empty."""
    seen = Annotation.objects.filter(annotator=annotator).exclude(state=Annotation.State.EXPIRED)
    leased = Annotation.objects.filter(
        batch=batch, purpose=Annotation.Purpose.WORK, state=Annotation.State.LEASED
    )
    theirs = leased.exclude(comparison__in=seen.values("comparison"))
    first = theirs.exclude(annotator=annotator).order_by("lease_expires_at").first()
    if first is not None:
        until = first.lease_expires_at.strftime("%H:%M")
        return f"What is left is reserved by others; some may come back by {until} UTC."
    if not Comparison.objects.usable().filter(batch=batch).exists():
        return "This batch has no comparisons yet. Begin a dialogue and judge its answers."
    return "You have judged everything there is for you in this batch. Thank you!"
