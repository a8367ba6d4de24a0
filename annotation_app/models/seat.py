"""One person's place in one batch."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from annotation_app.models.batch import Batch


class Seat(models.Model):
    """Where a person stands in a batch: what was drawn last, and which side comes next.

    The row is also the lock that keeps two tabs of one person from drawing at the same time.
    """

    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="seats")
    batch = models.ForeignKey(Batch, models.PROTECT, related_name="seats")
    draws = models.PositiveIntegerField(default=0)
    sides = models.CharField(
        max_length=10, default="", help_text="the response that stands left, for ten draws"
    )
    last_priority = models.IntegerField(null=True, help_text="of the comparison drawn last")
    last_comparison = models.BigIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="seat_once", fields=["annotator", "batch"]),
        ]

    def __str__(self) -> str:
        return f"seat of {self.annotator_id} in batch {self.batch_id}"
