"""What an annotator may add to an answer: a rating, reasons and a comment."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxLengthValidator
from django.db import models
from django.db.models import Q

from annotation_app.models.annotation import Annotation
from annotation_app.models.refusals import LeaseLost

RATINGS = range(1, 8)  # 1: worst … 7: best
LONGEST_COMMENT = 2_000


class Reason(models.TextChoices):
    """Why a response is good or bad."""

    USEFUL = "useful"
    COMPLETE = "complete"
    CREATIVE = "creative"
    CLEAR_FORMATTING = "clear_formatting", "Clear formatting"
    INCORRECT = "incorrect"
    SUPERFICIAL = "superficial"
    INSTRUCTIONS_NOT_FOLLOWED = "instructions_not_followed", "Instructions not followed"
    UNSAFE = "unsafe"
    OTHER = "other"


class Remark(models.Model):
    """One row for an annotation that came with more than its judgement; most come without."""

    annotation = models.OneToOneField(Annotation, models.PROTECT, related_name="remark")
    a_rating = models.PositiveSmallIntegerField(null=True)
    b_rating = models.PositiveSmallIntegerField(null=True)
    a_tags = models.JSONField(default=list, help_text="reasons, in the order of Reason")
    b_tags = models.JSONField(default=list)
    comment = models.TextField(
        blank=True, default="", validators=[MaxLengthValidator(LONGEST_COMMENT)]
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                name=f"remark_{side}_rating_within_scale",
                condition=Q(**{f"{side}_rating": None}) | Q(**{f"{side}_rating__range": (1, 7)}),
            )
            for side in ("a", "b")
        ]

    def __str__(self) -> str:
        return f"remark on annotation {self.annotation_id}"

    @classmethod
    def repeat(cls, annotation: Annotation, restored: Annotation) -> None:
        """What was noted to an answer, beside the row that stands for it once more."""
        for remark in cls.objects.filter(annotation=annotation):
            remark.pk, remark.annotation = None, restored
            remark.save(force_insert=True)

    @classmethod
    def leave(cls, annotation: int, remark: dict[str, Any]) -> None:
        """Store it beside its stored answer, once. The same again changes nothing.

        Raises LeaseLost for another one than the one that is stored.
        """
        stored, _ = cls.objects.get_or_create(annotation_id=annotation, defaults=remark)
        if any(getattr(stored, name) != value for name, value in remark.items()):
            raise LeaseLost(
                "The note that you sent with this answer before stands, and this other one was "
                "not stored. To change a note, undo its answer."
            )
