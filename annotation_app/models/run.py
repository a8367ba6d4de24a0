"""One child process of work, its inputs as rows, and who may say that it is done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint, PromptSet, Snapshot
from annotation_app.models.choices import exactly_one_of, one_of
from annotation_app.models.demonstration import DemonstrationSet
from annotation_app.models.refusals import WrongState

if TYPE_CHECKING:
    from annotation_app.models.round import Round


MOST_ATTEMPTS = 5  # of which none ends, before a person has to look

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """The text without what no database stores: NUL characters and halves of surrogate pairs."""
    return UNSTORABLE.sub("\ufffd", text)


class RunQuerySet(models.QuerySet["Run"]):
    def active(self) -> RunQuerySet:
        return self.filter(state__in=[Run.State.QUEUED, Run.State.RUNNING])

    def stalled(self, now: datetime) -> RunQuerySet:
        """Running rows without progress for too long."""
        quiet = now - timedelta(seconds=settings.RUN_HEARTBEAT_TIMEOUT_SECONDS)
        return self.filter(state=Run.State.RUNNING, heartbeat_at__lt=quiet)

    def waiting(self) -> RunQuerySet:
        """Queued runs, the oldest first."""
        return self.filter(state=Run.State.QUEUED).order_by("queued_at")

    def evaluations(self, criterion: str) -> RunQuerySet:
        """Finished comparisons of reward models, the newest first."""
        done = self.filter(kind=Run.Kind.REWARD_EVALUATION, state=Run.State.SUCCEEDED)
        return done.filter(criterion=criterion).order_by("-pk")

    def judgings(self, criterion: str) -> RunQuerySet:
        """Finished judgings by a chat model, the newest first."""
        done = self.filter(kind=Run.Kind.REWARD_JUDGING, state=Run.State.SUCCEEDED)
        return done.filter(criterion=criterion).order_by("-pk")

    def asked_by_form(self, form_key: UUID | None) -> Run | None:
        """What a form has asked for already."""
        return None if form_key is None else self.filter(form_key=form_key).first()


class Run(models.Model):
    """queued → running → succeeded | failed | cancelled.

    ``attempt`` is the fence: starting raises it by conditional update, and what an older attempt
    says afterwards is refused.
    """

    class Kind(models.TextChoices):
        REWARD_TRAINING = "reward_training", "Reward model training"
        REJECTION = "rejection", "Rejection sampling"
        PPO = "ppo", "PPO"
        EVALUATE = "evaluate", "Evaluation"
        SAMPLING = "sampling", "Response sampling"
        REWARD_EVALUATION = "reward_evaluation", "Reward model evaluation"
        REWARD_SCALING = "reward_scaling", "Reward model scaling"
        REWARD_JUDGING = "reward_judging", "Judging by a chat model"
        SFT = "sft", "Supervised fine-tuning"
        TEMPERATURE = "temperature", "Temperature sweep"
        DPO = "dpo", "DPO"
        GHOST_ATTENTION = "ghost_attention", "Ghost Attention"
        CONTEXT_DISTILLATION = "context_distillation", "Context distillation"
        INSTRUCTION_KEEPING = "instruction_keeping", "Instruction keeping"

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    kind = models.CharField(max_length=20, choices=Kind.choices)
    criterion = models.CharField(max_length=20, blank=True, default="")
    config = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    attempt = models.PositiveIntegerField(default=0)
    attempt_retried = models.PositiveIntegerField(
        default=0, help_text="the attempt after which a person had it go on; 0: nobody has"
    )
    round: models.ForeignKey[Round | None, Round | None] = models.ForeignKey(
        "annotation_app.Round", models.PROTECT, null=True, related_name="runs"
    )
    batch = models.ForeignKey("annotation_app.Batch", models.PROTECT, null=True)
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    figures = models.JSONField(default=dict, help_text="the last line of metrics.jsonl")
    log_tail = models.TextField(blank=True, default="")
    error = models.TextField(blank=True, default="")
    cancel_requested = models.BooleanField(default=False)
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    form_key = models.UUIDField(
        null=True, unique=True, help_text="of the form that asked: sent twice, it is one run"
    )
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="run_kind_known",
                condition=one_of(
                    "kind",
                    ["reward_training", "rejection", "ppo", "evaluate", "sampling",
                     "reward_evaluation", "reward_scaling", "reward_judging",
                     "sft", "temperature", "dpo", "ghost_attention", "context_distillation",
                     "instruction_keeping"],
                ),
            ),
            models.CheckConstraint(
                name="run_state_known",
                condition=one_of(
                    "state", ["queued", "running", "succeeded", "failed", "cancelled"]
                ),
            ),
        ]  # fmt: skip
        indexes = [models.Index(fields=["state", "queued_at"], name="run_state_queued")]

    def __str__(self) -> str:
        criterion = f", {self.criterion}" if self.criterion else ""
        return f"{self.get_kind_display()}{criterion} #{self.pk}"

    @property
    def storage_key(self) -> str:
        return f"runs/{self.pk}"

    @property
    def is_active(self) -> bool:
        return self.state in (self.State.QUEUED, self.State.RUNNING)

    @property
    def has_tried_enough(self) -> bool:
        """Whether only a person may have it started once more."""
        return self.attempt - self.attempt_retried >= MOST_ATTEMPTS

    @classmethod
    def queue(
        cls,
        kind: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Input],
        **fields: Any,
    ) -> Run:
        """Ask for a piece of work; a gpu worker takes it once this transaction is committed.

        A form sent twice at once gives its one run.
        """
        try:
            with transaction.atomic():
                run = cls.objects.create(kind=kind, config=dict(config), **fields)
                for role, item in inputs.items():
                    RunInput.objects.create(run=run, role=role, **{_input_field(item): item})
                transaction.on_commit(run.send)
        except IntegrityError:
            asked = cls.objects.asked_by_form(fields.get("form_key"))
            if asked is None:
                raise
            return asked
        return run

    def send(self) -> None:
        """Hand the id to the queue; when the broker is down the periodic task finds the row."""
        from annotation_app.celery import send

        send("start_run", self.pk)

    def claim(self) -> bool:
        """queued → running under a new attempt; False when another worker was first."""
        now = timezone.now()
        moved = Run.objects.filter(
            pk=self.pk, state=self.State.QUEUED, attempt=self.attempt
        ).update(
            state=self.State.RUNNING,
            attempt=F("attempt") + 1,
            started_at=now,
            heartbeat_at=now,
            error="",
        )
        return self._follow(moved)

    def requeue(self) -> bool:
        """running → queued: its worker is gone. The run goes on from its last checkpoint."""
        moved = self._mine(self.State.RUNNING).update(state=self.State.QUEUED)
        if moved:
            self.send()
        return self._follow(moved)

    def report(self, *, heartbeat_at: datetime | None = None, **progress: Any) -> bool:
        """Store progress of this attempt; False when the run is no longer this attempt's."""
        fields = {**progress, **({"heartbeat_at": heartbeat_at} if heartbeat_at else {})}
        return self._mine(self.State.RUNNING).update(**fields) == 1

    def succeed(self) -> bool:
        """running → succeeded, for the attempt that this object was claimed with."""
        return self._end(self.State.SUCCEEDED)

    def fail(self, error: str) -> bool:
        """running → failed with the sentence that the page shows."""
        return self._end(self.State.FAILED, error=storable(error))

    def end_cancelled(self) -> bool:
        """running → cancelled: the child process is gone."""
        return self._end(self.State.CANCELLED)

    def cancel(self) -> None:
        """Stop a run: at once while queued, by its supervisor while running. Raises WrongState."""
        queued = Run.objects.filter(pk=self.pk, state=self.State.QUEUED)
        if queued.update(state=self.State.CANCELLED, ended_at=timezone.now()) != 1:
            running = Run.objects.filter(pk=self.pk, state=self.State.RUNNING)
            if running.update(cancel_requested=True) != 1:
                self.refresh_from_db()
                raise WrongState(f"{self} is already {self.state}.")
        self.refresh_from_db()

    def retry(self) -> None:
        """failed | cancelled → queued, to go on from the last checkpoint. Raises WrongState."""
        ended = Run.objects.filter(pk=self.pk, state__in=[self.State.FAILED, self.State.CANCELLED])
        moved = ended.update(
            state=self.State.QUEUED,
            cancel_requested=False,
            error="",
            ended_at=None,
            attempt_retried=F("attempt"),
        )
        self.refresh_from_db()
        if moved != 1:
            raise WrongState(f"{self} is {self.state}; only a failed or cancelled run is retried.")
        transaction.on_commit(self.send)

    def input(self, role: str) -> Input:
        """The input row that plays this role. Raises RunInput.DoesNotExist."""
        return self.inputs.select_related(*RunInput.KINDS).get(role=role).item

    def _mine(self, state: str) -> RunQuerySet:
        return Run.objects.filter(pk=self.pk, state=state, attempt=self.attempt)

    def _end(self, state: str, error: str = "") -> bool:
        moved = self._mine(self.State.RUNNING).update(
            state=state, error=error, ended_at=timezone.now()
        )
        return self._follow(moved)

    def _follow(self, moved: int) -> bool:
        """Read the row again if this object moved it; otherwise keep the attempt it knows."""
        if moved:
            self.refresh_from_db()
        return moved == 1


