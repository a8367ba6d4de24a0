"""Where people stand on their way to a skill, gate by gate, for the pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from annotation_app.models import (
    Attempt,
    Batch,
    FurtherAttempt,
    Gate,
    GateQuestion,
    Person,
    Qualification,
)
from annotation_app.models.qualification import QualificationQuerySet


class Standing(NamedTuple):
    """One person at one gate."""

    gate: Gate
    attempts: list[Attempt]
    allowed: int
    is_next: bool  # everything before it is passed, and it is not
    is_declined: bool  # it shows safety texts, and the person does no safety work

    @property
    def newest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def left(self) -> int:
        return max(0, self.allowed - len(self.attempts))

    @property
    def is_passed(self) -> bool:
        return any(attempt.state == Attempt.State.PASSED for attempt in self.attempts)

    @property
    def state(self) -> str:
        """What the page says: "failed" with nothing left to try, "open" where one may begin."""
        if self.is_passed:
            return "passed"
        if self.newest and self.newest.state in (Attempt.State.RUNNING, Attempt.State.WAITING):
            return self.newest.state
        if self.is_declined:
            return "declined"
        if not self.left:
            return "failed"
        if not self.gate.qualification.is_open:
            return "closed"
        return "open" if self.is_next else "later"

    @property
    def may_be_allowed(self) -> bool:
        """Whether a reviewer may give one more attempt."""
        return self.state == "failed" and bool(self.attempts)


class Way(NamedTuple):
    """One person's way through one qualification."""

    qualification: Qualification
    person: Person
    standings: list[Standing]

    @property
    def is_passed(self) -> bool:
        return all(standing.is_passed for standing in self.standings)

    @property
    def passed(self) -> int:
        return sum(standing.is_passed for standing in self.standings)

    @property
    def is_going_on(self) -> bool:
        """Whether an attempt runs or waits for its grades."""
        going_on = (Attempt.State.RUNNING, Attempt.State.WAITING)
        return any(standing.state in going_on for standing in self.standings)

    @property
    def is_at_its_last(self) -> bool:
        return self.passed == len(self.standings) - 1

    @property
    def next(self) -> Standing | None:
        return next((s for s in self.standings if s.is_next), None)


def ways(person: Person) -> list[Way]:
    """Through every open qualification, and through the closed ones that were tried."""
    mine = Attempt.objects.filter(person=person)
    mine.finish_overdue()
    attempts, further = list(mine), FurtherAttempt.objects.filter(person=person)
    allowed = [(leave.gate_id, leave.person_id) for leave in further]
    tried, declined = {attempt.gate_id for attempt in attempts}, _declined(person)
    found = []
    for qualification in Qualification.objects.with_gates():
        gates = list(qualification.gates.all())
        if qualification.is_open or tried & {gate.pk for gate in gates}:
            found.append(_way(qualification, person, gates, attempts, allowed, declined))
    return found


def ways_through(qualification: Qualification) -> list[Way]:
    """Everyone's who has tried, by name."""
    tried = Attempt.objects.filter(gate__qualification=qualification)
    tried.finish_overdue()
    people: dict[Person, list[Attempt]] = defaultdict(list)
    for attempt in tried.select_related("person"):
        people[attempt.person].append(attempt)
    further = FurtherAttempt.objects.filter(gate__qualification=qualification)
    allowed = [(leave.gate_id, leave.person_id) for leave in further]
    gates = list(qualification.gates.all())
    return [
        _way(qualification, person, gates, attempts, allowed)
        for person, attempts in sorted(people.items(), key=lambda item: item[0].username)
    ]


def way_of(person: Person, qualification: Qualification) -> Way:
    mine = Attempt.objects.filter(person=person, gate__qualification=qualification)
    mine.finish_overdue()
    further = FurtherAttempt.objects.filter(person=person, gate__qualification=qualification)
    allowed = [(leave.gate_id, leave.person_id) for leave in further]
    gates = list(qualification.gates.all())
    return _way(qualification, person, gates, list(mine), allowed, _declined(person))


def _declined(person: Person) -> set[int]:
    """The gates with safety texts, for someone who does no safety work; else none, unasked."""
    if person.does_safety:
        return set()
    return set(GateQuestion.objects.exclude(a_safe=None).values_list("gate", flat=True))


def _way(
    qualification: Qualification,
    person: Person,
    gates: Iterable[Gate],
    attempts: Sequence[Attempt],
    allowed: Sequence[tuple[int, int]],
    declined: Container[int] = (),
) -> Way:
    standings: list[Standing] = []
    for gate in gates:
        standing = Standing(
            gate=gate,
            attempts=[attempt for attempt in attempts if attempt.gate_id == gate.pk],
            allowed=gate.most_attempts + allowed.count((gate.pk, person.pk)),
            is_next=all(before.is_passed for before in standings),
            is_declined=gate.pk in declined,
        )
        standings.append(standing._replace(is_next=standing.is_next and not standing.is_passed))
    return Way(qualification, person, standings)


class Left(NamedTuple):
    """Whom another version finds on their way through the one before, or at its end."""

    holders: int
    on_an_attempt: int
    between_gates: int

    def __str__(self) -> str:
        return (
            f"whoever has the skill keeps it ({self.holders}); a running or ungraded attempt may "
            "be finished, and its last gate still gives the skill "
            f"({self.on_an_attempt}); whoever is between gates begins anew ({self.between_gates})."
        )


def left_in(qualification: Qualification) -> Left:
    """Of everyone who is active: each once, as the first of the three that holds."""
    active = Person.objects.filter(is_active=True)
    holders = active.filter(skills=qualification.skill_id)
    others = active.exclude(skills=qualification.skill_id)
    tried = Attempt.objects.filter(gate__qualification=qualification)
    going_on = [Attempt.State.RUNNING, Attempt.State.WAITING]
    on_an_attempt = others.filter(attempts__in=tried.filter(state__in=going_on)).distinct()
    passed = others.filter(attempts__in=tried.filter(state=Attempt.State.PASSED)).distinct()
    between = passed.exclude(pk__in=on_an_attempt.values("pk"))
    return Left(holders.count(), on_an_attempt.count(), between.count())


def leading_to_work(person: Person, batch: Batch) -> QualificationQuerySet:
    """The open qualifications for what the batch asks and this person does not have."""
    missing = batch.required_skills.exclude(people=person)
    return Qualification.objects.open().filter(skill__in=missing)
