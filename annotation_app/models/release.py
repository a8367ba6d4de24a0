"""The chat checkpoints that annotators sample from."""

from __future__ import annotations

import secrets
from math import ceil, floor
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint
from annotation_app.models.refusals import NothingReleased, WrongState

if TYPE_CHECKING:
    from annotation_app.models.person import Person
    from annotation_app.models.round import Round

TEMPERATURE_STEP = 0.05


class ReleaseQuerySet(models.QuerySet["Release"]):
    def current(self) -> ReleaseQuerySet:
        """Not withdrawn, newest first."""
        return self.filter(withdrawn_at__isnull=True).order_by("-released_at", "-pk")

    def answering(self) -> ReleaseQuerySet:
        """Those that annotators may get an answer of."""
        return self.current().filter(weight__gt=0)

    def in_turn(self) -> list[Release]:
        """Not withdrawn, locked: what answers is changed by one person after the other."""
        return list(self.filter(withdrawn_at__isnull=True).order_by("pk").select_for_update())

    def history(self) -> ReleaseQuerySet:
        """All there were, the newest first, with who and why."""
        rows = self.select_related("checkpoint", "round", "released_by", "withdrawn_by")
        return rows.defer("round__evaluation", "round__config").order_by("-released_at", "-pk")


class Release(models.Model):
    """A chat checkpoint in front of annotators, until it is withdrawn (rolled back).

    Its weight says how often it answers beside the other ones; with 0 it does not. It rests while
    two newer ones answer. ``reason`` is
    why it was released although its round was held back, ``withdrawn_reason`` why it was taken
    away: the rows are the history of both.
    """

    checkpoint = models.ForeignKey(Checkpoint, models.PROTECT, related_name="releases")
    round: models.ForeignKey[Round | None, Round | None] = models.ForeignKey(
        "annotation_app.Round", models.PROTECT, null=True, related_name="releases"
    )
    weight = models.FloatField(default=1.0)
    resting_weight = models.FloatField(
        null=True, help_text="what it had before two newer ones put it to rest, and wakes with"
    )
    released_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    released_at = models.DateTimeField(auto_now_add=True)
    reason = models.TextField(blank=True, default="")
    withdrawn_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    withdrawn_at = models.DateTimeField(null=True)
    withdrawn_reason = models.TextField(blank=True, default="")

    objects = ReleaseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="release_checkpoint_once",
                fields=["checkpoint"],
                condition=Q(withdrawn_at__isnull=True),
            ),
            models.CheckConstraint(name="release_weight_not_negative", condition=Q(weight__gte=0)),
            models.CheckConstraint(
                name="release_rests_without_weight",
                condition=Q(resting_weight__isnull=True) | Q(resting_weight__gt=0, weight=0),
            ),
            models.CheckConstraint(
                name="release_withdrawn_has_reason",
                condition=Q(withdrawn_at__isnull=True, withdrawn_by__isnull=True)
                | Q(withdrawn_at__isnull=False) & ~Q(withdrawn_reason=""),
            ),
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
        if weight == 0:
            current = Release.objects.in_turn()
            self._refuse_silence([it for it in current if it.weight > 0 and it.pk != self.pk])
        Release.objects.filter(pk=self.pk).update(weight=weight, resting_weight=None)
        self.refresh_from_db()

    def _refuse_silence(self, others: list[Release]) -> None:
        """Raises WrongState where no other release answers."""
        if not others:
            raise WrongState(
                f"{self.checkpoint} is the last chat model that answers; give another one a "
                "weight first."
            )

    @classmethod
    def rest_older(cls) -> None:
        """Only the newest two go on answering: the rest get the weight 0, and wake when one of the
        newest two is withdrawn."""
        newest = list(cls.objects.current().values_list("pk", flat=True)[:2])
        older = cls.objects.answering().exclude(pk__in=newest)
        older.update(resting_weight=F("weight"), weight=0)

    def answering_without(self) -> list[Release]:
        """Those that answer once this one is withdrawn, the newest first: the newest two wake where
        newer ones have put them to rest. One that a person gave the weight 0 does not."""
        others = list(Release.objects.current().exclude(pk=self.pk).select_related("checkpoint"))
        for release in others[:2]:
            release.weight = release.resting_weight or release.weight
        return [release for release in others if release.weight > 0]

    @transaction.atomic
    def withdraw(self, by: Person | None, reason: str) -> None:
        """It answers no prompt any more; open batches go on serving the answers that they hold.
        Raises WrongState where it is withdrawn, and where nothing would answer."""
        Release.objects.in_turn()
        others = self.answering_without()
        self._refuse_silence(others)
        mine = Release.objects.filter(pk=self.pk, withdrawn_at__isnull=True)
        moved = mine.update(withdrawn_at=timezone.now(), withdrawn_by=by, withdrawn_reason=reason)
        self.refresh_from_db()
        if moved != 1:
            raise WrongState(f"{self.checkpoint} was rolled back already.")
        for other in others:
            if other.resting_weight is not None:
                other.weigh(other.weight)


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
