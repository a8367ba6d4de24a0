"""What the judging page is told: a comparison as HTML, or why there is none."""

from __future__ import annotations

from typing import Any

from django.template.loader import render_to_string

from annotation_app.models import Annotation, Batch, Comparison, Person, leases


def following(
    annotator: Person, criterion: str, batch: Batch | None, leased: int | None
) -> dict[str, Any]:
    """``{"next": a card or null, "why": a sentence where it is null}``."""
    card = None if leased is None else leases.read_card(leased)
    if card is None:
        return {"next": None, "why": why_nothing(annotator, criterion, batch)}
    return {"next": shown(card), "why": ""}


def shown(card: leases.Card) -> dict[str, Any]:
    """A card for the page's script: the annotation's id, and its HTML."""
    html = render_to_string("annotate/_card.html", {"card": card})
    return {"id": card.question.annotation, "html": html}


def why_nothing(annotator: Person, criterion: str, batch: Batch | None) -> str:
    """Tells "all done" from "reserved by others" and from a batch that is closed or empty."""
    if batch is None or batch.state != Batch.State.OPEN:
        return f"No {criterion} batch is open now. The next one opens by itself."
    seen = Annotation.objects.filter(annotator=annotator).exclude(state=Annotation.State.EXPIRED)
    leased = Annotation.objects.filter(comparison__batch=batch, state=Annotation.State.LEASED)
    theirs = leased.exclude(comparison__in=seen.values("comparison"))
    first = theirs.exclude(annotator=annotator).order_by("lease_expires_at").first()
    if first is not None:
        until = first.lease_expires_at.strftime("%H:%M")
        return f"What is left is reserved by others; some may come back by {until} UTC."
    if not Comparison.objects.usable().filter(batch=batch).exists():
        return "This batch has no comparisons yet. Write a prompt and judge its two responses."
    return "You have judged everything there is for you in this batch. Thank you!"
