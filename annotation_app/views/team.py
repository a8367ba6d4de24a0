"""My work, for everyone; the team, for reviewers and researchers."""

from __future__ import annotations

from datetime import timedelta

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from annotation_app import figures
from annotation_app import team as work
from annotation_app.access import person, reviewer_required, signed_in
from annotation_app.models import Annotation, Criterion, Demonstration, Person, Review
from annotation_app.quality import UNKNOWN, quality_by_annotator

PERIODS = {"day": 1, "week": 7, "month": 30, "year": 365}
DAYS = 14
NEWEST = 20


@require_GET
@never_cache
@signed_in
def my_work(request: HttpRequest) -> HttpResponse:
    """One's own progress and hours; never what others said."""
    mine = Annotation.objects.without_corrections().filter(annotator=person(request))
    now = timezone.now()
    rows = [
        (name, work.annotator_figures(mine.filter(leased_at__gte=now - timedelta(days=days))))
        for name, days in PERIODS.items()
    ]
    newest = mine.exclude(recorded_at=None).select_related("comparison__prompt")
    newest = newest.order_by("-recorded_at")[:NEWEST]
    written = Demonstration.objects.filter(author=person(request), supersedes=None)
    days = work.per_day(mine, DAYS)
    sent_back = list(Review.objects.sent_back_to(person(request)).with_answers())
    received = Review.objects.feedback_for(person(request)).exclude(
        pk__in=[r.pk for r in sent_back]
    )
    feedback = list(received.with_answers()[:NEWEST])
    page = {
        "periods": [(name, found[0] if found else None) for name, found in rows],
        "days": days,
        "per_day": figures.per_day(days, "Your annotations on each day"),
        "newest": _with_better_answers(person(request), list(newest)),
        "sent_back": sent_back,
        "feedback": feedback,
        "news": [review.pk for review in feedback if review.seen_at is None],
        "written": written.select_related("prompt").order_by("-pk")[:NEWEST],
    }
    return render(request, "team/my_work.html", page)


def _with_better_answers(
    author: Person, annotations: list[Annotation]
) -> list[tuple[Annotation, int | None]]:
    """Each with the author's standing better answer than the response it prefers. One query."""
    written = Demonstration.objects.standing().filter(
        author=author, corrects__prompt__in=[a.comparison.prompt_id for a in annotations]
    )
    better = dict(written.values_list("corrects", "pk"))
    return [(a, better.get(a.comparison.response_id(a.choice))) for a in annotations]


@require_GET
@never_cache
@reviewer_required
def team(request: HttpRequest) -> HttpResponse:
    """Throughput, left-bias and agreement of everyone, and the health of the queue."""
    period = request.GET.get("period", "week")
    period = period if period in PERIODS else "week"
    since = timezone.now() - timedelta(days=PERIODS[period])
    judged = Annotation.objects.without_corrections().filter(annotator__is_active=True)
    recent, days = judged.filter(leased_at__gte=since), work.per_day(judged, DAYS)
    quality = quality_by_annotator(recent)
    page = {
        "period": period,
        "periods": list(PERIODS),
        "annotators": [
            (row, quality.get(row.annotator, UNKNOWN)) for row in work.annotator_figures(recent)
        ],
        "queues": work.queues(),
        "days": days,
        "per_day": figures.per_day(days, "Annotations on each day"),
    }
    return render(request, "team/team.html", page)


@require_GET
@never_cache
@reviewer_required
def agreement(request: HttpRequest) -> HttpResponse:
    """Agreement of a criterion: in all, by batch, by annotator and by pair of annotators."""
    criterion = request.GET.get("criterion", Criterion.HELPFULNESS)
    criterion = criterion if criterion in Criterion.values else Criterion.HELPFULNESS
    work_only = Annotation.objects.work().without_corrections()
    rows = work_only.filter(comparison__criterion=criterion)
    judgements = work.shared_judgements(rows)
    page = {
        "criterion": criterion,
        "criteria": Criterion,
        "groups": [
            ("Criterion", {criterion: work.measures(judgements)} if judgements else {}),
            ("Batch", work.measures_by(judgements, "batch")),
            ("Annotator, against the others", work.measures_by_annotator(judgements)),
            (
                "Two annotators",
                {" and ".join(pair): m for pair, m in work.measures_by_pair(judgements).items()},
            ),
        ],
    }
    return render(request, "team/agreement.html", page)
