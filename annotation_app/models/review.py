"""What a reviewer made of an answer: it stands, it is corrected, it is out, or it goes back."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from annotation_app.models.annotation import Annotation, AnnotationQuerySet
from annotation_app.models.batch import Batch
from annotation_app.models.choices import one_of
from annotation_app.models.refusals import BatchClosed, NotAssigned, WrongState
from annotation_app.models.remark import Remark

if TYPE_CHECKING:
    from annotation_app.models.person import Person

NEWEST = 300  # of those that wait; one of them is drawn, so that two reviewers rarely meet


class ReviewQuerySet(models.QuerySet["Review"]):
    def standing(self) -> ReviewQuerySet:
        """Those that their reviewer has not undone."""
        return self.filter(undone_at=None)

    def newest_of(self, reviewer: Person) -> Review | None:
        """The last decision of this reviewer, while there is time to undo it."""
        since = timezone.now() - timedelta(seconds=settings.UNDO_SECONDS)
        mine = self.standing().filter(reviewer=reviewer, created_at__gt=since)
        return mine.order_by("-pk").first()

    def sent_back_to(self, annotator: Person) -> ReviewQuerySet:
        """Those that this annotator may still answer by judging again."""
        return (
            self.standing()
            .filter(
                annotator=annotator,
                decision=Review.Decision.SENT_BACK,
                annotation__state=Annotation.State.RECORDED,
                annotation__batch__state__in=Batch.COLLECTING,
            )
            .order_by("pk")
        )

    def feedback_for(self, annotator: Person) -> ReviewQuerySet:
        """What there is for this annotator to learn from: what is new to them first."""
        silent = Q(decision=Review.Decision.APPROVED, feedback="")
        is_new = models.ExpressionWrapper(Q(seen_at=None), models.BooleanField())
        found = self.standing().filter(~silent, annotator=annotator).alias(is_new=is_new)
        return found.order_by("-is_new", "-pk")

    def with_answers(self) -> ReviewQuerySet:
        """With what a list of them shows: the answer, its correction, the prompt and the batch."""
        return self.select_related(
            "annotation__superseded_by", "annotation__comparison__prompt",
            "annotation__batch",
        )  # fmt: skip

    def see(self, annotator: Person, oldest: int, newest: int) -> None:
        """The annotator has read their feedback, from one review to another."""
        unseen = self.filter(annotator=annotator, pk__range=(oldest, newest), seen_at=None)
        unseen.update(seen_at=timezone.now())


class Review(models.Model):
    """One reviewer's decision on one answer. It never changes; its reviewer may undo it.

    What was undone stays as a row; the answer then waits for another decision.
    """

    class Decision(models.TextChoices):
        APPROVED = "approved"
        EDITED = "edited"
        REJECTED = "rejected"
        SENT_BACK = "sent_back"

    annotation = models.ForeignKey(Annotation, models.PROTECT, related_name="reviews")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        related_name="reviews_received",
        help_text="whose answer it is; copied, so that their feedback is found at once",
    )
    reviewer = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="reviews")
    decision = models.CharField(max_length=10, choices=Decision.choices)
    feedback = models.CharField(max_length=1_000, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(null=True, help_text="when the annotator said so")
    undone_at = models.DateTimeField(null=True, help_text="when the reviewer took it back")

    objects = ReviewQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="review_one_standing", fields=["annotation"], condition=Q(undone_at=None)
            ),
            models.CheckConstraint(
                name="review_decision_known",
                condition=one_of("decision", ["approved", "edited", "rejected", "sent_back"]),
            ),
            models.CheckConstraint(
                name="review_refusal_says_why",
                condition=~Q(decision__in=["rejected", "sent_back"], feedback=""),
            ),
            models.CheckConstraint(
                name="review_of_someone_else", condition=~Q(annotator=models.F("reviewer"))
            ),
        ]
        indexes = [models.Index(fields=["reviewer", "-id"], name="review_newest_of")]

    def __str__(self) -> str:
        return f"review of {self.annotation_id} ({self.decision})"

    @classmethod
    def approve(cls, annotation: Annotation, by: Person, feedback: str = "") -> Review:
        """The answer stands. Raises as ``refuse`` does."""
        with transaction.atomic():
            return cls._decide(annotation, by, cls.Decision.APPROVED, feedback)

    @classmethod
    def edit(
        cls, annotation: Annotation, by: Person, feedback: str = "", **judgement: Any
    ) -> Review:
        """The reviewer's judgement takes the answer's place. Raises as ``refuse`` does.

        Raises WrongState too for the same judgement, and where the reviewer has an answer of their
        own to this comparison.
        """
        with transaction.atomic():
            review = cls._decide(annotation, by, cls.Decision.EDITED, feedback)
            review.annotation.correct(by, **judgement)
        return review

    @classmethod
    def reject(cls, annotation: Annotation, by: Person, feedback: str) -> Review:
        """The answer is out and its slot free again. Raises as ``refuse`` does."""
        with transaction.atomic():
            review = cls._decide(annotation, by, cls.Decision.REJECTED, feedback)
            review.annotation.exclude("rejected on review")
        return review

    @classmethod
    def send_back(cls, annotation: Annotation, by: Person, feedback: str) -> Review:
        """The answer stands until its author judges again. Raises as ``refuse`` does.

        Raises BatchClosed, and WrongState where the author can no longer sign in.
        """
        with transaction.atomic():
            review = cls._decide(annotation, by, cls.Decision.SENT_BACK, feedback)
            batch, annotator = review.annotation.batch, review.annotation.annotator
            if batch.state not in Batch.COLLECTING:
                raise BatchClosed(
                    f"{batch} is {batch.state}, so nobody can judge in it again: "
                    "correct this answer or reject it."
                )
            if not annotator.is_active:
                raise WrongState(
                    f"{annotator} is no longer here to judge again: "
                    "correct this answer or reject it."
                )
        return review

    def undo(self, by: Person) -> Annotation:
        """Take the decision back, once; returns the row that waits for another one.

        Raises NotAssigned for someone else's, and WrongState where it is late or something has
        followed from it.
        """
        if self.reviewer_id != by.pk:
            raise NotAssigned("Only the reviewer who decided can undo it.")
        with transaction.atomic():
            annotation = Annotation.objects.select_for_update().get(pk=self.annotation_id)
            self.refresh_from_db(fields=["undone_at"])
            if self.undone_at is None:
                self._refuse_undo(annotation)
                Review.objects.filter(pk=self.pk).update(undone_at=timezone.now())
                if self.decision in (self.Decision.EDITED, self.Decision.REJECTED):
                    Remark.repeat(annotation, annotation.restore())
        return annotation.newest()

    def _refuse_undo(self, annotation: Annotation) -> None:
        """Raises WrongState where it is too late, or the answer has moved on by itself."""
        if timezone.now() > self.created_at + timedelta(seconds=settings.UNDO_SECONDS):
            minutes = settings.UNDO_SECONDS // 60
            raise WrongState(f"A decision can be undone for {minutes} minutes; this one is older.")
        left_by = {
            self.Decision.EDITED: Annotation.State.SUPERSEDED,
            self.Decision.REJECTED: Annotation.State.EXCLUDED,
        }.get(self.Decision(self.decision), Annotation.State.RECORDED)
        if annotation.state == left_by:
            return
        if annotation.state == Annotation.State.SUPERSEDED:
            raise WrongState(f"{annotation.annotator} has judged again since: that answer stands.")
        raise WrongState(f"The answer is {annotation.state} by now, so the decision stays.")

    @classmethod
    def refuse(cls, annotation: Annotation, by: Person) -> None:
        """Raises NotAssigned, or WrongState, where this person may not decide on this answer."""
        if annotation.annotator_id == by.pk:
            raise NotAssigned("This answer is your own: someone else reviews it.")
        mine = Annotation.objects.filter(comparison=annotation.comparison_id, annotator=by)
        if mine.filter(state=Annotation.State.LEASED).exists():
            raise NotAssigned("This comparison is reserved for you to judge: do that first.")
        if annotation.purpose != Annotation.Purpose.WORK:
            raise WrongState(f"Only work is reviewed; this is a {annotation.purpose} answer.")
        reviews = cls.objects.standing().select_related("reviewer")
        found = reviews.filter(annotation=annotation).first()
        if found is not None:
            who = "you" if found.reviewer_id == by.pk else str(found.reviewer)
            raise WrongState(
                f"This answer has been reviewed already: {found.get_decision_display().lower()} "
                f"by {who} at {found.created_at:%H:%M:%S} UTC on {found.created_at:%-d %B}."
            )
        if annotation.state != Annotation.State.RECORDED:
            state = annotation.state
            raise WrongState(f"Only a stored answer can be reviewed; this one is {state}.")

    @classmethod
    def _decide(cls, annotation: Annotation, by: Person, decision: str, feedback: str) -> Review:
        """Keep the answer from moving, and write the decision on it."""
        locked = (
            Annotation.objects.select_for_update(of=("self",))
            .select_related("batch", "annotator")
            .get(pk=annotation.pk)
        )
        cls.refuse(locked, by)
        return cls.objects.create(
            annotation=locked,
            annotator=locked.annotator,
            reviewer=by,
            decision=decision,
            feedback=feedback,
        )


def draw(waiting: AnnotationQuerySet) -> int | None:
    """One of the newest answers that wait, at random; those that may be sent back come first."""
    collecting = list(Batch.objects.filter(state__in=Batch.COLLECTING).values_list("pk", flat=True))
    for rows in (waiting.filter(batch__in=collecting), waiting):
        newest = list(rows.order_by("-pk").values_list("pk", flat=True)[:NEWEST])
        if newest:
            return secrets.choice(newest)
    return None
