"""What annotators are asked to go by, in versions."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q

from annotation_app.models.choices import Criterion, one_of
from annotation_app.models.refusals import WrongState

SHIPPED = Path(__file__).resolve().parent.parent / "guidelines"


class Guideline(models.Model):
    """One version of a criterion's guidelines, in Markdown. Published ones never change.

    Version 1 is the shipped text; it becomes a row when a version 2 is published.
    """

    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    version = models.PositiveIntegerField()
    text = models.TextField()
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    published_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="guideline_version_once", fields=["criterion", "version"]),
            models.CheckConstraint(name="guideline_version_counts", condition=Q(version__gte=1)),
            models.CheckConstraint(
                name="guideline_criterion_known", condition=one_of("criterion", Criterion.values)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.criterion} guidelines, version {self.version}"

    @classmethod
    def current(cls, criterion: str) -> Guideline:
        """The newest version; the shipped one, unsaved, while nothing was published."""
        newest = cls.objects.filter(criterion=criterion).order_by("-version").first()
        if newest is not None:
            return newest
        return cls._shipped(criterion)

    @classmethod
    def followed(cls, criterion: str, version: int) -> Guideline | None:
        """The version that an answer went by; None where none of that number was published."""
        found = cls.objects.filter(criterion=criterion, version=version).first()
        return cls._shipped(criterion) if found is None and version == 1 else found

    @classmethod
    def _shipped(cls, criterion: str) -> Guideline:
        text = (SHIPPED / f"{Criterion(criterion)}.md").read_text(encoding="utf-8")
        return cls(criterion=criterion, version=1, text=text)

    @classmethod
    def publish(cls, criterion: str, text: str, after: int, by: models.Model) -> Guideline:
        """A new version after the one that the author had before them.

        Raises WrongState when someone else has published meanwhile.
        """
        current = cls.current(criterion)
        if current.version != after:
            raise WrongState(
                f"Version {current.version} was published while you edited version {after}: "
                "read it, then publish yours again."
            )
        try:
            with transaction.atomic():
                if current.pk is None:
                    current.save()
                return cls.objects.create(
                    criterion=criterion, version=after + 1, text=text, published_by=by
                )
        except IntegrityError as error:
            raise WrongState("Someone else published at the same moment; try again.") from error
