"""What people show before their work counts: gates in an order, and the skill at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone

from annotation_app.models.choices import Side, Strength, one_of
from annotation_app.models.refusals import WrongState
from annotation_app.models.skill import Skill
from annotation_app.qualification_document import Document, GatePart, QuestionPart

if TYPE_CHECKING:
    from annotation_app.models.person import Person

STRENGTHS = list(Strength.values)


class QualificationQuerySet(models.QuerySet["Qualification"]):
    def open(self) -> QualificationQuerySet:
        return self.filter(is_open=True)

    def with_gates(self) -> QualificationQuerySet:
        """Two queries for any number of them: their skills, and their gates in order."""
        return self.select_related("skill").prefetch_related("gates")


class Qualification(models.Model):
    """One version of the way to a skill. It never changes: another document is a new version."""

    skill = models.ForeignKey(Skill, models.PROTECT, related_name="qualifications")
    version = models.PositiveIntegerField()
    title = models.CharField(max_length=120)
    introduction = models.TextField(blank=True, default="", help_text="Markdown")
    is_open = models.BooleanField(default=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)

    objects = QualificationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(name="qualification_version_once", fields=["skill", "version"]),
            models.UniqueConstraint(
                name="qualification_one_open_per_skill",
                fields=["skill"],
                condition=Q(is_open=True),
            ),
            models.CheckConstraint(
                name="qualification_version_counts", condition=Q(version__gte=1)
            ),
        ]
        ordering = ("skill__name", "-version")

    def __str__(self) -> str:
        return self.title

    @classmethod
    def publish(cls, document: Document, by: Person) -> Qualification:
        """Open this document in place of the version before it; the same again changes nothing.

        The old version's gates and results stay. Raises WrongState when someone else publishes
        for the same skill at the same moment.
        """
        skill = Skill.objects.filter(name=document.skill).first()
        current = cls.objects.open().filter(skill=skill).first() if skill else None
        if current is not None and current.document() == document:
            return current
        try:
            with transaction.atomic():
                skill = skill or Skill.objects.create(name=document.skill)
                return cls._store(skill, document, by)
        except IntegrityError as error:
            raise WrongState(
                f"Someone else published for “{document.skill}” at the same moment; try again."
            ) from error

    @classmethod
    def _store(cls, skill: Skill, document: Document, by: Person) -> Qualification:
        older = cls.objects.filter(skill=skill)
        older.open().update(is_open=False, closed_at=timezone.now())
        newest = older.aggregate(models.Max("version"))["version__max"] or 0
        stored = cls.objects.create(
            skill=skill,
            version=newest + 1,
            title=document.title,
            introduction=document.introduction,
            created_by=by,
        )
        for position, part in enumerate(document.gates, start=1):
            Gate.of(stored, position, part)
        return stored

    def close(self) -> None:
        """Nobody begins here any more; what runs goes on. Raises WrongState."""
        mine = Qualification.objects.open().filter(pk=self.pk)
        closed = mine.update(is_open=False, closed_at=timezone.now())
        self.refresh_from_db()
        if closed != 1:
            raise WrongState(self.closed_sentence)

    def before(self) -> Qualification | None:
        """The version that this one has taken the place of."""
        older = Qualification.objects.filter(skill=self.skill_id, version__lt=self.version)
        return older.first()

    def successor(self) -> Qualification | None:
        """The open version of the same skill, where this one is closed."""
        return Qualification.objects.open().filter(skill=self.skill_id).exclude(pk=self.pk).first()

    @property
    def closed_sentence(self) -> str:
        """The sentence for those who come too late."""
        return f"“{self}”, version {self.version}, is closed: nobody begins there any more."

    def document(self) -> Document:
        """The document that this version was made from."""
        gates = self.gates.prefetch_related("questions")
        return Document(
            skill=self.skill.name,
            title=self.title,
            introduction=self.introduction,
            gates=tuple(gate.part() for gate in gates),
        )


class Gate(models.Model):
    """One step: questions of one kind, the time for them, and what it takes to pass."""

    class Kind(models.TextChoices):
        QUIZ = "quiz"
        COMPARISONS = "comparisons"
        WRITING = "writing"

    qualification = models.ForeignKey(Qualification, models.PROTECT, related_name="gates")
    position = models.PositiveSmallIntegerField(help_text="1, 2 …")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    title = models.CharField(max_length=120)
    introduction = models.TextField(blank=True, default="", help_text="Markdown")
    seconds = models.PositiveIntegerField(null=True, help_text="empty for no limit")
    pass_mark = models.FloatField(help_text="share of right answers; writing: mean grade, 1 to 5")
    mark_is_exclusive = models.BooleanField(default=False, help_text="it must be exceeded")
    ask = models.PositiveSmallIntegerField(
        help_text="questions of an attempt, drawn anew each time; writing: texts at least"
    )
    most_attempts = models.PositiveSmallIntegerField(default=1)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="gate_position_once", fields=["qualification", "position"]
            ),
            models.CheckConstraint(
                name="gate_kind_known",
                condition=one_of("kind", ["quiz", "comparisons", "writing"]),
            ),
            models.CheckConstraint(
                name="gate_mark_can_be_met",
                condition=Q(kind="writing", pass_mark__gte=1, pass_mark__lte=5)
                | ~Q(kind="writing") & Q(pass_mark__gte=0, pass_mark__lte=1),
            ),
            models.CheckConstraint(
                name="gate_asks_and_may_be_tried",
                condition=Q(ask__gte=1, position__gte=1, most_attempts__gte=1),
            ),
        ]
        ordering = ("qualification", "position")

    def __str__(self) -> str:
        return self.title

    @classmethod
    def of(cls, qualification: Qualification, position: int, part: GatePart) -> Gate:
        """The rows of one gate of a document."""
        gate = cls.objects.create(
            qualification=qualification,
            position=position,
            kind=part.kind,
            title=part.title,
            introduction=part.introduction,
            seconds=part.seconds,
            pass_mark=part.pass_mark,
            mark_is_exclusive=part.mark_is_exclusive,
            ask=part.ask,
            most_attempts=part.most_attempts,
        )
        GateQuestion.objects.bulk_create(
            GateQuestion.of(gate, number, question)
            for number, question in enumerate(part.questions, start=1)
        )
        return gate

    def part(self) -> GatePart:
        return GatePart(
            kind=self.kind,
            title=self.title,
            introduction=self.introduction,
            seconds=self.seconds,
            pass_mark=self.pass_mark,
            mark_is_exclusive=self.mark_is_exclusive,
            ask=self.ask,
            most_attempts=self.most_attempts,
            questions=tuple(question.part() for question in self.questions.all()),
        )

    def shows_safety(self) -> bool:
        """Whether any of its questions asks what is safe."""
        return self.questions.exclude(a_safe=None).exists()

    @property
    def is_writing(self) -> bool:
        """Whether a reviewer grades it; the others are marked by their references."""
        return self.kind == Gate.Kind.WRITING

    def is_passed_by(self, score: float) -> bool:
        return score > self.pass_mark if self.mark_is_exclusive else score >= self.pass_mark

    @property
    def must(self) -> str:
        """What it takes to pass, in the words of a sentence's end."""
        if self.is_writing:
            more = "above" if self.mark_is_exclusive else "of at least"
            return f"a mean grade {more} {self.pass_mark:g} (of 5)"
        right = next(n for n in range(self.ask + 1) if self.is_passed_by(n / self.ask))
        return f"at least {right} of {self.ask} right"

    @property
    def asks(self) -> str:
        """How much there is to do."""
        if self.is_writing:
            return "1 text at least" if self.ask == 1 else f"{self.ask} texts at least"
        return "1 question" if self.ask == 1 else f"{self.ask} questions"

    @property
    def time(self) -> str:
        if self.seconds is None:
            return "no time limit"
        minutes, seconds = divmod(self.seconds, 60)
        return f"{minutes} min" * bool(minutes) + f" {seconds} s" * bool(seconds)


