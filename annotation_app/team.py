"""How the work goes: each annotator's figures, agreement, the queue. Rows in, figures out.

Agreement is computed on what was judged after undoing the side swap: a and b, never left and right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from django.db.models import Avg, Count, FilteredRelation, Max, Q, QuerySet, Sum
from django.utils import timezone

from annotation_app.models import Annotation, Batch, Strength

if TYPE_CHECKING:
    from annotation_app.agreement import Agreement

SCALE = range(1, 9)  # 1: a significantly better … 8: b significantly better
STRENGTHS = list(Strength.values)
FEWEST_SHARED = 2  # comparisons, for a pair of annotators to be listed


class AnnotatorFigures(NamedTuple):
    """One annotator's work in a stretch of time."""

    annotator: int
    name: str
    is_paused: bool
    recorded: int
    skipped: int
    flagged: int
    surplus: int
    hours: float
    """Active ones, as the page measured them, over everything answered."""
    seconds_each: float | None
    last_at: datetime | None

    @property
    def per_hour(self) -> float | None:
        return self.recorded / self.hours if self.hours else None


def annotator_figures(annotations: QuerySet[Annotation]) -> list[AnnotatorFigures]:
    """A line for each annotator of these annotations, the busiest first. One query."""
    recorded = Q(state=Annotation.State.RECORDED)
    rows = (
        annotations.values("annotator", "annotator__username", "annotator__paused_reason")
        .annotate(
            recorded=Count("pk", filter=recorded),
            skipped=Count("pk", filter=Q(state=Annotation.State.SKIPPED)),
            flagged=Count("pk", filter=Q(state=Annotation.State.FLAGGED)),
            surplus=Count("pk", filter=Q(state=Annotation.State.SURPLUS)),
            seconds=Sum("active_seconds", default=0.0),  # also of what no longer stands
            each=Avg("active_seconds", filter=recorded),
            last=Max("recorded_at"),
        )
        .order_by("-recorded", "annotator")
    )
    return [
        AnnotatorFigures(
            row["annotator"],
            row["annotator__username"],
            bool(row["annotator__paused_reason"]),
            row["recorded"],
            row["skipped"],
            row["flagged"],
            row["surplus"],
            row["seconds"] / 3600,
            row["each"],
            row["last"],
        )
        for row in rows
    ]


class Measures(NamedTuple):
    """Agreement on the comparisons that several people judged."""

    comparisons: int
    same_side: Agreement
    """The share of pairs of annotators that prefer the same response."""
    side: Agreement
    """Gwet's AC1 of the preferred response."""
    preference: Agreement
    """Gwet's AC2 of the eight answers, ordinal weights."""
    alpha: Agreement
    """Krippendorff's alpha of the eight answers, ordinal."""


class Judgement(NamedTuple):
    """What one person said of one comparison."""

    comparison: int
    batch: str
    annotator: str
    choice: str
    strength: str

    @property
    def side(self) -> float:
        return {"a": 1.0, "b": 2.0}.get(self.choice, math.nan)

    @property
    def rating(self) -> float:
        """Its place on SCALE; NaN for a tie or a strength that is unknown."""
        if self.choice not in ("a", "b") or not self.strength:
            return math.nan
        steps = STRENGTHS.index(self.strength)  # 0 is significantly better
        return float(1 + steps if self.choice == "a" else 8 - steps)


def shared_judgements(annotations: QuerySet[Annotation]) -> list[Judgement]:
    """What was recorded of comparisons that more than one person judged. One query."""
    recorded = annotations.filter(
        state=Annotation.State.RECORDED, comparison__unusable_reason="", comparison__overlap__gt=1
    )
    fields = ("comparison", "comparison__batch__name", "annotator__username", "choice", "strength")
    found: defaultdict[int, list[Judgement]] = defaultdict(list)
    for row in recorded.order_by("comparison", "annotator").values_list(*fields):
        found[row[0]].append(Judgement(*row))
    return [judgement for group in found.values() if len(group) > 1 for judgement in group]


def measures(judgements: Sequence[Judgement]) -> Measures:
    """The four measures; NaN where nothing was judged twice."""
    from annotation_app import agreement  # brings numpy and scipy, 20 MB that few pages need

    sides, ratings = _table(judgements, "side"), _table(judgements, "rating")
    return Measures(
        len(sides),
        agreement.percent_agreement(sides, (1, 2)),
        agreement.gwet_ac(sides, (1, 2)),
        agreement.gwet_ac(ratings, SCALE, "ordinal"),
        agreement.krippendorff_alpha(ratings, SCALE, "ordinal"),
    )


