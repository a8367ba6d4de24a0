"""The hot path: draw the next comparison, record an answer. Raw SQL, and the only raw SQL.

Every annotation passes here, so these few statements are written by hand: the same for both
databases but for one lock, and on PostgreSQL the usual case in one statement. A transaction holds
the person's seat first, then at most one free comparison (``SKIP LOCKED``: nobody waits for another
annotator's row); on SQLite it holds the one write lock. Whatever interleaves, the unique
constraints on slots and people decide, and the loser of a race draws again.

A draw goes on behind the comparison that this person drew last, so it costs the same in a batch of
a thousand and of a million; only when nothing is left there does it look at the whole batch again.

By chance, at the rates that the organisation has set, a draw gives no work but a probe: a reference
comparison, whose answer is known, or one that the person has judged days ago, its sides exchanged.
"""

from __future__ import annotations

import fcntl
import json
import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

TRIES = 5
BLOCK = 10  # draws, in half of which response a stands left
RE_SERVE_DAYS = 14  # how far back work may lie that is served again

SEAT = """
SELECT draws, sides, last_priority, last_comparison,
  (SELECT min(a.id) FROM annotation_app_annotation a
   WHERE a.annotator_id = %(annotator)s AND a.state = 'leased' AND a.batch_id = %(batch)s
     AND a.id <> %(beside)s AND a.lease_expires_at > %(now)s),
  (SELECT o.reference_rate FROM annotation_app_organisation o),
  (SELECT o.re_serve_rate FROM annotation_app_organisation o),
  (SELECT o.re_serve_after_days FROM annotation_app_organisation o)
FROM annotation_app_seat WHERE annotator_id = %(annotator)s AND batch_id = %(batch)s"""
TAKE_SEAT = """
INSERT INTO annotation_app_seat (annotator_id, batch_id, draws, sides)
VALUES (%(annotator)s, %(batch)s, 0, '') ON CONFLICT DO NOTHING"""
# Who may be given a comparison of this batch now; cards.why_nothing says the same in sentences.
MAY_WORK = """EXISTS (
  SELECT 1 FROM annotation_app_batch b
    JOIN annotation_app_person p ON p.id = %(annotator)s
    LEFT JOIN annotation_app_organisation o ON o.id = 1
  WHERE b.id = %(batch)s AND b.state = 'open' AND p.paused_reason = ''
    AND (b.most_per_annotator IS NULL OR b.most_per_annotator > coalesce((
      SELECT s.draws FROM annotation_app_seat s
      WHERE s.annotator_id = p.id AND s.batch_id = b.id), 0))
    AND (b.criterion <> 'safety' OR p.does_safety AND (o.safety_daily_cap IS NULL
      OR o.safety_daily_cap > (
        SELECT count(*) FROM annotation_app_annotation a
          JOIN annotation_app_comparison c ON c.id = a.comparison_id
        WHERE a.annotator_id = p.id AND a.leased_at >= %(today)s AND a.state <> 'expired'
          AND a.purpose <> 'review' AND c.criterion = 'safety')))
    AND NOT EXISTS (
      SELECT 1 FROM annotation_app_batch_required_skills r
      WHERE r.batch_id = b.id AND r.skill_id NOT IN (
        SELECT h.skill_id FROM annotation_app_person_skills h WHERE h.person_id = p.id)))"""
