"""The answer: one annotator's lease on a comparison, and what they made of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import F, Q
from django.utils import timezone

from annotation_app.models.batch import Batch
from annotation_app.models.choices import Side, Strength, one_of
from annotation_app.models.comparison import Comparison
from annotation_app.models.refusals import LeaseLost

if TYPE_CHECKING:
    from annotation_app.models.person import Person

DRAW_TRIES = 5


class AnnotationQuerySet(models.QuerySet["Annotation"]):
    def live(self) -> AnnotationQuerySet:
        """Those that occupy a slot of their comparison."""
        return self.filter(state__in=[Annotation.State.LEASED, Annotation.State.RECORDED])

    def recorded(self) -> AnnotationQuerySet:
        return self.filter(state=Annotation.State.RECORDED)

    def work(self) -> AnnotationQuerySet:
        """Those that may become pairs."""
        return self.recorded().filter(purpose=Annotation.Purpose.WORK)

    def lease_held_by(self, annotator: Person, batch: Batch) -> Annotation | None:
        """The annotator's running lease in this batch, if any."""
        return (
            self.filter(
                annotator=annotator,
                comparison__batch=batch,
                state=Annotation.State.LEASED,
                lease_expires_at__gt=timezone.now(),
            )
            .select_related("comparison__batch", "comparison__prompt",
                            "comparison__response_a", "comparison__response_b")
            .first()
        )  # fmt: skip

    def lease_next(self, annotator: Person, batch: Batch) -> Annotation | None:
        """Reserve the next comparison of an open batch for this annotator.

        Returns the lease they already hold, a new one, or None when nothing is left for them.
        Safe under any number of simultaneous callers: the unique (comparison, slot) constraint
        decides, and the loser of a race draws again.
        """
        if held := self.lease_held_by(annotator, batch):
            return held
        for _ in range(DRAW_TRIES):
            try:
                with transaction.atomic():
                    return self._draw(annotator, batch)
            except IntegrityError:
                continue  # someone took that slot between our read and our write
        return None

    def _draw(self, annotator: Person, batch: Batch) -> Annotation | None:
        if not Batch.objects.open().filter(pk=batch.pk).exists():
            return None
        drawable = Comparison.objects.filter(batch=batch).drawable_for(annotator)
        drawable = drawable.select_related("batch", "prompt", "response_a", "response_b")
        comparison = drawable.select_for_update(skip_locked=True, of=("self",)).first()
        return None if comparison is None else self.lease(comparison, annotator)

    def lease(self, comparison: Comparison, annotator: Person) -> Annotation:
        """Reserve this comparison. Raises IntegrityError when its last slot is taken."""
        with transaction.atomic():
            taken = set(self.filter(comparison=comparison).live().values_list("slot", flat=True))
            slot = next((s for s in range(comparison.overlap) if s not in taken), None)
            if slot is None:
                raise IntegrityError(f"all {comparison.overlap} slots of {comparison} are taken")
            Comparison.objects.filter(pk=comparison.pk).update(open_slots=F("open_slots") - 1)
            now = timezone.now()
            return self.create(
                comparison=comparison,
                annotator=annotator,
                slot=slot,
                overlap=comparison.overlap,
                shown_left=secrets.choice(Side.values),
                leased_at=now,
                lease_expires_at=now + timedelta(seconds=settings.LEASE_SECONDS),
            )

    def expire(self) -> int:
        """End every lease whose time has run out; returns how many."""
        ended = 0
        overdue = self.filter(state=Annotation.State.LEASED, lease_expires_at__lte=timezone.now())
        for annotation in overdue.order_by("pk"):
            ended += annotation._release(Annotation.State.EXPIRED)
        return ended


