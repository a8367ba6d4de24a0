"""The comparisons of one week under one criterion."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from annotation_app.models.choices import Criterion, one_of
from annotation_app.models.refusals import WrongState
from annotation_app.models.skill import Skill

if TYPE_CHECKING:
    from annotation_app.models.round import Round


class BatchQuerySet(models.QuerySet["Batch"]):
    def open(self) -> BatchQuerySet:
        return self.filter(state=Batch.State.OPEN)

    def collecting_since(self, moment: datetime) -> BatchQuerySet:
        """Those in which an answer may have been recorded since then."""
        over = Q(state=Batch.State.CLOSED, closed_at__lt=moment)
        return self.exclude(over)

    def preference(self) -> BatchQuerySet:
        """Those that reward models learn from."""
        return self.filter(kind=Batch.Kind.PREFERENCE)

    def side_by_side(self) -> BatchQuerySet:
        """Those in which people compare a round's new chat model with the previous one."""
        return self.filter(kind=Batch.Kind.EVALUATION)

    def with_filling(self) -> BatchQuerySet:
        """Adds the newest run that was to fill the batch: ``filling_id``, ``filling_state``."""
        from annotation_app.models.run import Run

        fillings = Run.objects.filter(batch=models.OuterRef("pk"), kind=Run.Kind.SAMPLING)
        newest = fillings.order_by("-pk")
        return self.annotate(
            filling_id=models.Subquery(newest.values("pk")[:1]),
            filling_state=models.Subquery(newest.values("state")[:1]),
        )

    def with_progress(self) -> BatchQuerySet:
        """Adds counts of usable comparisons and their work.

        ``comparison_count``, ``wanted_count`` (answers), ``recorded_count``, ``leased_count``.
        """
        from annotation_app.models.annotation import Annotation
        from annotation_app.models.comparison import Comparison

        work = Annotation.objects.filter(
            batch=models.OuterRef("pk"), purpose__in=Annotation.BECOMES_PAIR,
            comparison__unusable_reason="",
        )  # fmt: skip

        def count(state: str) -> Coalesce:
            counted = work.filter(state=state).order_by().values("batch")
            total = counted.annotate(n=models.Count("pk")).values("n")
            return Coalesce(models.Subquery(total), 0)

        comparisons = Comparison.objects.filter(batch=models.OuterRef("pk"), unusable_reason="")
        grouped = comparisons.order_by().values("batch")
        counted = grouped.annotate(n=models.Count("pk")).values("n")
        wanted = grouped.annotate(n=models.Sum("overlap")).values("n")
        return self.annotate(
            comparison_count=Coalesce(models.Subquery(counted), 0),
            wanted_count=Coalesce(models.Subquery(wanted), 0),
            recorded_count=count(Annotation.State.RECORDED),
            leased_count=count(Annotation.State.LEASED),
        )


