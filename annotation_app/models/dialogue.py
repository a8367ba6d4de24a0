"""What was said: roots, dialogues, prompts and responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Count, Max, OuterRef, Q, Subquery
from django.db.models.fields.json import KT
from django.db.models.functions import Left

from annotation_app.models.choices import AttackVector, RiskCategory, Split, one_of
from reward.preferences import Message, dialogue_root

if TYPE_CHECKING:
    from annotation_app.models.batch import Batch
    from annotation_app.models.person import Person

FIRST_WORDS = 100  # characters of a dialogue's first message


class DialogueRoot(models.Model):
    """The first request that dialogues share, and the side of the split it fell on.

    One row per hash, so a root can never be in both splits: not over batches, criteria or imports.
    """

    hash = models.CharField(primary_key=True, max_length=64)
    split = models.CharField(max_length=10, choices=Split.choices)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="root_split_known", condition=one_of("split", ["train", "holdout"])
            )
        ]

    def __str__(self) -> str:
        return f"{self.hash[:12]} ({self.split})"

    @classmethod
    def of(cls, messages: Sequence[Message], split: str | None = None) -> DialogueRoot:
        """The root of a dialogue; a new one falls by its hash unless ``split`` is given."""
        digest = dialogue_root(messages)
        root, _ = cls.objects.get_or_create(
            hash=digest, defaults={"split": split or split_by_hash(digest)}
        )
        return root


def split_by_hash(digest: str) -> str:
    """Which split a new root falls into: HOLDOUT_SHARE of all hashes are held out."""
    position = int(digest[:12], 16) / 16**12
    return Split.HOLDOUT if position < settings.HOLDOUT_SHARE else Split.TRAIN


class DialogueQuerySet(models.QuerySet["Dialogue"]):
    def to_go_on_with(self, annotator: Person, batch: Batch) -> DialogueQuerySet:
        """Theirs of this batch that an answer was chosen in, or that wait for it; latest first.

        Adds ``first_words``, ``turns``, ``answered_at``, ``judged`` and ``reserved``.
        """
        first = Prompt.objects.filter(dialogue=OuterRef("pk")).order_by("turn", "pk")
        said = first.annotate(said=Left(KT("messages__0__content"), FIRST_WORDS)).values("said")
        turns = "prompts__comparisons__annotations__"
        return (
            self.filter(
                annotator=annotator,
                **{
                    f"{turns}annotator": annotator,
                    f"{turns}batch": batch,
                    f"{turns}purpose": "work",
                    f"{turns}state__in": ["leased", "expired", "recorded", "surplus"],
                },
            )
            .annotate(
                first_words=Subquery(said[:1]),
                turns=Max("prompts__turn"),
                answered_at=Max(f"{turns}leased_at"),
                judged=Count("pk", filter=Q(**{f"{turns}state__in": ["recorded", "surplus"]})),
                reserved=Count("pk", filter=Q(**{f"{turns}state": "leased"})),
            )
            .order_by("-answered_at", "-pk")
        )


class Dialogue(models.Model):
    """One conversation between an annotator, or an imported person, and the models."""

    root = models.ForeignKey(DialogueRoot, models.PROTECT, related_name="dialogues")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="dialogues"
    )
    source = models.CharField(max_length=60, default="collected")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = DialogueQuerySet.as_manager()

    def __str__(self) -> str:
        return f"dialogue {self.pk}"


class Prompt(models.Model):
    """The messages that a response answers; written once, never changed."""

    dialogue = models.ForeignKey(Dialogue, models.PROTECT, related_name="prompts")
    parent = models.ForeignKey(
        "annotation_app.Response", models.PROTECT, null=True, related_name="continued_by"
    )
    turn = models.PositiveIntegerField(default=1)
    messages = models.JSONField(help_text="[{role, content} …], ending with the user's message")
    is_safety = models.BooleanField(default=False, help_text="might elicit an unsafe response")
    risk_category = models.CharField(
        max_length=30, choices=RiskCategory.choices, blank=True, default=""
    )
    attack_vector = models.CharField(
        max_length=30, choices=AttackVector.choices, blank=True, default=""
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.user_message[:80]

    @property
    def user_message(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def history(self) -> list[dict[str, str]]:
        """Everything before the user's message."""
        return list(self.messages[:-1])

    @classmethod
    def start(
        cls,
        messages: Sequence[Message],
        *,
        annotator: Person | None = None,
        source: str = "collected",
        is_safety: bool = False,
        risk_category: str = "",
        attack_vector: str = "",
        split: str | None = None,
    ) -> Prompt:
        """A new dialogue and its prompt in one go."""
        dialogue = Dialogue.objects.create(
            root=DialogueRoot.of(messages, split), annotator=annotator, source=source
        )
        return cls.objects.create(
            dialogue=dialogue,
            turn=sum(message.role == "user" for message in messages),
            messages=[message._asdict() for message in messages],
            is_safety=is_safety,
            risk_category=risk_category,
            attack_vector=attack_vector,
        )

    @classmethod
    def go_on(cls, chosen: Response, message: Message) -> Prompt:
        """The next turn of a dialogue, after the answer that was chosen."""
        before = chosen.prompt
        answer = Message("assistant", chosen.text)
        return cls.objects.create(
            dialogue_id=before.dialogue_id,
            parent=chosen,
            turn=before.turn + 1,
            messages=[*before.messages, answer._asdict(), message._asdict()],
            is_safety=before.is_safety,
            risk_category=before.risk_category,
            attack_vector=before.attack_vector,
        )


class Response(models.Model):
    """One model output, with what made it. Imported responses have no variant."""

    prompt = models.ForeignKey(Prompt, models.PROTECT, related_name="responses")
    text = models.TextField(blank=True)
    variant = models.ForeignKey("annotation_app.Variant", models.PROTECT, null=True)
    checkpoint = models.ForeignKey("annotation_app.Checkpoint", models.PROTECT, null=True)
    temperature = models.FloatField(null=True)
    top_p = models.FloatField(null=True)
    seed = models.BigIntegerField(null=True)
    finish_reason = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text[:80]
