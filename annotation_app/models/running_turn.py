"""A turn of a live dialogue while the models answer it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from annotation_app.models.refusals import WrongState

if TYPE_CHECKING:
    from annotation_app.models.person import Person

RENEW_SECONDS = 3
QUIET_SECONDS = 15


class RunningTurn(models.Model):
    """A person's place at the models: one for all their tabs, as long as the answers are coming.

    The process that streams them looks at this row for a stop, whichever process took that. A row
    that nobody renews is what a killed process left, and gives way.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    annotator = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="running_turn"
    )
    is_stopped = models.BooleanField(default=False)
    renewed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"running turn of {self.annotator_id}"

    @classmethod
    def begin(cls, annotator: Person) -> RunningTurn:
        """Take the person's place. Raises WrongState while they have it in another tab."""
        now = timezone.now()
        try:
            with transaction.atomic():
                quiet = now - timedelta(seconds=QUIET_SECONDS)
                cls.objects.filter(annotator=annotator, renewed_at__lt=quiet).delete()
                return cls.objects.create(annotator=annotator, renewed_at=now)
        except IntegrityError:
            raise WrongState(
                "The models are answering another message of yours, perhaps in another tab. "
                "Wait for its end, or stop it there."
            ) from None

    def stop(self) -> None:
        """Ask whoever streams it to end it where it is."""
        RunningTurn.objects.filter(pk=self.pk).update(is_stopped=True)

    def is_asked_to_stop(self) -> bool:
        """Look at the row, and renew it now and then. Raises WrongState when it is gone."""
        mine, now = RunningTurn.objects.filter(pk=self.pk), timezone.now()
        found = mine.values_list("is_stopped", "renewed_at").first()
        if found is None:
            raise WrongState("This turn was given up; nothing was stored. Send the message again.")
        is_stopped, renewed_at = found
        if renewed_at < now - timedelta(seconds=RENEW_SECONDS):
            mine.update(renewed_at=now)
        return is_stopped

    def end(self) -> None:
        RunningTurn.objects.filter(pk=self.pk).delete()
