"""Answers that nobody was shown: they were sampled again, and what was wrong is kept."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from annotation_app.models.release import Variant


class Resampled(models.Model):
    """One model output that was not served, and why."""

    variant = models.ForeignKey(Variant, models.PROTECT, related_name="resampled")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    messages = models.JSONField(help_text="[{role, content} …], ending with the user's message")
    text = models.TextField(blank=True)
    seed = models.BigIntegerField()
    finish_reason = models.CharField(max_length=20, blank=True)
    reason = models.CharField(max_length=60)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.reason}: {self.text[:60]}"
