"""How well each annotator judges, from answers that can be checked, and the pause that follows.

Skill is the share of reference comparisons answered with the known response. Self-agreement is the
share of re-serves, sides exchanged, answered with the same response as the first time. Left-bias is
the share of answers for the left side. Each has Wilson's 95 % interval, and a pause needs the whole
interval beyond the mark, so a short run of bad luck pauses nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, When
from django.utils import timezone

from annotation_app.models import Annotation, Organisation, Person
from reward.measures.accuracy import wilson_interval

WINDOW = timedelta(days=14)
NEWLY = timedelta(hours=1)


class Share(NamedTuple):
    """A share of a count with Wilson's 95 % interval; NaN of nothing."""

    share: float
    low: float
    high: float
    total: int

    @classmethod
    def of(cls, part: int, total: int) -> Share:
        if not total:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(part / total, *wilson_interval(part / total, total), total)

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.total} ({self.low:.0%} to {self.high:.0%})"


class Quality(NamedTuple):
    """What one annotator's answers show."""

    skill: Share
    self_agreement: Share
    left: Share


UNKNOWN = Quality(Share.of(0, 0), Share.of(0, 0), Share.of(0, 0))


def quality_by_annotator(annotations: QuerySet[Annotation]) -> dict[int, Quality]:
    """The three figures of everyone who recorded any of these annotations. One query."""
    reference = Q(purpose=Annotation.Purpose.REFERENCE)
    re_serve = Q(purpose=Annotation.Purpose.RE_SERVE)
    first = Annotation.objects.work().filter(
        comparison=OuterRef("comparison"), annotator=OuterRef("annotator")
    )
    # Only a re-serve looks its first answer up.
    earlier = Case(When(re_serve, then=Subquery(first.values("choice")[:1])), default=None)
    rows = (
        annotations.filter(state=Annotation.State.RECORDED)
        .annotate(earlier=earlier)
        .values("annotator")
        .annotate(
            references=Count("pk", filter=reference & Q(comparison__reference__isnull=False)),
            right=Count("pk", filter=reference & Q(choice=F("comparison__reference__choice"))),
            re_served=Count("pk", filter=re_serve & Q(earlier__isnull=False)),
            same=Count("pk", filter=re_serve & Q(choice=F("earlier"))),
            sided=Count("pk", filter=~Q(choice="tie")),
            left=Count("pk", filter=Q(choice=F("shown_left"))),
        )
    )
    return {
        row["annotator"]: Quality(
            Share.of(row["right"], row["references"]),
            Share.of(row["same"], row["re_served"]),
            Share.of(row["left"], row["sided"]),
        )
        for row in rows
    }


def why_pause(quality: Quality, rules: Organisation) -> str:
    """What about these figures looks like chance, as a sentence for the annotator; or nothing."""
    skill, again, left = quality
    fewest, beyond = rules.fewest_probes, rules.most_on_one_side
    if skill.total >= fewest and skill.high < rules.least_skill:
        return f"Of comparisons with a known answer you answered as expected {skill}."
    if again.total >= fewest and again.high < rules.least_self_agreement:
        return f"Of comparisons that you had judged before you chose the same response {again}."
    if left.total >= fewest and (left.low > beyond or left.high < 1 - beyond):
        return f"You preferred the left response in {left}, whichever stood there."
    return ""


def since(annotator: Person, now: datetime) -> datetime:
    """From when on an annotator's answers count: a pause that was ended is not counted again."""
    return max(now - WINDOW, annotator.resumed_at or now - WINDOW)


def pause_who_answers_by_chance() -> list[Person]:
    """Pause those of the newest answers whose figures look like chance; returns whom."""
    rules = Organisation.current()
    return [who for who in _newly_active() if rules.pauses_by_itself and _pause(who, rules)]


def _newly_active() -> Iterator[Person]:
    newly = Annotation.objects.filter(
        annotator=OuterRef("pk"), leased_at__gte=timezone.now() - NEWLY
    )
    yield from Person.objects.filter(Exists(newly), is_active=True, paused_reason="")


def _pause(annotator: Person, rules: Organisation) -> bool:
    mine = Annotation.objects.without_corrections().filter(
        annotator=annotator, leased_at__gte=since(annotator, timezone.now())
    )
    quality = quality_by_annotator(mine).get(annotator.pk, UNKNOWN)
    if reason := why_pause(quality, rules):
        annotator.pause(f"{reason} A reviewer will look at it and decide.")
    return bool(reason)
