"""Which reward model is in force, as events: who put it there, and when."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, models, transaction

from annotation_app.models.checkpoint import Checkpoint
from annotation_app.models.choices import Criterion, one_of
from annotation_app.models.person import Person
from annotation_app.models.refusals import WrongState


class PromotionQuerySet(models.QuerySet["Promotion"]):
    def in_force(self, criterion: str) -> Promotion | None:
        """The newest event of this criterion: its reward model is what rounds start with."""
        rows = self.filter(criterion=criterion).select_related("checkpoint", "previous__checkpoint")
        return rows.order_by("-number").first()


class Promotion(models.Model):
    """A reward model came into force for its criterion; the newest number counts.

    ``previous`` is the event that a roll-back of this one returns to.
    """

    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    number = models.PositiveIntegerField(help_text="1, 2 … within the criterion")
    checkpoint = models.ForeignKey(Checkpoint, models.PROTECT, related_name="promotions")
    previous = models.ForeignKey("self", models.PROTECT, null=True, related_name="+")
    is_roll_back = models.BooleanField(default=False)
    promoted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    promoted_at = models.DateTimeField(auto_now_add=True)

    objects = PromotionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="promotion_criterion_known",
                condition=one_of("criterion", ["helpfulness", "safety"]),
            ),
            models.UniqueConstraint(name="promotion_number_once", fields=["criterion", "number"]),
        ]

    def __str__(self) -> str:
        return f"{self.checkpoint} in force from {self.promoted_at:%d %b %Y %H:%M}"

    @classmethod
    def promote(
        cls, checkpoint: Checkpoint, by: Person | None = None, *, seen: int | None = None
    ) -> Promotion:
        """Rounds that start now use this reward model.

        ``seen`` is the number that was in force when it was decided, 0 for none. Raises WrongState
        for a chat model, for the model in force, and where another one came into force since.
        """
        if checkpoint.kind == Checkpoint.Kind.CHAT:
            raise WrongState(f"{checkpoint} is a chat model; only reward models are promoted.")
        now = cls.objects.in_force(checkpoint.criterion)
        if now is not None and now.checkpoint_id == checkpoint.pk:
            raise WrongState(f"{checkpoint} is in force already.")
        return cls._follow(now, seen, checkpoint, by, previous=now)

    @classmethod
    def roll_back(
        cls, criterion: str, by: Person | None = None, *, seen: int | None = None
    ) -> Promotion:
        """The reward model that was in force before comes back. Raises WrongState."""
        now = cls.objects.in_force(criterion)
        if now is None or now.previous is None:
            raise WrongState(f"No {criterion} reward model was in force before this one.")
        back = now.previous
        return cls._follow(
            now, seen, back.checkpoint, by, previous_id=back.previous_id, is_roll_back=True
        )

    @classmethod
    def _follow(
        cls,
        now: Promotion | None,
        seen: int | None,
        checkpoint: Checkpoint,
        by: Person | None,
        **fields: object,
    ) -> Promotion:
        """The event after ``now``; of two at once only one finds its number free."""
        number = now.number if now else 0
        if seen is None or seen == number:
            try:
                with transaction.atomic():
                    return cls.objects.create(
                        criterion=checkpoint.criterion,
                        number=number + 1,
                        checkpoint=checkpoint,
                        promoted_by=by,
                        **fields,
                    )
            except IntegrityError:
                pass
        found = cls.objects.in_force(checkpoint.criterion)
        raise WrongState(
            f"{found.checkpoint if found else 'Another one'} came into force meanwhile."
        )
