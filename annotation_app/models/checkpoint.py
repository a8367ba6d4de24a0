"""The rows for weights, and what a training run read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

from annotation_app.models.choices import Criterion, Split, one_of

if TYPE_CHECKING:
    from annotation_app.models.run import Run


class CheckpointQuerySet(models.QuerySet["Checkpoint"]):
    def chat(self) -> CheckpointQuerySet:
        return self.filter(kind=Checkpoint.Kind.CHAT)

    def rewards(self) -> CheckpointQuerySet:
        return self.exclude(kind=Checkpoint.Kind.CHAT)

    def of(self, criterion: str) -> CheckpointQuerySet:
        """The reward models of this criterion."""
        return self.filter(kind=reward_kind(criterion))

    def trained_on_different_data(self, criterion: str) -> list[Checkpoint]:
        """The newest reward model of each set of comparisons, in the order of their making."""
        trained = self.of(criterion).filter(run__inputs__snapshot__isnull=False)
        newest = trained.values("run__inputs__snapshot").annotate(newest=models.Max("pk"))
        return list(self.filter(pk__in=newest.values("newest")).order_by("pk"))

    def independent(self) -> CheckpointQuerySet:
        """Reward models that nothing collected here went into: neither in what they learnt from
        nor in the chat model that they began as. The newest first."""
        imported = self.rewards().filter(run__inputs__snapshot__counts__collected=0)
        begun = imported.filter(run__inputs__role="start", run__inputs__checkpoint__run=None)
        return begun.order_by("-pk")

    def promoted(self, criterion: str) -> Checkpoint | None:
        """The reward model of this criterion that rounds start from now."""
        return self.filter(promotions__criterion=criterion).order_by("-promotions__number").first()


def reward_kind(criterion: str) -> str:
    return f"{criterion}_reward"


class Checkpoint(models.Model):
    """One immutable folder of weights in the storage root."""

    class Kind(models.TextChoices):
        CHAT = "chat", "Chat model"
        HELPFULNESS_REWARD = "helpfulness_reward", "Helpfulness reward model"
        SAFETY_REWARD = "safety_reward", "Safety reward model"

    kind = models.CharField(max_length=20, choices=Kind.choices)
    name = models.CharField(max_length=120)
    line = models.CharField(max_length=60, help_text="model family and size")
    storage_key = models.CharField(max_length=255, unique=True)
    sha256 = models.CharField(max_length=64)
    metrics = models.JSONField(default=dict)
    run: models.OneToOneField[Run | None, Run | None] = models.OneToOneField(
        "annotation_app.Run", models.PROTECT, null=True, related_name="checkpoint"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CheckpointQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="checkpoint_kind_known",
                condition=one_of("kind", ["chat", "helpfulness_reward", "safety_reward"]),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def criterion(self) -> str:
        return "" if self.kind == self.Kind.CHAT else self.kind.removesuffix("_reward")

    def supervised(self) -> Checkpoint:
        """The chat model before any feedback that this one descends from: it was brought in, or
        fine-tuned on demonstrations."""
        from annotation_app.models.run import Run, RunInput

        found = self
        while found.run is not None and found.run.kind != Run.Kind.SFT:
            given = RunInput.objects.filter(run=found.run, role="policy")
            policy = given.select_related("checkpoint__run").get().checkpoint
            assert policy is not None, found.pk
            found = policy
        return found


class SnapshotQuerySet(models.QuerySet["Snapshot"]):
    def with_holdout(self, criterion: str) -> SnapshotQuerySet:
        """Those that held comparisons of this criterion out, the newest first."""
        held_out = {f"counts__{criterion}_holdout__gt": 0}
        return self.filter(criterion=criterion, **held_out).order_by("-pk")


class Snapshot(models.Model):
    """The frozen set of annotations that a training run reads; written once, when it is queued."""

    criterion = models.CharField(max_length=20, choices=Criterion.choices)
    storage_key = models.CharField(max_length=255, unique=True)
    sha256 = models.CharField(max_length=64)
    counts = models.JSONField(default=dict)
    annotations = models.ManyToManyField("annotation_app.Annotation", related_name="snapshots")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SnapshotQuerySet.as_manager()

    def __str__(self) -> str:
        return f"snapshot {self.pk} of {self.criterion}"

    @property
    def held_out(self) -> int:
        """How many comparisons of its criterion were held out."""
        return int(self.counts.get(f"{self.criterion}_holdout", 0))

    def trained_batches(self) -> int:
        """How many batches of its criterion the comparisons to train on come from."""
        read = self.annotations.filter(comparison__criterion=self.criterion)
        trained = read.filter(comparison__prompt__dialogue__root__split=Split.TRAIN)
        return trained.values("comparison__batch").distinct().count()


class PromptSetQuerySet(models.QuerySet["PromptSet"]):
    def to_measure_on(self) -> PromptSetQuerySet:
        """Whose test prompts stand in the evaluation of every round that starts now."""
        return self.filter(is_for_measuring=True)


class PromptSet(models.Model):
    """A prompts file in the storage root: for rounds, for measuring, or what filled one batch."""

    is_for_rounds = models.BooleanField(default=True)
    is_for_measuring = models.BooleanField(
        default=False, help_text="its test prompts stand in the evaluation of every round"
    )
    name = models.CharField(max_length=120, unique=True)
    storage_key = models.CharField(max_length=255, unique=True)
    sha256 = models.CharField(max_length=64)
    counts = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PromptSetQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name
