"""The chat checkpoints that annotators sample from."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint
from annotation_app.models.refusals import NothingReleased


class ReleaseQuerySet(models.QuerySet["Release"]):
    def current(self) -> ReleaseQuerySet:
        """Not withdrawn, newest first."""
        return self.filter(withdrawn_at__isnull=True).order_by("-released_at", "-pk")


class Release(models.Model):
    """A chat checkpoint in front of annotators, until it is withdrawn."""

    checkpoint = models.ForeignKey(Checkpoint, models.PROTECT, related_name="releases")
    weight = models.FloatField(default=1.0)
    released_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    released_at = models.DateTimeField(auto_now_add=True)
    withdrawn_at = models.DateTimeField(null=True)

    objects = ReleaseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="release_checkpoint_once",
                fields=["checkpoint"],
                condition=Q(withdrawn_at__isnull=True),
            ),
            models.CheckConstraint(name="release_weight_positive", condition=Q(weight__gt=0)),
        ]

    def __str__(self) -> str:
        return f"release of {self.checkpoint}"

    def variant(self, temperature: float, top_p: float | None = None) -> Variant:
        """This release at a temperature."""
        variant, _ = Variant.objects.get_or_create(
            release=self,
            temperature=temperature,
            top_p=settings.TOP_P if top_p is None else top_p,
            defaults={"sampler_url": "", "served_model_id": ""},
        )
        return variant

    def withdraw(self) -> None:
        self.withdrawn_at = timezone.now()
        self.save(update_fields=["withdrawn_at"])


class Variant(models.Model):
    """A release with a temperature, and where it is served."""

    release = models.ForeignKey(Release, models.PROTECT, related_name="variants")
    temperature = models.FloatField()
    top_p = models.FloatField(default=1.0)
    sampler_url = models.CharField(max_length=255, blank=True, help_text="empty: SAMPLER_URL")
    served_model_id = models.CharField(
        max_length=255, blank=True, help_text="empty: the checkpoint's folder"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(name="variant_once", fields=["release", "temperature", "top_p"])
        ]

    def __str__(self) -> str:
        return f"{self.release.checkpoint} at temperature {self.temperature:g}"

    @classmethod
    def pair(cls) -> tuple[Variant, Variant]:
        """Two variants to compare: the newest release and the one before, at two temperatures.

        Which of the two gets the higher temperature, and which comes first, is drawn at random.
        Raises NothingReleased before the first release.
        """
        releases = list(Release.objects.current().select_related("checkpoint")[:2])
        if not releases:
            raise NothingReleased("No chat model is released yet; a researcher has to release one.")
        new, previous = releases[0], releases[-1]
        temperatures = [settings.LOW_TEMPERATURE, settings.HIGH_TEMPERATURE]
        pair = [new, previous]
        shuffle = secrets.SystemRandom().shuffle
        shuffle(temperatures)
        shuffle(pair)
        first, second = pair
        return first.variant(temperatures[0]), second.variant(temperatures[1])
