"""Who may do what."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.contrib.auth.tokens import default_token_generator
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from annotation_app.models.choices import KeyLayout, one_of
from annotation_app.models.skill import Skill

DECLINED = "You have chosen not to do safety work. You may change that under your name."


class Person(AbstractUser):
    """Someone with a role. Imported annotators are people who can never sign in."""

    class Role(models.TextChoices):
        ANNOTATOR = "annotator"
        REVIEWER = "reviewer"
        RESEARCHER = "researcher"
        ADMINISTRATOR = "administrator"

    role = models.CharField(max_length=20, choices=Role.choices, default=Role.ANNOTATOR)
    key_layout = models.CharField(
        "keys", max_length=12, choices=KeyLayout.choices, default=KeyLayout.STANDARD
    )
    does_safety = models.BooleanField("I do safety work", default=True)
    skills = models.ManyToManyField(Skill, blank=True, related_name="people")
    paused_reason = models.CharField(max_length=300, blank=True, default="")
    paused_at = models.DateTimeField(null=True, blank=True)
    resumed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="person_role_known",
                condition=one_of("role", ["annotator", "reviewer", "researcher", "administrator"]),
            ),
            models.CheckConstraint(
                name="person_key_layout_known", condition=one_of("key_layout", KeyLayout.values)
            ),
        ]

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    @property
    def is_reviewer(self) -> bool:
        """Reviewers see the team and its answers, not models or scores; researchers may too."""
        return self.role != self.Role.ANNOTATOR

    @property
    def is_researcher(self) -> bool:
        """Researchers see models and scores; administrators are researchers too."""
        return self.role in (self.Role.RESEARCHER, self.Role.ADMINISTRATOR)

    @property
    def is_administrator(self) -> bool:
        return self.role == self.Role.ADMINISTRATOR

    def pause(self, reason: str) -> None:
        """Give no more work until someone ends the pause; the person is told why."""
        self.paused_reason, self.paused_at = reason[:300], timezone.now()
        self.save(update_fields=["paused_reason", "paused_at"])

    def resume(self) -> None:
        """End the pause; answers from before it no longer count towards another one."""
        self.paused_reason, self.paused_at, self.resumed_at = "", None, timezone.now()
        self.save(update_fields=["paused_reason", "paused_at", "resumed_at"])

    def one_time_sign_in_path(self) -> str:
        """A path that signs this person in once; it ends with its use, or after some hours."""
        uid = urlsafe_base64_encode(force_bytes(self.pk))
        return reverse("sign_in_link", args=[uid, default_token_generator.make_token(self)])

    @classmethod
    def imported(cls, source: str, name: str) -> Person:
        """The stand-in for an annotator of an imported file; it has no usable password."""
        person, created = cls.objects.get_or_create(
            username=f"{source}:{name}"[:150], defaults={"is_active": False}
        )
        if created:
            person.set_unusable_password()
            person.save(update_fields=["password"])
        return person
