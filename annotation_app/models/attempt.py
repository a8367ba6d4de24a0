"""One person's way through one gate: its questions in an order of their own, and a clock."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import F, FilteredRelation, Q
from django.utils import timezone

from annotation_app.models.choices import Criterion, Side, Strength, one_of
from annotation_app.models.person import DECLINED
from annotation_app.models.qualification import Gate, GateQuestion
from annotation_app.models.refusals import NoAttempt, NotAssigned, TimeOver

if TYPE_CHECKING:
    from annotation_app.models.grade import Grade
    from annotation_app.models.person import Person

GRACE = timedelta(seconds=5)  # for an answer that was on its way when the time ended


class AttemptQuerySet(models.QuerySet["Attempt"]):
    def running(self) -> AttemptQuerySet:
        return self.filter(state=Attempt.State.RUNNING)

    def finish_overdue(self) -> int:
        """Finish those whose time has run out, with what was answered; returns how many."""
        overdue = self.running().filter(ends_at__lt=timezone.now() - GRACE)
        return sum(attempt.finish() for attempt in overdue.select_related("gate"))


class Attempt(models.Model):
    """running → passed | failed, or running → waiting (for grades) → passed | failed.

    Its answers are rows from the beginning, empty ones, so that the order of the questions and the
    side of every response are drawn once.
    """

    class State(models.TextChoices):
        RUNNING = "running"
        WAITING = "waiting"
        PASSED = "passed"
        FAILED = "failed"

    gate = models.ForeignKey(Gate, models.PROTECT, related_name="attempts")
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="attempts")
    number = models.PositiveIntegerField(help_text="of this person at this gate: 1, 2 …")
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    score = models.FloatField(null=True, help_text="share of right answers, or mean grade")
    started_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True, help_text="when it was passed or failed")

    objects = AttemptQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="attempt_number_once", fields=["gate", "person", "number"]
            ),
            models.UniqueConstraint(
                name="attempt_one_running_or_waiting",
                fields=["gate", "person"],
                condition=Q(state__in=["running", "waiting"]),
            ),
            models.UniqueConstraint(
                name="attempt_passed_once", fields=["gate", "person"], condition=Q(state="passed")
            ),
            models.CheckConstraint(
                name="attempt_state_known",
                condition=one_of("state", ["running", "waiting", "passed", "failed"]),
            ),
        ]
        indexes = [
            models.Index(fields=["ends_at"], name="attempt_ends", condition=Q(state="running")),
            models.Index(fields=["person", "gate"], name="attempt_person_gate"),
        ]
        ordering = ("gate", "person", "number")

    def __str__(self) -> str:
        return f"attempt {self.number} at {self.gate}"

    @classmethod
    def begin(cls, gate: Gate, person: Person) -> Attempt:
        """The running attempt, or a new one whose clock starts now. Raises NoAttempt."""
        mine = cls.objects.filter(gate=gate, person=person)
        mine.finish_overdue()
        if running := mine.running().first():
            return running
        try:
            with transaction.atomic():
                return cls._create(gate, person, refuse_attempt(gate, person) + 1)
        except IntegrityError:  # another tab was faster
            if running := mine.running().first():
                return running
            raise NoAttempt("Another tab has just been here; look again.") from None

    @classmethod
    def _create(cls, gate: Gate, person: Person, number: int) -> Attempt:
        now = timezone.now()
        attempt = cls.objects.create(
            gate=gate,
            person=person,
            number=number,
            started_at=now,
            ends_at=now + timedelta(seconds=gate.seconds) if gate.seconds else None,
        )
        AttemptAnswer.objects.bulk_create(
            AttemptAnswer(attempt=attempt, question=question, position=position, shown_left=side)
            for position, (question, side) in enumerate(drawn(gate), start=1)
        )
        return attempt

    @property
    def is_running(self) -> bool:
        return self.state == Attempt.State.RUNNING

    @property
    def time_is_over(self) -> bool:
        return self.ends_at is not None and self.ends_at <= timezone.now()

    @property
    def seconds_left(self) -> float | None:
        """None without a time limit."""
        if self.ends_at is None:
            return None
        return max(0.0, (self.ends_at - timezone.now()).total_seconds())

    def answer(self, position: int, **given: Any) -> datetime:
        """Store or replace the answer to one of the questions. Raises TimeOver."""
        now = timezone.now()
        with transaction.atomic():
            if self._hold() and not (self.ends_at and self.ends_at + GRACE < now):
                empty = given.get("text") == ""
                answers = AttemptAnswer.objects.filter(attempt=self, position=position)
                answers.update(**given, answered_at=None if empty else now)
                return now
        Attempt.objects.filter(pk=self.pk).finish_overdue()
        self.refresh_from_db()
        ended = self.ends_at if self.time_is_over and self.ends_at else self.finished_at or now
        raise TimeOver(
            f"This attempt ended at {min(ended, now):%H:%M:%S} UTC; this answer was not stored."
        )

    def finish(self) -> bool:
        """running → passed | failed | waiting; False where it was finished before.

        Raises NoAttempt for fewer texts than are asked for while there is time to write them.
        """
        with transaction.atomic():
            if not self._hold():
                return False
            answers = list(self.answers.select_related("question"))
            given = sum(answer.answered_at is not None for answer in answers)
            missing = self.gate.ask - given if self.gate.is_writing else 0
            if missing > 0 and not self.time_is_over:
                raise NoAttempt(
                    f"“{self.gate}” asks for {self.gate.asks}; you have written {given} so far."
                )
            now = timezone.now()
            ended = {"finished_at": min(now, self.ends_at) if self.ends_at else now}
            if not self.gate.is_writing:
                self._decide(sum(a.is_right for a in answers) / len(answers), **ended)
            elif missing > 0:
                self._move(Attempt.State.RUNNING, Attempt.State.FAILED, decided_at=now, **ended)
            else:
                self._move(Attempt.State.RUNNING, Attempt.State.WAITING, **ended)
        return True

    def _decide(self, score: float, **fields: Any) -> None:
        """→ passed | failed; whoever passes the last gate has the skill."""
        state = Attempt.State.PASSED if self.gate.is_passed_by(score) else Attempt.State.FAILED
        self._move(self.state, state, score=score, decided_at=timezone.now(), **fields)
        gates = Gate.objects.filter(qualification=self.gate.qualification_id)
        if state == Attempt.State.PASSED and not gates.filter(position__gt=self.gate.position):
            self.person.skills.add(self.gate.qualification.skill_id)

    def decide_by_grades(self) -> None:
        """waiting → passed | failed once every text has its grade; called inside a transaction."""
        if not self.waits():
            return
        grades = self.answers.given().grades()
        known = [grade for grade in grades if grade is not None]
        if len(known) == len(grades):
            self._decide(sum(known) / len(known))

    def waits(self) -> bool:
        """Whether it waits for grades; locked until the transaction ends."""
        return self._hold(Attempt.State.WAITING)

    def _hold(self, state: str = State.RUNNING) -> bool:
        """Lock the row until the transaction ends; whether it is in this state."""
        mine = Attempt.objects.select_for_update().filter(pk=self.pk)
        self.state = mine.values_list("state", flat=True).get()
        return self.state == state

    def _move(self, old: str, new: str, **fields: Any) -> None:
        moved = Attempt.objects.filter(pk=self.pk, state=old).update(state=new, **fields)
        assert moved == 1, (self.pk, old, new)
        self.refresh_from_db()


def refuse_attempt(gate: Gate, person: Person) -> int:
    """How many attempts there were, where one more may begin. Raises NoAttempt."""
    made = list(Attempt.objects.filter(gate=gate, person=person).values_list("state", flat=True))
    if Attempt.State.PASSED in made:
        raise NoAttempt(f"You have passed “{gate}”.")
    if Attempt.State.WAITING in made:
        raise NoAttempt(f"A reviewer still grades what you wrote for “{gate}”.")
    if not gate.qualification.is_open:
        raise NoAttempt(gate.qualification.closed_sentence)
    if not person.does_safety and gate.shows_safety():
        raise NoAttempt(f"“{gate}” shows safety texts. {DECLINED}")
    before = Gate.objects.filter(
        qualification=gate.qualification_id, position__lt=gate.position
    ).exclude(attempts__in=Attempt.objects.filter(person=person, state=Attempt.State.PASSED))
    if (first := before.first()) is not None:
        raise NoAttempt(f"“{gate}” opens when you have passed “{first}”.")
    if len(made) >= attempts_allowed(gate, person):
        times = "attempt" if len(made) == 1 else f"{len(made)} attempts"
        raise NoAttempt(f"You have used your {times} at “{gate}”; a reviewer may allow another.")
    return len(made)


def attempts_allowed(gate: Gate, person: Person) -> int:
    """How often this person may try: as often as everyone, and as reviewers have allowed."""
    return gate.most_attempts + FurtherAttempt.objects.filter(gate=gate, person=person).count()


def drawn(gate: Gate) -> list[tuple[GateQuestion, str]]:
    """The questions of one attempt in a drawn order, each with the side that stands left.

    Of a writing gate all, since people choose what to write; of the others as many as it asks.
    """
    random = secrets.SystemRandom()
    questions = list(gate.questions.all())
    random.shuffle(questions)
    if not gate.is_writing:
        questions = questions[: gate.ask]
    sides = [Side.values[number % 2] for number in range(len(questions) + 1)]
    random.shuffle(sides)
    return list(zip(questions, sides, strict=False))


class AttemptAnswerQuerySet(models.QuerySet["AttemptAnswer"]):
    def given(self) -> AttemptAnswerQuerySet:
        return self.exclude(answered_at=None)

    def grades(self) -> list[int | None]:
        """The standing grade of each, None where there is none."""
        standing = FilteredRelation("grades", condition=Q(grades__superseded_at=None))
        return list(self.annotate(standing=standing).values_list("standing__value", flat=True))

    def to_grade(self, reviewer: Person) -> AttemptAnswerQuerySet:
        """Texts that wait for a grade, oldest first; never one's own."""
        waiting = self.given().filter(attempt__state=Attempt.State.WAITING, grades=None)
        others = waiting.exclude(attempt__person=reviewer)
        return others.order_by("attempt__finished_at", "attempt", "position")


