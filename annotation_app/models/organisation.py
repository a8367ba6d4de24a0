"""What the organisation has decided for everyone, changed on a page of its own."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

WARNING = (
    "Safety work shows texts that can be violent, hateful, sexual or otherwise upsetting. They are "
    "hidden until you ask for them. You may skip any of them, stop at any time, and do without "
    "this work altogether."
)


def _between(low: float, high: float) -> list[Any]:
    return [MinValueValidator(low), MaxValueValidator(high)]


class Organisation(models.Model):
    """The one row of settings: what protects people, and how their work is checked."""

    safety_warning = models.TextField("warning before safety work", blank=True, default=WARNING)
    safety_is_veiled = models.BooleanField("hide safety texts until asked for", default=True)
    safety_may_be_declined = models.BooleanField("annotators may decline safety work", default=True)
    safety_daily_cap = models.PositiveIntegerField(
        "safety comparisons a person may be given on one day (UTC)", null=True, blank=True
    )
    reference_rate = models.FloatField(
        "share of reference comparisons", default=0.0, validators=_between(0, 0.5)
    )
    re_serve_rate = models.FloatField(
        "share of re-serves, sides exchanged", default=0.0, validators=_between(0, 0.5)
    )
    re_serve_after_days = models.PositiveSmallIntegerField(
        "days before a comparison is served again", default=2, validators=_between(1, 365)
    )
    pauses_by_itself = models.BooleanField(
        "pause annotators whose answers look like chance", default=True
    )
    fewest_probes = models.PositiveSmallIntegerField(
        "answers that such a pause takes at least", default=12, validators=_between(5, 1_000)
    )
    least_skill = models.FloatField(
        "skill below which to pause", default=0.7, validators=_between(0.5, 1)
    )
    least_self_agreement = models.FloatField(
        "self-agreement below which to pause", default=0.65, validators=_between(0.5, 1)
    )
    most_on_one_side = models.FloatField(
        "share of one side beyond which to pause", default=0.85, validators=_between(0.5, 1)
    )

    class Meta:
        constraints = [
            models.CheckConstraint(name="organisation_once", condition=Q(id=1)),
            models.CheckConstraint(
                name="organisation_rates_are_shares",
                condition=Q(reference_rate__gte=0, reference_rate__lte=0.5)
                & Q(re_serve_rate__gte=0, re_serve_rate__lte=0.5),
            ),
        ]

    def __str__(self) -> str:
        return "organisation"

    @classmethod
    def current(cls) -> Organisation:
        """The row, or its defaults while nobody has changed them."""
        return cls.objects.filter(pk=1).first() or cls(pk=1)