# Counted, not "not exists": a planner turns that into a join with all the person has ever done.
PICK = """
UPDATE annotation_app_comparison SET open_slots = open_slots - 1
WHERE id = (
  SELECT c.id FROM annotation_app_comparison c
  WHERE c.batch_id = %(batch)s AND c.open_slots > 0 AND c.unusable_reason = '' AND {where}
    AND {may_work}
    AND 0 = (
      SELECT count(*) FROM annotation_app_annotation a
      WHERE a.comparison_id = c.id AND a.annotator_id = %(annotator)s AND a.state <> 'expired')
  ORDER BY c.priority DESC, c.id LIMIT 1 {lock})
RETURNING id, priority, overlap"""
BEHIND_THE_LAST = "c.priority = %(last_priority)s AND c.id > %(last_comparison)s"
WHERES = (BEHIND_THE_LAST, "c.priority < %(last_priority)s", "1 = 1")
SKIP_LOCKED = "FOR UPDATE OF c SKIP LOCKED"
GIVE = """
INSERT INTO annotation_app_annotation
  (batch_id, annotator_id, state, choice, strength, reason, leased_at, lease_expires_at,
   guideline_version, comparison_id, purpose, overlap, shown_left, slot)
SELECT %(batch)s, %(annotator)s, 'leased', '', '', '', %(now)s, %(expires)s,
  (SELECT coalesce(max(g.version), 1) FROM annotation_app_guideline g
   WHERE g.criterion = (SELECT b.criterion FROM annotation_app_batch b WHERE b.id = %(batch)s)),
  """
LEASE = (
    GIVE
    + """{comparison}, 'work', {overlap}, {shown_left},
  (WITH RECURSIVE slots(n) AS (
     SELECT 0 UNION ALL SELECT n + 1 FROM slots WHERE n + 1 < {overlap})
   SELECT min(n) FROM slots WHERE n NOT IN (
     SELECT slot FROM annotation_app_annotation
     WHERE comparison_id = {comparison} AND slot IS NOT NULL
       AND state IN ('leased', 'recorded')))
{source} RETURNING id"""
)
LEASE_PICKED = LEASE.format(
    comparison="%(comparison)s", overlap="%(overlap)s", shown_left="%(shown_left)s", source=""
)
OF_THE_CRITERION = """
  c.criterion = (SELECT b.criterion FROM annotation_app_batch b WHERE b.id = %(batch)s)"""
REFERENCE = (
    GIVE
    + f"""c.id, 'reference', c.overlap, %(shown_left)s, NULL
FROM annotation_app_comparison c JOIN annotation_app_reference r ON r.comparison_id = c.id
WHERE r.retired_at IS NULL AND {OF_THE_CRITERION} AND {MAY_WORK}
  AND 0 = (
    SELECT count(*) FROM annotation_app_annotation a
    WHERE a.comparison_id = c.id AND a.annotator_id = %(annotator)s AND a.state <> 'expired')
ORDER BY random() LIMIT 1 RETURNING id"""
)
RE_SERVE = (
    GIVE
    + f"""c.id, 're-serve', c.overlap, CASE w.shown_left WHEN 'a' THEN 'b' ELSE 'a' END, NULL
FROM annotation_app_annotation w JOIN annotation_app_comparison c ON c.id = w.comparison_id
WHERE w.annotator_id = %(annotator)s AND w.purpose = 'work' AND w.state = 'recorded'
  AND w.leased_at >= %(since)s AND w.leased_at <= %(until)s
  AND {OF_THE_CRITERION} AND {MAY_WORK}
  AND 0 = (
    SELECT count(*) FROM annotation_app_annotation a
    WHERE a.comparison_id = c.id AND a.annotator_id = %(annotator)s AND a.purpose = 're-serve'
      AND a.state <> 'expired')
ORDER BY w.leased_at LIMIT 1 RETURNING id"""
)
MOVE_SEAT = """
UPDATE annotation_app_seat SET draws = %(draws)s, sides = %(sides)s,
  last_priority = %(last_priority)s, last_comparison = %(last_comparison)s
WHERE annotator_id = %(annotator)s AND batch_id = %(batch)s"""
RECORD = """
UPDATE annotation_app_annotation SET state = 'recorded', choice = %(choice)s,
  strength = %(strength)s, a_safe = %(a_safe)s, b_safe = %(b_safe)s,
  active_seconds = %(active_seconds)s, idle_seconds = %(idle_seconds)s,
  a_seconds = %(a_seconds)s, b_seconds = %(b_seconds)s,
  guideline_version = coalesce(%(guideline_version)s, guideline_version), recorded_at = %(now)s
WHERE id = %(annotation)s AND annotator_id = %(annotator)s AND state = 'leased'"""

