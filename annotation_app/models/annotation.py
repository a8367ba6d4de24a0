"""The answer: one annotator's lease on a comparison, and what they made of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from annotation_app.models import leases
from annotation_app.models.batch import Batch
from annotation_app.models.choices import Side, Strength, one_of
from annotation_app.models.comparison import Comparison
from annotation_app.models.refusals import LeaseLost, WrongState

if TYPE_CHECKING:
    from annotation_app.models.person import Person

CHUNK = 500


class AnnotationQuerySet(models.QuerySet["Annotation"]):
    def live(self) -> AnnotationQuerySet:
        """Those that occupy a slot of their comparison."""
        return self.filter(state__in=[Annotation.State.LEASED, Annotation.State.RECORDED])

    def recorded(self) -> AnnotationQuerySet:
        return self.filter(state=Annotation.State.RECORDED)

    def work(self) -> AnnotationQuerySet:
        """Those that may become pairs: what people judged, or a reviewer's correction of it."""
        return self.recorded().filter(purpose__in=Annotation.BECOMES_PAIR)

    def without_corrections(self) -> AnnotationQuerySet:
        """What people judged themselves; a reviewer's correction is no work of theirs."""
        return self.exclude(purpose=Annotation.Purpose.REVIEW)

    def turns_waiting(self, annotator: Person) -> AnnotationQuerySet:
        """Turns of this person's own dialogues that are reserved for them to judge."""
        return self.filter(
            annotator=annotator, state=Annotation.State.LEASED,
            lease_expires_at__gt=timezone.now(), comparison__prompt__dialogue__annotator=annotator,
        )  # fmt: skip

    def reviewable(self) -> AnnotationQuerySet:
        """Answers that were given here, ever, to comparisons that can be judged."""
        given = self.filter(purpose=Annotation.Purpose.WORK, recorded_at__isnull=False)
        return given.filter(comparison__unusable_reason="", comparison__source_format="")

    def to_review(self, by: Person) -> AnnotationQuerySet:
        """Those that this person may review and nobody has."""
        from annotation_app.models.review import Review

        reviewed = Review.objects.standing().filter(annotation=OuterRef("pk"))
        reserved = Annotation.objects.filter(
            comparison=OuterRef("comparison"), annotator=by, state=Annotation.State.LEASED
        )
        return (
            self.reviewable()
            .recorded()
            .filter(~Exists(reviewed), ~Exists(reserved))
            .exclude(annotator=by)
        )

    def lease_next(self, annotator: Person, batch: Batch, beside: int = 0) -> Annotation | None:
        """Reserve the next comparison of an open batch: see ``leases.lease_next``."""
        leased = leases.lease_next(annotator.pk, batch.pk, beside)
        if leased is None:
            return None
        return self.select_related(
            "batch", "comparison__prompt", "comparison__response_a", "comparison__response_b",
        ).get(pk=leased)  # fmt: skip

    def lease(self, comparison: Comparison, annotator: Person, shown_left: str = "") -> Annotation:
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
                batch_id=comparison.batch_id,
                annotator=annotator,
                slot=slot,
                overlap=comparison.overlap,
                shown_left=shown_left or secrets.choice(Side.values),
                leased_at=now,
                lease_expires_at=now + timedelta(seconds=settings.LEASE_SECONDS),
            )

    def exclude_each(self, reason: str) -> int:
        """recorded → excluded for all of these answers of one annotator; returns how many."""
        with transaction.atomic():
            rows = list(self.recorded().select_for_update().values_list("pk", "comparison"))
            for start in range(0, len(rows), CHUNK):
                pks, comparisons = zip(*rows[start : start + CHUNK], strict=True)
                Annotation.objects.filter(pk__in=pks).update(
                    state=Annotation.State.EXCLUDED, reason=reason[:500], ended_at=timezone.now()
                )
                free = Comparison.objects.filter(pk__in=comparisons)
                free.update(open_slots=F("open_slots") + 1)
        return len(rows)

    def expire(self) -> int:
        """End every lease whose time has run out; returns how many."""
        ended = 0
        overdue = self.filter(state=Annotation.State.LEASED, lease_expires_at__lte=timezone.now())
        for annotation in overdue.order_by("pk"):
            ended += annotation._release(Annotation.State.EXPIRED, overdue=overdue)
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
        REVIEW = "review"

    BECOMES_PAIR = (Purpose.WORK, Purpose.REVIEW)  # each in a slot of its comparison

    class Choice(models.TextChoices):
        A = "a"
        B = "b"
        TIE = "tie", "Tie (imports only)"

    comparison = models.ForeignKey(Comparison, models.PROTECT, related_name="annotations")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="annotations"
    )
    batch = models.ForeignKey(
        Batch, models.PROTECT, related_name="annotations", help_text="in which it was given"
    )
    purpose = models.CharField(max_length=20, choices=Purpose.choices, default=Purpose.WORK)
    state = models.CharField(max_length=12, choices=State.choices, default=State.LEASED)
    slot = models.PositiveSmallIntegerField(null=True, help_text="only work takes one")
    overlap = models.PositiveSmallIntegerField(default=1, help_text="copied, so slot is bounded")
    shown_left = models.CharField(max_length=1, choices=Side.choices)
    choice = models.CharField(max_length=3, choices=Choice.choices, blank=True, default="")
    strength = models.CharField(max_length=20, choices=Strength.choices, blank=True, default="")
    a_safe = models.BooleanField(null=True)
    b_safe = models.BooleanField(null=True)
    active_seconds = models.FloatField(null=True, help_text="from first sight, less idle ones")
    idle_seconds = models.FloatField(null=True, help_text="without a sign of the annotator")
    a_seconds = models.FloatField(null=True, help_text="looking at response a")
    b_seconds = models.FloatField(null=True, help_text="looking at response b")
    guideline_version = models.PositiveIntegerField(default=1)
    reason = models.CharField(max_length=500, blank=True, default="")
    leased_at = models.DateTimeField()
    lease_expires_at = models.DateTimeField()
    recorded_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    supersedes = models.OneToOneField(
        "self", models.PROTECT, null=True, related_name="superseded_by"
    )

    objects = AnnotationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="annotation_one_slot_per_person",
                fields=["comparison", "annotator"],
                condition=Q(state__in=["leased", "recorded"], slot__isnull=False),
            ),
            models.UniqueConstraint(
                name="annotation_one_probe_per_person",
                fields=["comparison", "annotator", "purpose"],
                condition=Q(state__in=["leased", "recorded"], slot__isnull=True),
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
                name="annotation_purpose_known",
                condition=one_of("purpose", ["work", "reference", "re-serve", "review"]),
            ),
            models.CheckConstraint(
                name="annotation_pair_takes_a_slot",
                condition=Q(purpose__in=["work", "review"], slot__isnull=False)
                | (~Q(purpose__in=["work", "review"]) & Q(slot__isnull=True)),
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
            models.Index(fields=["annotator", "leased_at"], name="annotation_person_day"),
        ]

    def __str__(self) -> str:
        return f"annotation {self.pk} ({self.state})"

    def record(
        self,
        *,
        choice: str,
        strength: str,
        a_safe: bool | None = None,
        b_safe: bool | None = None,
        guideline_version: int | None = None,
        **seconds: float | None,
    ) -> None:
        """Fill the row, once. Sending the same again changes nothing.

        After the lease ran out the answer takes a slot that is still free; without one it is kept
        as surplus. Raises LeaseLost for a skipped, flagged or withdrawn annotation, and
        for another answer than the one that is stored.
        """
        judgement = (choice, strength, a_safe, b_safe)
        if self._stands(judgement):
            return
        answer = {
            "choice": choice,
            "strength": strength,
            "a_safe": a_safe,
            "b_safe": b_safe,
            **seconds,
            "guideline_version": guideline_version or self.guideline_version,
            "recorded_at": timezone.now(),
        }
        mine = Annotation.objects.filter(pk=self.pk)
        recorded = mine.filter(state=self.State.LEASED).update(state=self.State.RECORDED, **answer)
        if recorded != 1 and not self._record_late(answer):
            self.refresh_from_db()
            if not self._stands(judgement):
                raise LeaseLost(f"This comparison was {self.state}; the answer was not stored.")
        self.refresh_from_db()

    def _stands(self, judgement: tuple[str, str, bool | None, bool | None]) -> bool:
        """Whether this judgement is stored already. Raises LeaseLost where another one is."""
        if self.state not in (self.State.RECORDED, self.State.SURPLUS, self.State.SUPERSEDED):
            return False
        if judgement != (self.choice, self.strength, self.a_safe, self.b_safe):
            raise LeaseLost(
                f"Your answer of {self.recorded_at:%H:%M:%S} UTC to this comparison stands, and "
                "this other one was not stored. To change an answer, undo it."
            )
        return True

    def _record_late(self, answer: Mapping[str, object]) -> bool:
        """Expired: take a free slot while the batch still collects, or else be surplus."""
        expired = Annotation.objects.filter(pk=self.pk, state=self.State.EXPIRED)
        if self.batch.state in Batch.COLLECTING:
            try:
                with transaction.atomic():
                    slot = self._take_free_slot()
                    if expired.update(state=self.State.RECORDED, slot=slot, **answer) == 1:
                        return True
                    raise IntegrityError(f"{self} has not expired")
            except IntegrityError:
                pass  # no slot is free, or the same person holds another one by now
        return expired.update(state=self.State.SURPLUS, **answer) == 1

    def _take_free_slot(self) -> int | None:
        """Count a slot as taken; None for what is no work. Raises IntegrityError without one."""
        if self.slot is None:
            return None
        # The comparison first, as the draw does: in the other order the two can deadlock.
        free = Comparison.objects.filter(pk=self.comparison_id, open_slots__gt=0)
        if free.update(open_slots=F("open_slots") - 1) != 1:
            raise IntegrityError(f"no slot of comparison {self.comparison_id} is free")
        live = Annotation.objects.filter(comparison=self.comparison_id).live()
        taken = set(live.values_list("slot", flat=True))
        slots: list[int] = [self.slot, *range(self.overlap)]
        return next(slot for slot in slots if slot not in taken)

    def skip(self, reason: str = "") -> None:
        """leased → skipped: someone else gets it. Raises LeaseLost."""
        self._end(self.State.SKIPPED, reason)

    def flag(self, reason: str) -> None:
        """leased → flagged: the comparison itself is at fault. Raises LeaseLost."""
        self._end(self.State.FLAGGED, reason)

    def release(self) -> None:
        """leased → expired, at once: it was reserved ahead and is not needed."""
        self._release(self.State.EXPIRED)
        self.refresh_from_db()

    def refuse_late_revision(self) -> None:
        """Raises LeaseLost once a recorded answer can no longer be replaced by its author.

        That is after UNDO_SECONDS, unless a reviewer has sent it back; a correction never is.
        """
        if self.purpose == self.Purpose.REVIEW:
            raise LeaseLost("This is a correction: undo it on the page of its review.")
        if self.state != self.State.RECORDED or self.recorded_at is None:
            raise LeaseLost(f"Only a stored answer can be undone; this one is {self.state}.")
        if self.batch.state not in Batch.COLLECTING:
            raise LeaseLost(f"{self.batch} is closed; its answers stand.")
        late = timezone.now() > self.recorded_at + timedelta(seconds=settings.UNDO_SECONDS)
        if late and not self.is_sent_back():
            minutes = settings.UNDO_SECONDS // 60
            raise LeaseLost(f"An answer can be undone for {minutes} minutes; this one is older.")

    def is_sent_back(self) -> bool:
        """Whether a reviewer has asked its author to judge again."""
        from annotation_app.models.review import Review

        sent_back = Review.objects.standing().filter(decision=Review.Decision.SENT_BACK)
        return sent_back.filter(annotation=self.pk).exists()

    def revise(self, **answer: Any) -> Annotation:
        """recorded → superseded, and a new recorded row in its slot, which is returned.

        Sending the same again returns the row that is there. Raises LeaseLost as
        ``refuse_late_revision`` does.
        """
        mine = Annotation.objects.filter(supersedes=self, annotator=self.annotator_id)
        if found := mine.first():
            return found
        self.refuse_late_revision()
        revised = self._supersede(self.annotator_id, self.Purpose(self.purpose), answer)
        if revised is not None:
            return revised
        self.refresh_from_db()
        if (found := mine.first()) is None:
            raise LeaseLost(f"Only a stored answer can be undone; this one is {self.state}.")
        return found

    def correct(self, by: Person, **judgement: Any) -> Annotation:
        """recorded → superseded by a reviewer's judgement in its slot, which is returned.

        Raises WrongState where that is the same judgement, and where the reviewer has one already.
        """
        if all(getattr(self, name) == value for name, value in judgement.items()):
            raise WrongState("That is what the annotator said: approve it, or change something.")
        try:
            with transaction.atomic():
                corrected = self._supersede(by.pk, self.Purpose.REVIEW, judgement)
        except IntegrityError as error:
            raise WrongState(
                "You have an answer of your own to this comparison, so another one of yours "
                "cannot take the place of this: approve it, send it back or reject it."
            ) from error
        if corrected is None:
            self.refresh_from_db()
            raise WrongState(f"Only a stored answer can be corrected; this one is {self.state}.")
        return corrected

    def newest(self) -> Annotation:
        """The last of the rows that took its place one after the other; itself without any."""
        found = self
        while (later := Annotation.objects.filter(supersedes=found).first()) is not None:
            found = later
        return found

    def restore(self) -> Annotation:
        """The same judgement once more, after a reviewer's decision on this row was undone.

        A new row: in the place of the correction, or in a free slot where this one was excluded.
        Its seconds stay with this row, so that hours count once. Raises WrongState.
        """
        given = {name: getattr(self, name) for name in
                 ("choice", "strength", "a_safe", "b_safe", "guideline_version")}  # fmt: skip
        given |= {"recorded_at": self.recorded_at}
        with transaction.atomic():
            if self.state == self.State.EXCLUDED:
                return self._return_to_a_slot(given)
            correction = Annotation.objects.get(supersedes=self)
            restored = correction._supersede(self.annotator_id, self.Purpose.WORK, given)
        if restored is None:
            raise WrongState(
                f"Your correction is {correction.state} by now, so it can be undone no more."
            )
        return restored

    def _return_to_a_slot(self, given: dict[str, Any]) -> Annotation:
        try:
            slot = self._take_free_slot()
        except IntegrityError as error:
            raise WrongState(
                "Someone else has been given its place since, so the rejection stays."
            ) from error
        return self._follow(self.annotator_id, self.Purpose.WORK, given | {"slot": slot})

    def _supersede(
        self, annotator: int, purpose: Purpose, answer: dict[str, Any]
    ) -> Annotation | None:
        """A new recorded row in the place of this one; None where this one is not recorded."""
        now = timezone.now()
        with transaction.atomic():
            stored = Annotation.objects.filter(pk=self.pk, state=self.State.RECORDED)
            if stored.update(state=self.State.SUPERSEDED, ended_at=now) != 1:
                self.refresh_from_db()
                return None
            return self._follow(annotator, purpose, answer)

    def _follow(self, annotator: int, purpose: Purpose, answer: dict[str, Any]) -> Annotation:
        kept = ("comparison_id", "batch_id", "slot", "overlap", "shown_left", "leased_at",
                "lease_expires_at")  # fmt: skip
        answer["guideline_version"] = answer.get("guideline_version") or self.guideline_version
        row = {name: getattr(self, name) for name in kept} | {"recorded_at": timezone.now()}
        return Annotation.objects.create(
            **(row | answer), annotator_id=annotator, purpose=purpose, supersedes=self,
            state=self.State.RECORDED,
        )  # fmt: skip

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
            self._free_slot()
        self.refresh_from_db()

    def heartbeat(self) -> bool:
        """Extend the lease: the annotator is still at it. False where it ends as it stands, since
        its batch is closing: a page that is left open does not keep it from that.

        Raises LeaseLost once it has ended.
        """
        now = timezone.now()
        mine = Annotation.objects.filter(
            pk=self.pk, state=self.State.LEASED, lease_expires_at__gt=now
        )
        until = now + timedelta(seconds=settings.LEASE_SECONDS)
        renewed = mine.filter(batch__state=Batch.State.OPEN).update(lease_expires_at=until)
        self.refresh_from_db()
        if renewed != 1 and not mine.exists():
            raise LeaseLost("Your reservation of this comparison has ended.")
        return renewed == 1

    def _end(self, state: str, reason: str) -> None:
        if self._release(state, reason) != 1:
            self.refresh_from_db()
            if self.state != state:
                raise LeaseLost(f"This comparison was already {self.state}.")
        self.refresh_from_db()

    def _release(
        self, state: str, reason: str = "", overdue: AnnotationQuerySet | None = None
    ) -> int:
        """leased → state, and the slot is free again; returns how many rows moved (0 or 1)."""
        with transaction.atomic():
            rows = (
                Annotation.objects.filter(state=self.State.LEASED) if overdue is None else overdue
            )
            moved = rows.filter(pk=self.pk).update(
                state=state, reason=reason[:500], ended_at=timezone.now()
            )
            if moved:
                self._free_slot()
        return moved

    def _free_slot(self) -> None:
        if self.slot is not None:
            mine = Comparison.objects.filter(pk=self.comparison_id)
            mine.update(open_slots=F("open_slots") + 1)
