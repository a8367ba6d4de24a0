"""Rejection sampling → PPO → evaluate: from two promoted reward checkpoints to a chat one."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint, PromptSet
from annotation_app.models.choices import one_of
from annotation_app.models.refusals import WrongState
from annotation_app.models.run import Run


class Round(models.Model):
    """queued → running (in a named stage) → evaluated → held | released → rolled_back.

    Or failed | cancelled, from which it is resumed in the same stage.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        EVALUATED = "evaluated"
        HELD = "held"
        RELEASED = "released"
        ROLLED_BACK = "rolled_back"
        FAILED = "failed"
        CANCELLED = "cancelled"

    name = models.CharField(max_length=60, unique=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    stage = models.CharField(max_length=20, blank=True, default="")
    policy = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    helpfulness = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    safety = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    prompt_set = models.ForeignKey(PromptSet, models.PROTECT, related_name="rounds")
    result = models.ForeignKey(Checkpoint, models.PROTECT, null=True, related_name="made_by_round")
    config = models.JSONField(default=dict, help_text="settings per stage")
    evaluation = models.JSONField(default=dict)
    error = models.TextField(blank=True, default="")
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="round_state_known",
                condition=one_of(
                    "state",
                    ["queued", "running", "evaluated", "held", "released", "rolled_back",
                     "failed", "cancelled"],
                ),
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.name

    @property
    def is_active(self) -> bool:
        return self.state in (self.State.QUEUED, self.State.RUNNING)

    @classmethod
    def next_name(cls) -> str:
        """RLHF-V1, RLHF-V2 …"""
        number = cls.objects.count() + 1
        while cls.objects.filter(name=f"RLHF-V{number}").exists():
            number += 1
        return f"RLHF-V{number}"

    @property
    def stage_label(self) -> str:
        """The stage's name as a run of it is called; empty before the first."""
        return str(Run.Kind(self.stage).label) if self.stage else ""

    def enter_stage(self, stage: str) -> bool:
        """queued or the stage before → running in ``stage``; False when someone else was first."""
        active = Round.objects.filter(
            pk=self.pk, state__in=[self.State.QUEUED, self.State.RUNNING], stage=self.stage
        )
        moved = active.update(state=self.State.RUNNING, stage=stage)
        self.refresh_from_db()
        return moved == 1

    def finish(self, evaluation: dict[str, object]) -> bool:
        """running → evaluated with the figures that the gate shows."""
        return self._move(self.State.RUNNING, self.State.EVALUATED, evaluation=evaluation)

    def fail(self, error: str) -> bool:
        return self._move(self.State.RUNNING, self.State.FAILED, error=error)

    def end_cancelled(self) -> bool:
        return self._move(self.State.RUNNING, self.State.CANCELLED)

    def resume(self) -> None:
        """failed | cancelled → running, in the stage that ended it. Raises WrongState."""
        ended = Round.objects.filter(
            pk=self.pk, state__in=[self.State.FAILED, self.State.CANCELLED]
        )
        moved = ended.update(state=self.State.RUNNING, error="", ended_at=None)
        self.refresh_from_db()
        if moved != 1:
            raise WrongState(f"{self.name} is {self.state}; only a failed round is resumed.")

    def hold(self) -> None:
        """evaluated → held: not good enough. Raises WrongState."""
        self._require(self.State.EVALUATED, self.State.HELD)

    def mark_released(self) -> None:
        """evaluated | held → released. Raises WrongState."""
        old = self.State.HELD if self.state == self.State.HELD else self.State.EVALUATED
        self._require(old, self.State.RELEASED)

    def _require(self, old: str, new: str) -> None:
        if not self._move(old, new):
            raise WrongState(
                f"{self.name} is {self.state}; only a round that is {old} can be {new}."
            )

    def _move(self, old: str, new: str, **fields: object) -> bool:
        moved = Round.objects.filter(pk=self.pk, state=old).update(
            state=new, ended_at=timezone.now(), **fields
        )
        self.refresh_from_db()
        return moved == 1