# PostgreSQL answers in one statement what otherwise are five and a transaction. It draws behind the
# last comparison only, and only work; where that gives nothing, the statements above do the rest.
AT_ONCE = """
WITH recorded AS ({record} RETURNING id),
seat AS (
  SELECT draws, last_priority, last_comparison,
    CASE WHEN draws %% 10 = 0 THEN %(fresh_sides)s ELSE sides END AS sides
  FROM annotation_app_seat
  WHERE annotator_id = %(annotator)s AND batch_id = %(batch)s FOR UPDATE),
held AS (
  SELECT min(a.id) AS id FROM annotation_app_annotation a
  WHERE a.annotator_id = %(annotator)s AND a.state = 'leased' AND a.batch_id = %(batch)s
    AND a.id NOT IN (%(beside)s, %(annotation)s) AND a.lease_expires_at > %(now)s),
picked AS ({pick}),
leased AS ({lease}),
moved AS (
  UPDATE annotation_app_seat SET draws = seat.draws + 1, sides = seat.sides,
    last_priority = picked.priority, last_comparison = picked.id
  FROM seat, picked WHERE annotator_id = %(annotator)s AND batch_id = %(batch)s)
SELECT (SELECT count(*) FROM recorded), (SELECT id FROM held), (SELECT id FROM leased)"""
AT_ONCE = AT_ONCE.format(
    record=RECORD,
    pick=PICK.format(
        may_work=MAY_WORK,
        where="c.priority = (SELECT last_priority FROM seat)"
        " AND c.id > (SELECT last_comparison FROM seat) AND (SELECT id FROM held) IS NULL"
        " AND %(chance)s >= coalesce((SELECT o.reference_rate + o.re_serve_rate"
        " FROM annotation_app_organisation o), 0)",
        lock=SKIP_LOCKED,
    ),
    lease=LEASE.format(
        comparison="picked.id",
        overlap="picked.overlap",
        shown_left="substr(seat.sides, seat.draws %% 10 + 1, 1)",
        source="FROM picked, seat",
    ),
)


QUESTION = """
SELECT a.id, a.annotator_id, a.state, a.purpose, a.shown_left, b.criterion, a.batch_id,
  b.state, a.guideline_version{texts}
FROM annotation_app_annotation a
JOIN annotation_app_batch b ON b.id = a.batch_id{joins}
WHERE a.id = %s"""
TEXTS = """, p.messages, l.text, r.text,
  (SELECT d.id FROM annotation_app_dialogue d
   WHERE d.id = p.dialogue_id AND d.annotator_id = a.annotator_id AND a.purpose = 'work')"""
JOINS = """
JOIN annotation_app_comparison c ON c.id = a.comparison_id
JOIN annotation_app_prompt p ON p.id = c.prompt_id
JOIN annotation_app_response l ON l.id =
  CASE a.shown_left WHEN 'a' THEN c.response_a_id ELSE c.response_b_id END
JOIN annotation_app_response r ON r.id =
  CASE a.shown_left WHEN 'a' THEN c.response_b_id ELSE c.response_a_id END"""


class Question(NamedTuple):
    """What is needed to judge whether an answer to an annotation may be stored, and how."""

    annotation: int
    annotator: int
    state: str
    purpose: str
    shown_left: str
    criterion: str
    batch: int
    batch_state: str
    guideline_version: int

    @property
    def is_open(self) -> bool:
        """Whether it still waits for its answer."""
        return self.state in ("leased", "expired")


class Card(NamedTuple):
    """A question with what the annotator sees: the dialogue, and a text on either side."""

    question: Question
    messages: list[dict[str, str]]
    left: str
    right: str
    dialogue: int | None  # the live dialogue of the annotator's own that it is a turn of


def read_question(annotation: int) -> Question | None:
    """The question of an annotation, or None where there is no such row."""
    with connection.cursor() as cursor:
        cursor.execute(QUESTION.format(texts="", joins=""), [annotation])
        found = cursor.fetchone()
    return None if found is None else Question(*found)


