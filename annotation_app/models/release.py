"""The chat checkpoints that annotators sample from."""

from __future__ import annotations

import secrets
from math import ceil, floor

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint
from annotation_app.models.refusals import NothingReleased, WrongState

TEMPERATURE_STEP = 0.05


class ReleaseQuerySet(models.QuerySet["Release"]):
    def current(self) -> ReleaseQuerySet:
        """Not withdrawn, newest first."""
        return self.filter(withdrawn_at__isnull=True).order_by("-released_at", "-pk")

    def answering(self) -> ReleaseQuerySet:
        """Those that annotators may get an answer of."""
        return self.current().filter(weight__gt=0)


class Release(models.Model):
    """A chat checkpoint in front of annotators, until it is withdrawn.

    Its weight says how often it answers beside the other ones; with 0 it does not.
    """

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
            models.CheckConstraint(name="release_weight_not_negative", condition=Q(weight__gte=0)),
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

    @transaction.atomic
    def weigh(self, weight: float) -> None:
        """Answer more or less often. Raises WrongState where nothing would answer any more."""
        current = list(Release.objects.current().order_by("pk").select_for_update())
        others = [release for release in current if release.pk != self.pk and release.weight > 0]
        if weight == 0 and not others:
            raise WrongState(
                f"{self.checkpoint} is the last chat model that answers; give another one a "
                "weight first."
            )
        Release.objects.filter(pk=self.pk).update(weight=weight)
        self.refresh_from_db()

    @classmethod
    def rest_older(cls) -> None:
        """Only the newest two go on answering: the rest get the weight 0."""
        newest = list(cls.objects.current().values_list("pk", flat=True)[:2])
        cls.objects.current().exclude(pk__in=newest).update(weight=0)

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
        """Two variants to compare: two releases drawn by weight, each at a drawn temperature.

        Where only one answers it is both, at two temperatures if the range has two. Which of them
        comes first is drawn too. Raises NothingReleased before the first release.
        """
        answering = list(Release.objects.answering().select_related("checkpoint"))
        if not answering:
            raise NothingReleased("No chat model is released yet; a researcher has to release one.")
        draw = secrets.SystemRandom()
        first = draw.choices(answering, [release.weight for release in answering])[0]
        others = [release for release in answering if release != first]
        second = draw.choices(others, [r.weight for r in others])[0] if others else first
        steps = temperatures()
        if second == first and len(steps) > 1:
            drawn = draw.sample(steps, 2)
        else:
            drawn = draw.choices(steps, k=2)
        pair = [first.variant(drawn[0]), second.variant(drawn[1])]
        draw.shuffle(pair)
        return pair[0], pair[1]


def temperatures() -> list[float]:
    """What temperatures are drawn from: the ends of the range and the steps between them."""
    low, high = settings.LOW_TEMPERATURE, settings.HIGH_TEMPERATURE
    first, last = ceil(low / TEMPERATURE_STEP), floor(high / TEMPERATURE_STEP)
    between = [round(step * TEMPERATURE_STEP, 2) for step in range(first, last + 1)]
    return sorted({low, high, *between})