class Annotation(models.Model):
    """leased → recorded | skipped | flagged | expired; recorded → superseded | excluded.

    The row is filled once. What arrives after the lease ran out and the slot was filled by someone
    else is kept as surplus.
    """

    class State(models.TextChoices):
        LEASED = "leased"
        RECORDED = "recorded"
        SKIPPED = "skipped"
        FLAGGED = "flagged"
        EXPIRED = "expired"
        SUPERSEDED = "superseded"
        EXCLUDED = "excluded"
        SURPLUS = "surplus"

    class Purpose(models.TextChoices):
        WORK = "work"
        REFERENCE = "reference"
        RE_SERVE = "re-serve"
        QUALIFICATION = "qualification"
        REVIEW = "review"
        EVALUATION = "evaluation"

    class Choice(models.TextChoices):
        A = "a"
        B = "b"
        TIE = "tie", "Tie (imports only)"

    comparison = models.ForeignKey(Comparison, models.PROTECT, related_name="annotations")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="annotations"
    )
    purpose = models.CharField(max_length=20, choices=Purpose.choices, default=Purpose.WORK)
    state = models.CharField(max_length=12, choices=State.choices, default=State.LEASED)
    slot = models.PositiveSmallIntegerField()
    overlap = models.PositiveSmallIntegerField(default=1, help_text="copied, so slot is bounded")
    shown_left = models.CharField(max_length=1, choices=Side.choices)
    choice = models.CharField(max_length=3, choices=Choice.choices, blank=True, default="")
    strength = models.CharField(max_length=20, choices=Strength.choices, blank=True, default="")
    a_safe = models.BooleanField(null=True)
    b_safe = models.BooleanField(null=True)
    seconds = models.FloatField(null=True)
    guideline_version = models.PositiveIntegerField(default=1)
    reason = models.CharField(max_length=500, blank=True, default="")
    leased_at = models.DateTimeField()
    lease_expires_at = models.DateTimeField()
    recorded_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = AnnotationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="annotation_one_live_per_person",
                fields=["comparison", "annotator", "purpose"],
                condition=Q(state__in=["leased", "recorded"]),
            ),
            models.UniqueConstraint(
                name="annotation_one_live_per_slot",
                fields=["comparison", "slot"],
                condition=Q(state__in=["leased", "recorded"]),
            ),
            models.CheckConstraint(
                name="annotation_slot_within_overlap", condition=Q(slot__lt=F("overlap"))
            ),
            models.CheckConstraint(
                name="annotation_recorded_has_choice",
                condition=~Q(state="recorded") | one_of("choice", ["a", "b", "tie"]),
            ),
            models.CheckConstraint(
                name="annotation_strength_known",
                condition=one_of(
                    "strength",
                    ["", "significantly_better", "better", "slightly_better", "negligibly_better"],
                ),
            ),
            models.CheckConstraint(
                name="annotation_shown_left_known", condition=one_of("shown_left", ["a", "b"])
            ),
            models.CheckConstraint(
                name="annotation_safety_not_contradictory",
                condition=~Q(choice="a", a_safe=False, b_safe=True)
                & ~Q(choice="b", b_safe=False, a_safe=True),
            ),
        ]
        indexes = [
            models.Index(
                fields=["lease_expires_at"], name="annotation_leases", condition=Q(state="leased")
            ),
            models.Index(fields=["annotator", "state"], name="annotation_person_state"),
        ]

    def __str__(self) -> str:
        return f"annotation {self.pk} ({self.state})"

    @property
    def shown_right(self) -> str:
        return Side(self.shown_left).other

    def record(
        self,
        *,
        choice: str,
        strength: str,
        a_safe: bool | None = None,
        b_safe: bool | None = None,
        seconds: float | None = None,
    ) -> None:
        """Fill the row, once. Sending the same again changes nothing.

        After the lease ran out the slot is taken back if it is still free; otherwise the answer
        is kept as surplus. Raises LeaseLost for a skipped, flagged or withdrawn annotation.
        """
        if self.state in (self.State.RECORDED, self.State.SURPLUS, self.State.SUPERSEDED):
            return
        answer = {
            "choice": choice,
            "strength": strength,
            "a_safe": a_safe,
            "b_safe": b_safe,
            "seconds": seconds,
            "recorded_at": timezone.now(),
        }
        mine = Annotation.objects.filter(pk=self.pk)
        recorded = mine.filter(state=self.State.LEASED).update(state=self.State.RECORDED, **answer)
        if recorded != 1 and not self._record_late(answer):
            self.refresh_from_db()
            if self.state not in (self.State.RECORDED, self.State.SURPLUS):
                raise LeaseLost(f"This comparison was {self.state}; the answer was not stored.")
        self.refresh_from_db()

    def _record_late(self, answer: Mapping[str, object]) -> bool:
        """Expired: take the slot back if nobody has it and the batch still collects, or surplus."""
        expired = Annotation.objects.filter(pk=self.pk, state=self.State.EXPIRED)
        collecting = self.comparison.batch.state in (Batch.State.OPEN, Batch.State.CLOSING)
        if collecting:
            try:
                with transaction.atomic():
                    if expired.update(state=self.State.RECORDED, **answer) != 1:
                        return False
                    Comparison.objects.filter(pk=self.comparison_id).update(
                        open_slots=F("open_slots") - 1
                    )
                    return True
            except IntegrityError:
                pass  # the slot has been filled by someone else
        return expired.update(state=self.State.SURPLUS, **answer) == 1

    def skip(self, reason: str = "") -> None:
        """leased → skipped: someone else gets it. Raises LeaseLost."""
        self._end(self.State.SKIPPED, reason)

    def flag(self, reason: str) -> None:
        """leased → flagged: the comparison itself is at fault. Raises LeaseLost."""
        self._end(self.State.FLAGGED, reason)

    def exclude(self, reason: str) -> None:
        """recorded → excluded: a timestamped event; the answer stays readable. Raises LeaseLost."""
        with transaction.atomic():
            moved = Annotation.objects.filter(pk=self.pk, state=self.State.RECORDED).update(
                state=self.State.EXCLUDED, reason=reason, ended_at=timezone.now()
            )
            if moved != 1:
                self.refresh_from_db()
                raise LeaseLost(
                    f"Only a recorded annotation can be excluded; this is {self.state}."
                )
            Comparison.objects.filter(pk=self.comparison_id).update(open_slots=F("open_slots") + 1)
        self.refresh_from_db()

    def heartbeat(self) -> None:
        """Extend the lease: the annotator is still at it. Raises LeaseLost once it has ended."""
        renewed = Annotation.objects.filter(
            pk=self.pk, state=self.State.LEASED, lease_expires_at__gt=timezone.now()
        ).update(lease_expires_at=timezone.now() + timedelta(seconds=settings.LEASE_SECONDS))
        self.refresh_from_db()
        if renewed != 1:
            raise LeaseLost("Your reservation of this comparison has ended.")

    def _end(self, state: str, reason: str) -> None:
        if self._release(state, reason) != 1:
            self.refresh_from_db()
            if self.state != state:
                raise LeaseLost(f"This comparison was already {self.state}.")
        self.refresh_from_db()

    def _release(self, state: str, reason: str = "") -> int:
        """leased → state, and the slot is free again; returns how many rows moved (0 or 1)."""
        with transaction.atomic():
            leased = Annotation.objects.filter(pk=self.pk, state=self.State.LEASED)
            if state == self.State.EXPIRED:
                leased = leased.filter(lease_expires_at__lte=timezone.now())
            moved = leased.update(state=state, reason=reason[:500], ended_at=timezone.now())
            if moved:
                Comparison.objects.filter(pk=self.comparison_id).update(
                    open_slots=F("open_slots") + 1
                )
        return moved