def read_card(annotation: int) -> Card | None:
    """The card of an annotation, or None where there is no such row."""
    with connection.cursor() as cursor:
        cursor.execute(QUESTION.format(texts=TEXTS, joins=JOINS), [annotation])
        found = cursor.fetchone()
    if found is None:
        return None
    *question, messages, left, right, dialogue = found
    read = json.loads(messages) if isinstance(messages, str) else messages
    return Card(Question(*question), read, left, right, dialogue)


def lease_next(annotator: int, batch: int, beside: int = 0) -> int | None:
    """Reserve a comparison of an open batch; returns the annotation's id.

    What the annotator holds already, other than ``beside``, comes first: so nobody holds more than
    the comparison in view and the one after it. None when nothing is left for them.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            with _write_turn(), transaction.atomic():
                return _lease_next(annotator, batch, beside, random.random())
        except IntegrityError:  # someone took that slot between our read and our write
            if not tries_left:
                raise
    raise AssertionError(TRIES)


def record_and_lease_next(
    annotation: int, annotator: int, answer: Mapping[str, Any], batch: int, beside: int
) -> tuple[datetime | None, int | None]:
    """Fill a leased row and reserve another comparison, in one transaction.

    Returns what ``record`` and ``lease_next`` do.
    """
    for _ in range(TRIES):
        try:
            if connection.vendor == "postgresql":
                return _record_and_lease_at_once(annotation, annotator, answer, batch, beside)
            with _write_turn(), transaction.atomic():
                recorded = record(annotation, annotator, answer)
                return recorded, _lease_next(annotator, batch, beside, random.random())
        except IntegrityError:
            continue
    return record(annotation, annotator, answer), None


def _record_and_lease_at_once(
    annotation: int, annotator: int, answer: Mapping[str, Any], batch: int, beside: int
) -> tuple[datetime | None, int | None]:
    now = timezone.now()
    known = {
        **answer, "annotation": annotation, "annotator": annotator, "batch": batch,
        "beside": beside, "fresh_sides": balanced_sides(), "now": now,
        "today": _midnight(now),
        "expires": now + timedelta(seconds=settings.LEASE_SECONDS),
        "chance": random.random(),
    }  # fmt: skip
    # One statement is a transaction; inside another one, as in tests, a failure must not end that.
    around = transaction.atomic() if connection.in_atomic_block else nullcontext()
    with around, connection.cursor() as cursor:
        cursor.execute(AT_ONCE, known)
        recorded, held, leased = cursor.fetchone()
    if held is None and leased is None:
        with transaction.atomic():
            leased = _lease_next(annotator, batch, beside, known["chance"])
    return now if recorded else None, held or leased


def record(annotation: int, annotator: int, answer: Mapping[str, Any]) -> datetime | None:
    """leased → recorded, and when; None where the row is not this annotator's running lease."""
    now = timezone.now()
    keys = {"annotation": annotation, "annotator": annotator, "now": _stored(now)}
    with connection.cursor() as cursor:
        cursor.execute(RECORD, {**answer, **keys})
        return now if cursor.rowcount == 1 else None


def _lease_next(annotator: int, batch: int, beside: int, chance: float) -> int | None:
    now = timezone.now()
    known: dict[str, Any] = {"annotator": annotator, "batch": batch, "beside": beside}
    known |= {"now": _stored(now), "today": _stored(_midnight(now))}
    known["expires"] = _stored(now + timedelta(seconds=settings.LEASE_SECONDS))
    with connection.cursor() as cursor:
        seat = _seat(cursor, known)
        if seat.held is not None:
            return seat.held
        sides = balanced_sides() if seat.draws % BLOCK == 0 else seat.sides
        known |= {"last_priority": seat.priority, "last_comparison": seat.comparison}
        known |= {"sides": sides, "shown_left": sides[seat.draws % BLOCK], "draws": seat.draws + 1}
        if chance < seat.reference_rate + seat.re_serve_rate:
            probe = _probe(cursor, known, seat, now, is_reference=chance < seat.reference_rate)
            if probe is not None:
                return probe
        return _work(cursor, known)