def measures_by(judgements: Sequence[Judgement], field: str) -> dict[str, Measures]:
    """For each batch, say, the measures of its judgements."""
    groups: defaultdict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        groups[getattr(judgement, field)].append(judgement)
    return {name: measures(group) for name, group in sorted(groups.items())}


def measures_by_annotator(judgements: Sequence[Judgement]) -> dict[str, Measures]:
    """Each annotator against the others, over the comparisons that they judged."""
    mine: defaultdict[str, set[int]] = defaultdict(set)
    for judgement in judgements:
        mine[judgement.annotator].add(judgement.comparison)
    return {
        name: measures([j for j in judgements if j.comparison in comparisons])
        for name, comparisons in sorted(mine.items())
    }


def measures_by_pair(judgements: Sequence[Judgement]) -> dict[tuple[str, str], Measures]:
    """Each two annotators, over the comparisons that both judged."""
    of_comparison: defaultdict[int, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_comparison[judgement.comparison].append(judgement)
    pairs: defaultdict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for group in of_comparison.values():
        for one, other in combinations(sorted(group, key=lambda j: j.annotator), 2):
            pairs[one.annotator, other.annotator] += [one, other]
    listed = {k: v for k, v in sorted(pairs.items()) if len(v) >= 2 * FEWEST_SHARED}
    return {pair: measures(found) for pair, found in listed.items()}


def _table(judgements: Iterable[Judgement], value: str) -> list[list[float]]:
    """Comparisons × their judgements in any order, filled up with NaN: raters are exchangeable."""
    rows: defaultdict[int, list[float]] = defaultdict(list)
    for judgement in judgements:
        rows[judgement.comparison].append(getattr(judgement, value))
    most = max((len(row) for row in rows.values()), default=0)
    return [row + [math.nan] * (most - len(row)) for row in rows.values()] or [[math.nan] * 2]


class Queue(NamedTuple):
    """An open batch: what is left, and when it would be done at the last hour's pace."""

    batch: int
    name: str
    wanted: int
    recorded: int
    leased: int
    per_hour: int
    done_at: datetime | None


def queues() -> list[Queue]:
    """Each open batch."""
    now = timezone.now()
    fields = ("pk", "name", "wanted_count", "recorded_count", "leased_count")
    found = []
    for row in Batch.objects.open().with_progress().values(*fields):
        wanted = row["wanted_count"]
        last_hour = Annotation.objects.recorded().filter(
            batch=row["pk"],
            purpose=Annotation.Purpose.WORK,
            recorded_at__gte=now - timedelta(hours=1),
        )
        per_hour, left = last_hour.count(), wanted - row["recorded_count"]
        done_at = now + timedelta(hours=left / per_hour) if per_hour and left > 0 else None
        done, leased = row["recorded_count"], row["leased_count"]
        found.append(Queue(row["pk"], row["name"], wanted, done, leased, per_hour, done_at))
    return found


def per_day(annotations: QuerySet[Annotation], days: int) -> Mapping[str, int]:
    """Recorded annotations on each of the last days (UTC), today last."""
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    today = midnight.date()
    counted = dict(  # a moment is compared: a date would have to be made of every row
        annotations.filter(state=Annotation.State.RECORDED)
        .filter(recorded_at__gte=midnight - timedelta(days=days - 1))
        .values_list("recorded_at__date")
        .annotate(n=Count("pk"))
    )
    wanted = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    return {day.isoformat(): counted.get(day, 0) for day in wanted}


class ReviewFigures(NamedTuple):
    """What reviewers have made of one annotator's answers in a stretch of time."""

    name: str
    answers: int
    approved: int
    edited: int
    rejected: int
    sent_back: int

    @property
    def reviewed(self) -> int:
        return self.approved + self.edited + self.rejected + self.sent_back

    @property
    def share(self) -> float:
        return self.reviewed / self.answers


def review_figures(annotations: QuerySet[Annotation]) -> list[ReviewFigures]:
    """A line for each annotator of these annotations, the least reviewed first. One query."""
    decisions = ("approved", "edited", "rejected", "sent_back")
    standing = FilteredRelation("reviews", condition=Q(reviews__undone_at=None))
    rows = (
        annotations.annotate(standing=standing)
        .filter(Q(state=Annotation.State.RECORDED) | Q(standing__isnull=False))
        .values_list("annotator__username")
        .annotate(
            answers=Count("pk"),
            **{name: Count("pk", filter=Q(standing__decision=name)) for name in decisions},
        )
    )
    found = [ReviewFigures(*row) for row in rows.order_by()]
    return sorted(found, key=lambda figures: (figures.share, -figures.answers, figures.name))
