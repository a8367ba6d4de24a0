"""Comparisons with a known answer, mixed in to measure skill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.utils import timezone

from annotation_app.models.choices import Side, one_of
from annotation_app.models.comparison import Comparison
from annotation_app.models.refusals import WrongState

if TYPE_CHECKING:
    from annotation_app.models.person import Person


class ReferenceQuerySet(models.QuerySet["Reference"]):
    def served(self) -> ReferenceQuerySet:
        return self.filter(retired_at__isnull=True)


class Reference(models.Model):
    """The answer that a comparison should get: the better response, and why.

    Who is given the comparison as a reference answers under that purpose, so it becomes no pair.
    What was recorded of it as work before stays work.
    """

    comparison = models.OneToOneField(Comparison, models.PROTECT, related_name="reference")
    choice = models.CharField(max_length=1, choices=Side.choices)
    reason = models.CharField(max_length=500)
    set_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True)

    objects = ReferenceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="reference_choice_known", condition=one_of("choice", ["a", "b"])
            )
        ]

    def __str__(self) -> str:
        return f"reference answer {self.choice} of comparison {self.comparison_id}"

    @classmethod
    def set(cls, comparison: Comparison, choice: str, reason: str, by: Person) -> Reference:
        """Say that the answer is known. Once served, a reference is retired, not changed.

        Raises WrongState for a comparison that has one already, or that nobody could be served.
        """
        if comparison.unusable_reason:
            raise WrongState(f"{comparison} is never served: {comparison.unusable_reason}.")
        reference, created = cls.objects.get_or_create(
            comparison=comparison, defaults={"choice": choice, "reason": reason, "set_by": by}
        )
        if not created:
            raise WrongState(f"The answer to {comparison} is already set: {reference.choice}.")
        return reference

    def retire(self) -> None:
        """Serve it no more; what was answered stays and counts."""
        if self.retired_at is None:
            self.retired_at = timezone.now()
            self.save(update_fields=["retired_at"])