def _work(cursor: Any, known: dict[str, Any]) -> int | None:
    picked = _pick(cursor, known)
    if picked is None:
        return None
    comparison, priority, overlap = picked
    known |= {"comparison": comparison, "overlap": overlap}
    known |= {"last_comparison": comparison, "last_priority": priority}
    cursor.execute(LEASE_PICKED, known)
    (leased,) = cursor.fetchone()
    cursor.execute(MOVE_SEAT, known)
    return int(leased)


def _probe(
    cursor: Any, known: dict[str, Any], seat: Place, now: datetime, *, is_reference: bool
) -> int | None:
    """A reference comparison or a re-serve that this person has not had; None without one."""
    if is_reference:
        cursor.execute(REFERENCE, known)
        if (found := cursor.fetchone()) is None:
            return None
        cursor.execute(MOVE_SEAT, known)
        return int(found[0])
    until = now - timedelta(days=seat.re_serve_after_days)
    oldest = until - timedelta(days=RE_SERVE_DAYS)
    for since in (oldest + random.random() * (until - oldest), oldest):
        cursor.execute(RE_SERVE, known | {"since": _stored(since), "until": _stored(until)})
        if (found := cursor.fetchone()) is not None:
            return int(found[0])
    return None


def count_draw(annotator: int, batch: int) -> None:
    """Count a comparison that the annotator made as one they have drawn."""
    known: dict[str, Any] = {"annotator": annotator, "batch": batch, "beside": 0}
    known["now"] = _stored(timezone.now())
    with connection.cursor() as cursor:
        seat = _seat(cursor, known)
        known |= {"last_priority": seat.priority, "last_comparison": seat.comparison}
        known["draws"] = seat.draws + 1
        known["sides"] = seat.sides if seat.draws % BLOCK else balanced_sides()
        cursor.execute(MOVE_SEAT, known)


@contextmanager
def _write_turn() -> Iterator[None]:
    """On SQLite: wait for the write lock in a queue.

    Its own waiters sleep in growing steps and overtake each other, up to a second at full load.
    """
    if connection.vendor != "sqlite":
        yield
        return
    with open(f"{connection.settings_dict['NAME']}.turn", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stored(moment: datetime) -> Any:
    """A moment as the database's own columns hold it, so that they compare."""
    return connection.ops.adapt_datetimefield_value(moment)


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def balanced_sides() -> str:
    """Which response stands left in the next ten draws: in five of them a, in an order drawn."""
    sides = list("a" * (BLOCK // 2) + "b" * (BLOCK // 2))
    secrets.SystemRandom().shuffle(sides)
    return "".join(sides)


class Place(NamedTuple):
    """A row of SEAT: where a person stands in the batch, and how often they get a probe."""

    draws: int
    sides: str
    priority: int | None
    comparison: int | None
    held: int | None
    reference_rate: float
    re_serve_rate: float
    re_serve_after_days: int


def _seat(cursor: Any, known: dict[str, Any]) -> Place:
    lock = " FOR UPDATE" if connection.features.has_select_for_update else ""
    cursor.execute(SEAT + lock, known)
    found = cursor.fetchone()
    if found is None:
        cursor.execute(TAKE_SEAT, known)
        cursor.execute(SEAT + lock, known)
        found = cursor.fetchone()
    return Place(*found[:5], *(value or 0 for value in found[5:]))


def _pick(cursor: Any, known: dict[str, Any]) -> Any:
    lock = SKIP_LOCKED if connection.features.has_select_for_update else ""
    for where in WHERES if known["last_priority"] is not None else WHERES[-1:]:
        cursor.execute(PICK.format(may_work=MAY_WORK, where=where, lock=lock), known)
        if (picked := cursor.fetchone()) is not None:
            return picked
    return None