class Batch(models.Model):
    """draft → open → closing (no new leases; ends with the last lease) → closed.

    Preference batches are what reward models learn from. An evaluation batch holds a round's new
    chat model beside the previous one; no model ever learns from it.
    """

    class State(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open"
        CLOSING = "closing"
        CLOSED = "closed"

    COLLECTING = (State.OPEN, State.CLOSING)  # what is leased or stored here may still be answered

    class Kind(models.TextChoices):
        PREFERENCE = "preference"
        EVALUATION = "evaluation"

    name = models.CharField(max_length=120, unique=True)
    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.PREFERENCE)
    round: models.ForeignKey[Round | None, Round | None] = models.ForeignKey(
        "annotation_app.Round", models.PROTECT, null=True, related_name="side_by_sides",
        help_text="whose models an evaluation batch compares",
    )  # fmt: skip
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    week = models.PositiveIntegerField(null=True, help_text="1, 2 …; imported batches have none")
    overlap = models.PositiveSmallIntegerField(default=1, help_text="annotators per comparison")
    dual_share = models.FloatField(
        default=0.0, help_text="share of comparisons that two people judge, where overlap is 1"
    )
    quota = models.PositiveIntegerField(null=True, help_text="closes after this many annotations")
    deadline = models.DateTimeField(null=True)
    most_per_annotator = models.PositiveIntegerField(
        null=True, blank=True, help_text="comparisons given to one person; empty for no limit"
    )
    required_skills = models.ManyToManyField(Skill, blank=True, related_name="+")
    takes_written_prompts = models.BooleanField(default=True)
    is_filled = models.BooleanField(default=True, help_text="a draft being sampled is not filled")
    created_at = models.DateTimeField(auto_now_add=True)
    opened_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)

    objects = BatchQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="batch_one_open_per_criterion",
                fields=["criterion", "kind"],
                condition=Q(state="open"),
            ),
            models.UniqueConstraint(name="batch_side_by_side_once", fields=["round", "criterion"]),
            models.CheckConstraint(
                name="batch_kind_known", condition=one_of("kind", ["preference", "evaluation"])
            ),
            models.CheckConstraint(
                name="batch_evaluation_has_round",
                condition=Q(kind="preference", round__isnull=True)
                | ~Q(kind="preference") & Q(round__isnull=False),
            ),
            models.CheckConstraint(
                name="batch_criterion_known",
                condition=one_of("criterion", ["helpfulness", "safety"]),
            ),
            models.CheckConstraint(
                name="batch_state_known",
                condition=one_of("state", ["draft", "open", "closing", "closed"]),
            ),
            models.CheckConstraint(name="batch_overlap_positive", condition=Q(overlap__gte=1)),
            models.CheckConstraint(
                name="batch_dual_share_is_share", condition=Q(dual_share__gte=0, dual_share__lte=1)
            ),
        ]
        indexes = [models.Index(fields=["state", "criterion"], name="batch_state_criterion")]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def draft_next(cls, criterion: str, *, is_filled: bool = True) -> Batch:
        """The draft of the week after the newest one of this criterion."""
        return cls.objects.create(
            **cls._next_week(criterion),
            overlap=settings.OVERLAP,
            dual_share=settings.DUAL_SHARE,
            is_filled=is_filled,
        )

    @classmethod
    def _next_week(cls, criterion: str) -> dict[str, Any]:
        weeks = cls.objects.filter(criterion=criterion, week__isnull=False)
        week = (weeks.aggregate(models.Max("week"))["week__max"] or 0) + 1
        return {"name": f"Week {week}, {criterion}", "criterion": criterion, "week": week}

    @classmethod
    def draft_side_by_side(cls, round_: Round, criterion: str, overlap: int) -> Batch:
        """A draft in which this round's models are compared. It takes a week's number, so that its
        name tells nobody what it is.

        Raises WrongState where there is one.
        """
        try:
            with transaction.atomic():
                return cls.objects.create(
                    **cls._next_week(criterion), kind=cls.Kind.EVALUATION, round=round_,
                    overlap=overlap, takes_written_prompts=False, is_filled=False,
                )  # fmt: skip
        except IntegrityError:
            if not cls.objects.filter(round=round_, criterion=criterion).exists():
                raise  # another round's draft took the name at the same moment
            raise WrongState(f"People compare {round_} for {criterion} already.") from None

    def open(self) -> None:
        """draft → open, with a deadline in BATCH_DAYS. Raises WrongState, also while it is being
        filled."""
        now = timezone.now()
        deadline = self.deadline or now + timedelta(days=settings.BATCH_DAYS)
        if Batch.objects.open().filter(criterion=self.criterion, kind=self.kind).exists():
            raise WrongState(f"Another {self.criterion} batch is open: close it first.")
        mine = Batch.objects.filter(pk=self.pk, state=Batch.State.DRAFT, is_filled=True)
        moved = mine.update(state=Batch.State.OPEN, opened_at=now, deadline=deadline)
        self.refresh_from_db()
        if moved != 1 and self.state == Batch.State.DRAFT:
            raise WrongState(self._why_not_filled())
        self._require(moved, Batch.State.DRAFT, Batch.State.OPEN)

    def _why_not_filled(self) -> str:
        from annotation_app.models.run import Run

        run = Run.objects.filter(batch=self, kind=Run.Kind.SAMPLING).order_by("-pk").first()
        if run is None:
            return f"{self.name} is not filled, and no run fills it."
        if run.is_active:
            return f"{self.name} is being filled; it opens by itself."
        ended = {Run.State.FAILED: "failed", Run.State.CANCELLED: "was cancelled"}
        return (
            f"{self.name} is not filled: {run} {ended.get(Run.State(run.state), 'has ended')}. "
            "Where that run goes on, it opens by itself."
        )

    def fill(self) -> None:
        """A draft's comparisons are all there; beat may open it. One that compares a round's models
        is full when everything in it is judged."""
        draft = Batch.objects.filter(pk=self.pk, state=Batch.State.DRAFT)
        draft.update(is_filled=True)
        draft.side_by_side().update(quota=self._wanted())
        self.refresh_from_db()

    def _wanted(self) -> int:
        from annotation_app.models.comparison import Comparison

        usable = Comparison.objects.usable().filter(batch=self)
        return usable.aggregate(models.Sum("overlap"))["overlap__sum"] or 0

    def empty(self, reason: str) -> None:
        """What a draft holds is never served: other comparisons will fill it."""
        from annotation_app.models.comparison import Comparison

        held = Comparison.objects.usable().filter(batch=self)
        held.update(unusable_reason=reason)
        Batch.objects.filter(pk=self.pk, state=Batch.State.DRAFT).update(is_filled=False)
        self.refresh_from_db()

    def close(self) -> None:
        """open → closing: no new leases. Raises WrongState."""
        self._move(Batch.State.OPEN, Batch.State.CLOSING)

    def finish_closing(self) -> bool:
        """closing → closed once the last lease has ended; False while one is running."""
        from annotation_app.models.annotation import Annotation

        leased = Annotation.objects.filter(
            batch=self,
            state=Annotation.State.LEASED,
            lease_expires_at__gt=timezone.now(),
        )
        if leased.exists():
            return False
        self._move(Batch.State.CLOSING, Batch.State.CLOSED, closed_at=timezone.now())
        return True

    def is_finished(self) -> bool:
        """Whether an open batch has reached its quota or its deadline."""
        if self.deadline and self.deadline <= timezone.now():
            return True
        return self.quota is not None and self.recorded() >= self.quota

    def recorded(self) -> int:
        from annotation_app.models.annotation import Annotation

        return Annotation.objects.work().filter(batch=self).count()

    def _move(self, old: str, new: str, **fields: object) -> None:
        moved = Batch.objects.filter(pk=self.pk, state=old).update(state=new, **fields)
        self.refresh_from_db()
        self._require(moved, old, new)

    def _require(self, moved: int, old: str, new: str) -> None:
        if moved != 1:
            raise WrongState(
                f"{self.name} is {self.state}; only a batch that is {old} can be {new}."
            )
