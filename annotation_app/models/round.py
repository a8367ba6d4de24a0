"""Rejection sampling → PPO → evaluate: from two promoted reward checkpoints to a chat one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.db.models import Case, Value, When
from django.utils import timezone

from annotation_app.models.checkpoint import Checkpoint, PromptSet
from annotation_app.models.choices import one_of
from annotation_app.models.demonstration import DemonstrationSet
from annotation_app.models.refusals import WrongState
from annotation_app.models.run import Run, storable

if TYPE_CHECKING:
    from annotation_app.models.person import Person


class RoundQuerySet(models.QuerySet["Round"]):
    def active(self) -> RoundQuerySet:
        """The one that is at work, if any."""
        return self.filter(state__in=[Round.State.QUEUED, Round.State.RUNNING])


class Round(models.Model):
    """queued → running (in a named stage) → evaluated | held → released → rolled_back.

    Evaluated is what the release gate lets pass, held what it does not, or a person; with a
    person's reason a held one is released all the same, and a rolled back one again. Or failed |
    cancelled, from which it is resumed in the same stage.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        EVALUATED = "evaluated"
        HELD = "held"
        RELEASED = "released"
        ROLLED_BACK = "rolled_back", "Rolled back"
        FAILED = "failed"
        CANCELLED = "cancelled"

    NEEDS_REASON = (State.HELD, State.ROLLED_BACK)  # to be released
    JUDGED_BY_PEOPLE = (State.EVALUATED, State.HELD, State.RELEASED)

    name = models.CharField(max_length=60, unique=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    stage = models.CharField(max_length=20, blank=True, default="")
    policy = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    helpfulness = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    safety = models.ForeignKey(Checkpoint, models.PROTECT, related_name="+")
    prompt_set = models.ForeignKey(PromptSet, models.PROTECT, related_name="rounds")
    measured_on = models.ManyToManyField(
        PromptSet, related_name="measured_rounds",
        help_text="prompts beside its own that its evaluation asks and no stage of it learns from",
    )  # fmt: skip
    demonstrations = models.ForeignKey(
        DemonstrationSet, models.PROTECT, null=True, related_name="rounds"
    )
    result = models.ForeignKey(Checkpoint, models.PROTECT, null=True, related_name="made_by_round")
    config = models.JSONField(default=dict, help_text="settings per stage")
    evaluation = models.JSONField(default=dict)
    held_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+",
        help_text="empty where the gate held it back",
    )  # fmt: skip
    error = models.TextField(blank=True, default="")
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    objects = RoundQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Case(When(one_of("state", ["queued", "running"]), then=Value(1))),
                name="round_one_active",
            ),
            models.CheckConstraint(
                name="round_state_known",
                condition=one_of(
                    "state",
                    ["queued", "running", "evaluated", "held", "released", "rolled_back",
                     "failed", "cancelled"],
                ),
            ),
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

    def finish(self, evaluation: Mapping[str, Any]) -> bool:
        """running → evaluated, or held where the gate does not pass these figures."""
        passes = _passes(evaluation)
        ended = self.State.EVALUATED if passes else self.State.HELD
        return self._move(self.State.RUNNING, ended, evaluation=dict(evaluation))

    def judge_again(self, evaluation: Mapping[str, Any]) -> None:
        """Figures that came later, with the gate's verdict on them all: evaluated ⇄ held.

        A person's decision stands: what someone held, released or rolled back stays it.
        """
        mine = Round.objects.filter(pk=self.pk)
        mine.update(evaluation=dict(evaluation))
        if _passes(evaluation):
            mine.filter(state=self.State.HELD, held_by=None).update(state=self.State.EVALUATED)
        else:
            mine.filter(state=self.State.EVALUATED).update(state=self.State.HELD)
        self.refresh_from_db()

    def fail(self, error: str) -> bool:
        """running → failed with the sentence that the page shows."""
        return self._move(self.State.RUNNING, self.State.FAILED, error=storable(error))

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

    def hold(self, by: Person | None = None) -> None:
        """evaluated → held: not good enough, says a person. Raises WrongState."""
        self._require(self.State.EVALUATED, self.State.HELD, held_by=by)

    def mark_released(self, reason: str = "") -> None:
        """evaluated → released; with a reason held | rolled_back → released too. Raises WrongState,
        also where the gate has come to hold it since the page was shown."""
        old = [self.State.EVALUATED, *(self.NEEDS_REASON if reason else ())]
        mine = Round.objects.filter(pk=self.pk, state__in=old)
        moved = mine.update(state=self.State.RELEASED, ended_at=timezone.now())
        self.refresh_from_db()
        if moved != 1:
            words = self.get_state_display().lower()
            if self.state in self.NEEDS_REASON:
                raise WrongState(f"{self.name} is {words}: to release it give a reason.")
            raise WrongState(f"{self.name} is {words}; only an evaluated round is released.")

    def mark_rolled_back(self) -> None:
        """released → rolled_back. Raises WrongState."""
        self._require(self.State.RELEASED, self.State.ROLLED_BACK)

    def _require(self, old: str, new: str, **fields: object) -> None:
        if not self._move(old, new, **fields):
            raise WrongState(
                f"{self.name} is {self.state}; only a round that is {old} can be {new}."
            )

    def _move(self, old: str, new: str, **fields: object) -> bool:
        moved = Round.objects.filter(pk=self.pk, state=old).update(
            state=new, ended_at=timezone.now(), **fields
        )
        self.refresh_from_db()
        return moved == 1


def _passes(evaluation: Mapping[str, Any]) -> bool:
    """What the gate said; where it was never asked there is nothing to release on."""
    gate = evaluation.get("gate")
    return bool(gate and gate["passes"])
