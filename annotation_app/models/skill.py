"""What a batch may ask of the people who work on it: a language, a subject, a qualification."""

from __future__ import annotations

from django.db import models


class Skill(models.Model):
    """Something that a person has and a batch requires."""

    name = models.CharField(max_length=60, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