class AttemptAnswer(models.Model):
    """One question of an attempt and what was answered: an option, a comparison or a text."""

    attempt = models.ForeignKey(Attempt, models.PROTECT, related_name="answers")
    question = models.ForeignKey(GateQuestion, models.PROTECT, related_name="answers")
    position = models.PositiveSmallIntegerField(help_text="within the attempt: 1, 2 …")
    shown_left = models.CharField(max_length=1, choices=Side.choices)
    option = models.PositiveSmallIntegerField(null=True, help_text="from 0")
    choice = models.CharField(max_length=1, choices=Side.choices, blank=True, default="")
    strength = models.CharField(max_length=20, choices=Strength.choices, blank=True, default="")
    a_safe = models.BooleanField(null=True)
    b_safe = models.BooleanField(null=True)
    text = models.TextField(blank=True, default="")
    answered_at = models.DateTimeField(null=True)

    objects = AttemptAnswerQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="attempt_answer_question_once", fields=["attempt", "question"]
            ),
            models.UniqueConstraint(
                name="attempt_answer_position_once", fields=["attempt", "position"]
            ),
            models.CheckConstraint(
                name="attempt_answer_shown_left_known", condition=one_of("shown_left", ["a", "b"])
            ),
            models.CheckConstraint(
                name="attempt_answer_choice_known", condition=one_of("choice", ["", "a", "b"])
            ),
            models.CheckConstraint(
                name="attempt_answer_strength_known",
                condition=one_of(
                    "strength",
                    ["", "significantly_better", "better", "slightly_better", "negligibly_better"],
                ),
            ),
        ]
        ordering = ("attempt", "position")

    def __str__(self) -> str:
        return f"answer {self.position} of attempt {self.attempt_id}"

    @property
    def is_right(self) -> bool:
        """Whether it agrees with the reference; nothing answered agrees with nothing."""
        if self.answered_at is None:
            return False
        if self.question.is_comparison:
            return self.question.agrees_with(self.choice, self.strength, self.a_safe, self.b_safe)
        return self.option == self.question.answer

    @property
    def words(self) -> str:
        """What its author answered, as a table shows it."""
        if self.answered_at is None:
            return "no answer"
        if self.question.is_comparison:
            return f"{Strength(self.strength).label}: {self._response(self.choice)}"
        return self.text if self.option is None else str(self.question.options[self.option])

    @property
    def left(self) -> str:
        return self._response(self.shown_left)

    @property
    def right(self) -> str:
        return self._response(Side(self.shown_left).other)

    def _response(self, side: str) -> str:
        return self.question.response_a if side == Side.A else self.question.response_b

    @property
    def criterion(self) -> str:
        """What the form goes by: with marks of safety or without."""
        return Criterion.SAFETY if self.question.asks_for_safety else Criterion.HELPFULNESS

    @property
    def grade(self) -> Grade | None:
        """The grade that stands."""
        return next((grade for grade in self.grades.all() if grade.superseded_at is None), None)

    def last_to_grade(self, value: int) -> str:
        """What this grade would announce, as a sentence; empty while other texts have none."""
        others = self.attempt.answers.given().exclude(pk=self.pk).grades()
        known = [grade for grade in others if grade is not None]
        if len(known) < len(others):
            return ""
        mean = (value + sum(known)) / (1 + len(known))
        result = "passes" if self.attempt.gate.is_passed_by(mean) else "fails"
        return (
            f"This is the last grade of the attempt, which {result} with a mean of {mean:.2f}. Its "
            "author is told at once, and from then on no grade of it can be corrected."
        )


