"""What a written text gets from a reviewer, corrected by a further row until it is announced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from annotation_app.models.attempt import Attempt, AttemptAnswer
from annotation_app.models.refusals import NotAssigned, WrongState

if TYPE_CHECKING:
    from annotation_app.models.person import Person


class GradeQuerySet(models.QuerySet["Grade"]):
    def standing(self) -> GradeQuerySet:
        """Those that no correction has superseded."""
        return self.filter(superseded_at=None)

    def not_announced(self, reviewer: Person) -> GradeQuerySet:
        """Standing ones that may still be corrected, the newest first; none of one's own texts."""
        waiting = self.standing().filter(answer__attempt__state=Attempt.State.WAITING)
        return waiting.exclude(answer__attempt__person=reviewer).order_by("-pk")


class Grade(models.Model):
    """One grade of one text. Its row never changes but for the time when another superseded it."""

    answer = models.ForeignKey(AttemptAnswer, models.PROTECT, related_name="grades")
    value = models.PositiveSmallIntegerField(help_text="1 to 5")
    comment = models.TextField(blank=True, default="")
    graded_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    graded_at = models.DateTimeField(auto_now_add=True)
    superseded_at = models.DateTimeField(null=True)

    objects = GradeQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="grade_one_standing", fields=["answer"], condition=Q(superseded_at=None)
            ),
            models.CheckConstraint(
                name="grade_value_known", condition=Q(value__gte=1, value__lte=5)
            ),
        ]

    def __str__(self) -> str:
        return f"grade {self.value} of answer {self.answer_id}"

    @classmethod
    def give(cls, answer: AttemptAnswer, value: int, by: Person, comment: str = "") -> None:
        """The first grade; the last text's decides the attempt. The same again changes nothing.

        Raises NotAssigned for one's own text, and WrongState where another grade stands.
        """
        _refuse_own(answer, by)
        with transaction.atomic():
            is_waiting = answer.attempt.waits()
            standing = cls.objects.standing().filter(answer=answer).first()
            if standing is not None:
                return standing._refuse_another(value, by)
            if not is_waiting or answer.answered_at is None:
                raise WrongState("This text does not wait for a grade.")
            cls.objects.create(answer=answer, value=value, graded_by=by, comment=comment)
            answer.attempt.decide_by_grades()

    def _refuse_another(self, value: int, by: Person) -> None:
        if (self.value, self.graded_by_id) != (value, by.pk):
            raise WrongState(f"This text was graded {self.value} already; yours was not stored.")

    def correct(self, value: int, by: Person, comment: str = "") -> None:
        """Another grade in place of this one, while the result is not announced.

        The same again changes nothing. Raises NotAssigned for one's own text, and WrongState.
        """
        attempt = self.answer.attempt
        _refuse_own(self.answer, by)
        with transaction.atomic():
            if not attempt.waits():
                raise WrongState(_announced(attempt))
            mine = Grade.objects.standing().filter(pk=self.pk)
            if mine.update(superseded_at=timezone.now()) != 1:
                standing = Grade.objects.standing().get(answer=self.answer_id)
                return standing._refuse_another(value, by)
            Grade.objects.create(answer=self.answer, value=value, graded_by=by, comment=comment)


def _refuse_own(answer: AttemptAnswer, by: Person) -> None:
    if answer.attempt.person_id == by.pk:
        raise NotAssigned("Nobody grades their own texts.")


def _announced(attempt: Attempt) -> str:
    """Why a grade stands for good, and what can be done instead."""
    assert attempt.decided_at is not None, attempt
    instead = "On the results page its author may be allowed another attempt."
    if attempt.state == Attempt.State.PASSED:
        instead = "A skill that it gave can be taken by an administrator, on its author's page."
    return (
        f"The result was announced at {attempt.decided_at:%H:%M:%S} UTC on "
        f"{attempt.decided_at:%-d %B}: {attempt.state}. So the grade stands. {instead}"
    )
