"""Answers that people write: from nothing, or in place of a response that could be better."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import F, Q
from django.utils import timezone

from annotation_app.models.choices import Criterion, one_of
from annotation_app.models.dialogue import Prompt, Response
from annotation_app.models.refusals import NotAssigned, WrongState
from reward.preferences import Message

if TYPE_CHECKING:
    from annotation_app.models.person import Person


class DemonstrationQuerySet(models.QuerySet["Demonstration"]):
    def waiting(self) -> DemonstrationQuerySet:
        """Those that nobody has decided on, the oldest first."""
        return self.filter(state=Demonstration.State.WRITTEN).order_by("pk")

    def for_reviewer(self, reviewer: Person) -> DemonstrationQuerySet:
        """Those that this person may decide on: nobody decides on their own."""
        return self.waiting().exclude(author=reviewer)

    def approved(self) -> DemonstrationQuerySet:
        return self.filter(state=Demonstration.State.APPROVED)

    def standing(self) -> DemonstrationQuerySet:
        """Those that wait or are approved."""
        return self.filter(state__in=[Demonstration.State.WRITTEN, Demonstration.State.APPROVED])


class Demonstration(models.Model):
    """written → approved | rejected | superseded, by an approved row with a reviewer's edits.

    The text of a row never changes.
    """

    class State(models.TextChoices):
        WRITTEN = "written"
        APPROVED = "approved"
        REJECTED = "rejected"
        SUPERSEDED = "superseded"

    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="demonstrations")
    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    text = models.TextField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="demonstrations"
    )
    corrects = models.ForeignKey(
        Response, models.PROTECT, null=True, related_name="corrections",
        help_text="the response that it is a better answer than",
    )  # fmt: skip
    digest = models.CharField(max_length=64, help_text="of what was answered and the answer")
    state = models.CharField(max_length=12, choices=State.choices, default=State.WRITTEN)
    reason = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    supersedes = models.OneToOneField(
        "self", models.PROTECT, null=True, related_name="superseded_by"
    )

    objects = DemonstrationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="demonstration_one_standing_correction",
                fields=["author", "corrects"],
                condition=Q(corrects__isnull=False, state__in=["written", "approved"]),
            ),
            models.UniqueConstraint(
                name="demonstration_written_once",
                fields=["author", "digest"],
                condition=Q(supersedes__isnull=True),
            ),
            models.CheckConstraint(
                name="demonstration_criterion_known",
                condition=one_of("criterion", ["helpfulness", "safety"]),
            ),
            models.CheckConstraint(
                name="demonstration_state_known",
                condition=one_of("state", ["written", "approved", "rejected", "superseded"]),
            ),
            models.CheckConstraint(
                name="demonstration_decided_by_another",
                condition=Q(state="written", decided_by=None, decided_at=None)
                | Q(decided_by__isnull=False, decided_at__isnull=False)
                & ~Q(state="written")
                & ~Q(decided_by=F("author")),
            ),
            models.CheckConstraint(
                name="demonstration_rejected_has_reason",
                condition=~Q(state="rejected", reason=""),
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="demonstration_waiting", condition=Q(state="written")),
        ]

    def __str__(self) -> str:
        return f"demonstration {self.pk} ({self.state})"

    @property
    def is_correction(self) -> bool:
        return self.corrects_id is not None

    @classmethod
    def write(
        cls,
        author: Person,
        criterion: str,
        prompt: str,
        text: str,
        risk_category: str = "",
        attack_vector: str = "",
    ) -> Demonstration:
        """An answer to a prompt of one's own. The same again returns the row that is there.

        Raises WrongState where the same was rejected.
        """
        digest = _digest(criterion, prompt, text)
        if found := cls._written(author, digest):
            return found
        try:
            with transaction.atomic():
                started = Prompt.start(
                    [Message("user", prompt)],
                    annotator=author,
                    source="demonstration",
                    is_safety=criterion == Criterion.SAFETY,
                    risk_category=risk_category,
                    attack_vector=attack_vector,
                )
                return cls.objects.create(
                    prompt=started, criterion=criterion, text=text, author=author, digest=digest
                )
        except IntegrityError:
            return cls.objects.get(author=author, digest=digest, supersedes=None)

    @classmethod
    def correct(
        cls, author: Person, criterion: str, response: Response, text: str
    ) -> Demonstration:
        """A better answer than this response. The same again returns the row that is there.

        Raises WrongState while another one stands, and where the same was rejected.
        """
        digest = _digest(f"response {response.pk}", text)
        if found := cls._written(author, digest):
            return found
        try:
            with transaction.atomic():
                return cls.objects.create(
                    prompt=response.prompt, criterion=criterion, text=text, author=author,
                    corrects=response, digest=digest,
                )  # fmt: skip
        except IntegrityError:
            if found := cls._written(author, digest):
                return found
            raise WrongState(
                "You have written a better answer to this response before; it stands, and this "
                "other one was not stored."
            ) from None

    @classmethod
    def _written(cls, author: Person, digest: str) -> Demonstration | None:
        found = cls.objects.filter(author=author, digest=digest, supersedes=None).first()
        if found is not None and found.state == cls.State.REJECTED:
            raise WrongState(f"This text was rejected: {found.reason} Change it and send it again.")
        return found

    def approve(self, by: Person) -> None:
        """written → approved. Raises WrongState, and NotAssigned for one's own."""
        self._decide(self.State.APPROVED, by)

    def reject(self, by: Person, reason: str) -> None:
        """written → rejected, with a reason for its author. Raises as ``approve`` does."""
        self._decide(self.State.REJECTED, by, reason)

    @transaction.atomic
    def approve_edited(self, by: Person, text: str) -> Demonstration:
        """written → superseded, and an approved row with the edited text, which is returned.

        The author stays the author. Raises as ``approve`` does.
        """
        self._decide(self.State.SUPERSEDED, by)
        kept = ("prompt_id", "criterion", "author_id", "corrects_id", "decided_at", "decided_by_id")
        edited, _ = Demonstration.objects.get_or_create(
            supersedes=self,
            defaults={
                **{name: getattr(self, name) for name in kept},
                "text": text, "digest": _digest(f"edited {self.pk}", text),
                "state": self.State.APPROVED,
            },
        )  # fmt: skip
        if edited.text != text:
            raise WrongState("You have approved another edit of it before; that one stands.")
        return edited

    def _decide(self, state: str, by: Person, reason: str = "") -> None:
        if by.pk == self.author_id:
            raise NotAssigned("You wrote this one: someone else decides about it.")
        Demonstration.objects.filter(pk=self.pk, state=self.State.WRITTEN).update(
            state=state, reason=reason, decided_by=by, decided_at=timezone.now()
        )
        self.refresh_from_db()
        if (self.state, self.reason, self.decided_by_id) != (state, reason, by.pk):
            raise WrongState(f"Someone has decided already: this one is {self.state}.")


class DemonstrationSet(models.Model):
    """The frozen file of approved demonstrations that a round learns from; written once, when it
    starts."""

    storage_key = models.CharField(max_length=255, unique=True)
    sha256 = models.CharField(max_length=64)
    demonstrations = models.ManyToManyField(Demonstration, related_name="sets")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"demonstrations {self.pk}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
