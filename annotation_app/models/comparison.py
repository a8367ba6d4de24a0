"""The question: one prompt with two responses under one criterion."""

from __future__ import annotations

import random

from django.db import models
from django.db.models import F, Q

from annotation_app.models.batch import Batch
from annotation_app.models.checkpoint import Checkpoint
from annotation_app.models.choices import Criterion, Side, one_of
from annotation_app.models.dialogue import Prompt, Response


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def usable(self) -> ComparisonQuerySet:
        return self.filter(unusable_reason="")

    def still_asked(self, checkpoint: Checkpoint) -> ComparisonQuerySet:
        """Those of open batches that hold an answer of this model and go on being served."""
        held = Q(response_a__checkpoint=checkpoint) | Q(response_b__checkpoint=checkpoint)
        return self.usable().filter(held, batch__state=Batch.State.OPEN, open_slots__gt=0)

    def unanimous(self) -> ComparisonQuerySet:
        """Judged by several, all clearly for the same response; newest first, no references.

        Adds ``preferred`` and ``judged``.
        """
        work = Q(annotations__purpose__in=["work", "review"], annotations__state="recorded")
        clearly = Q(annotations__strength__in=["significantly_better", "better"])
        return (
            self.usable()
            .filter(work, overlap__gt=1, reference__isnull=True)
            .annotate(
                judged=models.Count("annotations"),
                clear=models.Count("annotations", filter=clearly),
                preferred=models.Min("annotations__choice"),
                most=models.Max("annotations__choice"),
            )
            .filter(judged__gt=1, clear=F("judged"), preferred=F("most"))
            .exclude(preferred="tie")
            .order_by("-pk")
        )


class Comparison(models.Model):
    """Two responses a and b to the same prompt; which stands left is the annotation's business."""

    batch = models.ForeignKey(Batch, models.PROTECT, related_name="comparisons")
    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="comparisons")
    response_a = models.ForeignKey(Response, models.PROTECT, related_name="+")
    response_b = models.ForeignKey(Response, models.PROTECT, related_name="+")
    continued_with = models.CharField(max_length=1, choices=Side.choices, blank=True, default="")
    overlap = models.PositiveSmallIntegerField(default=1)
    open_slots = models.PositiveSmallIntegerField(default=1)
    priority = models.IntegerField(default=0)
    unusable_reason = models.CharField(max_length=120, blank=True, default="")
    source = models.CharField(max_length=60, default="collected")
    source_format = models.CharField(max_length=20, blank=True, default="")
    source_hash = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ComparisonQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="comparison_imported_once",
                fields=["source_format", "criterion", "source_hash"],
                condition=~Q(source_hash=""),
            ),
            models.CheckConstraint(
                name="comparison_two_responses", condition=~Q(response_a=F("response_b"))
            ),
            models.CheckConstraint(
                name="comparison_open_slots_within_overlap",
                condition=Q(open_slots__lte=F("overlap")),
            ),
            models.CheckConstraint(
                name="comparison_criterion_known",
                condition=one_of("criterion", ["helpfulness", "safety"]),
            ),
            models.CheckConstraint(
                name="comparison_continued_with_known",
                condition=one_of("continued_with", ["", "a", "b"]),
            ),
        ]
        indexes = [
            models.Index(
                fields=["batch", "-priority", "id"],
                name="comparison_drawable",
                condition=Q(open_slots__gt=0, unusable_reason=""),
            ),
            models.Index(fields=["criterion", "batch"], name="comparison_criterion_batch"),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"

    def response(self, side: str) -> Response:
        return self.response_a if side == Side.A else self.response_b

    def response_id(self, side: str) -> int:
        return int(self.response_a_id if side == Side.A else self.response_b_id)

    def go_on_with(self, side: str) -> None:
        """The next turn continues this response; an undo after that does not change it."""
        Comparison.objects.filter(pk=self.pk).update(continued_with=side)

    @classmethod
    def pose(
        cls, batch: Batch, prompt: Prompt, response_a: Response, response_b: Response
    ) -> Comparison:
        """Ask this question in a batch; answers nobody could tell apart are never served."""
        overlap = batch.overlap
        if overlap == 1 and random.random() < batch.dual_share:
            overlap = 2
        return cls.objects.create(
            batch=batch,
            criterion=batch.criterion,
            prompt=prompt,
            response_a=response_a,
            response_b=response_b,
            overlap=overlap,
            open_slots=overlap,
            unusable_reason=unusable_reason(response_a.text, response_b.text),
        )


def unusable_reason(text_a: str, text_b: str) -> str:
    """Why two answers cannot be compared, or an empty string."""
    if not text_a.strip() or not text_b.strip():
        return "empty answer"
    if text_a.strip() == text_b.strip():
        return "identical answers"
    return ""
