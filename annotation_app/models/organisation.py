"""What the organisation has decided for everyone, changed on a page of its own."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

WARNING = (
    "Safety work shows texts that can be violent, hateful, sexual or otherwise upsetting. They are "
    "hidden until you ask for them. You may skip any of them, stop at any time, and do without "
    "this work altogether."
)


class Organisation(models.Model):
    """The one row of settings, with what protects the people who do safety work."""

    safety_warning = models.TextField("warning before safety work", blank=True, default=WARNING)
    safety_is_veiled = models.BooleanField("hide safety texts until asked for", default=True)
    safety_may_be_declined = models.BooleanField("annotators may decline safety work", default=True)
    safety_daily_cap = models.PositiveIntegerField(
        "safety comparisons a person may be given on one day (UTC)", null=True, blank=True
    )

    class Meta:
        constraints = [models.CheckConstraint(name="organisation_once", condition=Q(id=1))]

    def __str__(self) -> str:
        return "organisation"

    @classmethod
    def current(cls) -> Organisation:
        """The row, or its defaults while nobody has changed them."""
        return cls.objects.filter(pk=1).first() or cls(pk=1)