class FurtherAttempt(models.Model):
    """A reviewer's leave to try once more, after all attempts of a gate were used."""

    gate = models.ForeignKey(Gate, models.PROTECT, related_name="further_attempts")
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="further_attempts"
    )
    number = models.PositiveIntegerField(help_text="of the attempt that it allows")
    allowed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    allowed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="further_attempt_once", fields=["gate", "person", "number"]
            ),
            models.CheckConstraint(
                name="further_attempt_by_someone_else",
                condition=~Q(person=F("allowed_by")),
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} allowed"

    @classmethod
    def allow(cls, gate: Gate, person: Person, by: Person) -> None:
        """One more attempt, where all have been used and failed. Raises NoAttempt, NotAssigned."""
        if person.pk == by.pk:
            raise NotAssigned("Someone else decides about your own attempts.")
        Attempt.objects.filter(gate=gate, person=person).finish_overdue()
        if not gate.qualification.is_open:
            raise NoAttempt(gate.qualification.closed_sentence)
        states = Attempt.objects.filter(gate=gate, person=person).values_list("state", flat=True)
        used = len(states)
        if used < attempts_allowed(gate, person) or set(states) != {Attempt.State.FAILED}:
            raise NoAttempt(f"{person} has not used and failed every attempt at “{gate}”.")
        cls.objects.get_or_create(
            gate=gate, person=person, number=used + 1, defaults={"allowed_by": by}
        )