class GateQuestion(models.Model):
    """One question of a gate, with its reference, which never leaves the server.

    Its kind is in its columns: options to choose from, two responses to compare, or neither.
    """

    gate = models.ForeignKey(Gate, models.PROTECT, related_name="questions")
    position = models.PositiveSmallIntegerField()
    text = models.TextField(blank=True, default="", help_text="Markdown")
    messages = models.JSONField(default=list, help_text="[{role, content} …], to look at")
    options = models.JSONField(default=list, help_text="texts, one of which is right")
    answer = models.PositiveSmallIntegerField(null=True, help_text="the right option, from 0")
    response_a = models.TextField(blank=True, default="")
    response_b = models.TextField(blank=True, default="")
    choice = models.CharField(max_length=1, choices=Side.choices, blank=True, default="")
    strength = models.CharField(max_length=20, choices=Strength.choices, blank=True, default="")
    a_safe = models.BooleanField(null=True)
    b_safe = models.BooleanField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="gate_question_position_once", fields=["gate", "position"]
            ),
            models.CheckConstraint(
                name="gate_question_one_reference", condition=Q(answer=None) | Q(choice="")
            ),
            models.CheckConstraint(
                name="gate_question_choice_known", condition=one_of("choice", ["", "a", "b"])
            ),
            models.CheckConstraint(
                name="gate_question_strength_known",
                condition=one_of(
                    "strength",
                    ["", "significantly_better", "better", "slightly_better", "negligibly_better"],
                ),
            ),
        ]
        ordering = ("gate", "position")

    def __str__(self) -> str:
        return f"question {self.position} of {self.gate_id}"

    @classmethod
    def of(cls, gate: Gate, position: int, part: QuestionPart) -> GateQuestion:
        """The unsaved row of one question of a document."""
        return cls(
            gate=gate,
            position=position,
            text=part.text,
            messages=[dict(message) for message in part.messages],
            options=list(part.options),
            answer=part.answer,
            response_a=part.response_a,
            response_b=part.response_b,
            choice=part.choice,
            strength=part.strength,
            a_safe=part.a_safe,
            b_safe=part.b_safe,
        )

    def part(self) -> QuestionPart:
        return QuestionPart(
            text=self.text,
            messages=tuple(self.messages),
            options=tuple(self.options),
            answer=self.answer,
            response_a=self.response_a,
            response_b=self.response_b,
            choice=self.choice,
            strength=self.strength,
            a_safe=self.a_safe,
            b_safe=self.b_safe,
        )

    @property
    def is_comparison(self) -> bool:
        return self.choice != ""

    @property
    def heading(self) -> str:
        """What tells it from the others, in a line: the user's last message, or else its text."""
        said = [str(message["content"]) for message in self.messages if message["role"] == "user"]
        return said[-1] if said else self.text

    @property
    def asks_for_safety(self) -> bool:
        return self.a_safe is not None

    def agrees_with(
        self, choice: str, strength: str, a_safe: bool | None, b_safe: bool | None
    ) -> bool:
        """The same side, a strength at most one step away, and the same marks of safety."""
        if choice != self.choice:
            return False
        steps = (
            abs(STRENGTHS.index(strength) - STRENGTHS.index(self.strength)) if self.strength else 0
        )
        marks_agree = not self.asks_for_safety or (a_safe, b_safe) == (self.a_safe, self.b_safe)
        return steps <= 1 and marks_agree