Input = Checkpoint | Snapshot | PromptSet | Run | DemonstrationSet


class RunInput(models.Model):
    """What a run was given: role → checkpoint, snapshot, prompt set, demonstrations, or another run
    whose folder is read: a chat model's judging, data that a round built."""

    KINDS = ("checkpoint", "snapshot", "prompt_set", "other_run", "demonstration_set")

    run = models.ForeignKey(Run, models.CASCADE, related_name="inputs")
    role = models.CharField(max_length=30)
    checkpoint = models.ForeignKey(Checkpoint, models.PROTECT, null=True, related_name="used_by")
    snapshot = models.ForeignKey(Snapshot, models.PROTECT, null=True, related_name="used_by")
    prompt_set = models.ForeignKey(PromptSet, models.PROTECT, null=True, related_name="used_by")
    other_run = models.ForeignKey(Run, models.PROTECT, null=True, related_name="used_by")
    demonstration_set = models.ForeignKey(
        DemonstrationSet, models.PROTECT, null=True, related_name="used_by"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(name="run_input_role_once", fields=["run", "role"]),
            models.CheckConstraint(
                name="run_input_exactly_one",
                condition=exactly_one_of(
                    "checkpoint", "snapshot", "prompt_set", "other_run", "demonstration_set"
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} of {self.run_id}"

    @property
    def item(self) -> Input:
        item = (
            self.checkpoint or self.snapshot or self.prompt_set or self.other_run
            or self.demonstration_set
        )  # fmt: skip
        assert item is not None, self.pk
        return item


def _input_field(item: Input) -> str:
    fields: dict[type, str] = {
        Checkpoint: "checkpoint", Snapshot: "snapshot", PromptSet: "prompt_set",
        DemonstrationSet: "demonstration_set",
    }  # fmt: skip
    return fields.get(type(item), "other_run")
