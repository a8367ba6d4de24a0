"""Records become rows: one transaction for a file, in bulk, and each record once.

Memory grows with the distinct prompts and answers of the file (a digest and a key each), since
records that ask the same share their rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation_app.imports.records import Record
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Criterion,
    Dialogue,
    DialogueRoot,
    Person,
    Prompt,
    Response,
    Side,
)
from annotation_app.models.comparison import unusable_reason
from annotation_app.models.dialogue import split_by_hash
from annotation_app.models.refusals import WrongState
from reward.preferences import Message, Origin, Verdict, aggregate, dialogue_root

CHUNK = 500
LONGEST_BATCH_NAME = 120


@dataclass
class Summary:
    """What became of a file."""

    records: int = 0
    added: int = 0
    already_there: int = 0
    other_criterion: int = 0
    verdicts: int = 0
    tie_verdicts: int = 0
    tied_comparisons: int = 0
    unusable: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        unusable = ", ".join(f"{reason} {count}" for reason, count in sorted(self.unusable.items()))
        lines = [
            f"records: {self.records}",
            f"comparisons added: {self.added}",
            f"already there: {self.already_there}",
            f"unusable: {self.unusable.total()}" + (f" ({unusable})" if unusable else ""),
            f"verdicts: {self.verdicts}, of them ties: {self.tie_verdicts}",
            f"comparisons that end in a tie, and so make no pair: {self.tied_comparisons}",
        ]
        if self.other_criterion:
            lines.append(f"left out, being of the other criterion: {self.other_criterion}")
        return "\n".join(lines)


def import_records(
    records: Iterable[Record], *, source_format: str, criterion: str, batch_name: str
) -> Summary:
    """Store a file's comparisons in a closed batch; all of them or, on any error, none.

    The batch is made with its first comparison, already closed, so nothing that follows from
    closing a batch is set off. On SQLite the site's own writes wait until the file is through.

    Raises MalformedLine from the reader, and WrongState where the batch takes no imports.
    """
    try:
        with transaction.atomic():
            importing = _Import(source_format, criterion, _imported_batch(batch_name, criterion))
            for chunk in _chunks(records):
                importing.add(chunk)
    except IntegrityError as error:
        if "comparison_imported_once" not in str(error):
            raise
        raise WrongState(
            "The same records were being imported at the same time; nothing was kept. Try again."
        ) from error
    return importing.summary


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _imported_batch(name: str, criterion: str) -> Batch:
    """The closed batch of imports with this name, unsaved where there is none yet."""
    if not name.strip() or len(name) > LONGEST_BATCH_NAME:
        raise WrongState(f"A batch's name has 1 to {LONGEST_BATCH_NAME} characters, not {name!r}.")
    batch = Batch.objects.filter(name=name).first()
    if batch is None:
        return Batch(
            name=name,
            criterion=criterion,
            state=Batch.State.CLOSED,
            takes_written_prompts=False,
            closed_at=timezone.now(),
        )
    collected = batch.comparisons.filter(source_format="").exists()
    if batch.state != Batch.State.CLOSED or batch.week is not None or collected:
        raise WrongState(f"The batch {name!r} is one that people annotate; choose another name.")
    if batch.kind != Batch.Kind.PREFERENCE or batch.criterion != criterion:
        raise WrongState(f"The batch {name!r} holds {batch.criterion}, not {criterion}.")
    return batch


@dataclass
class _Import:
    """One file on its way in."""

    source_format: str
    criterion: str
    batch: Batch
    summary: Summary = field(default_factory=Summary)
    now: datetime = field(default_factory=timezone.now)
    last_record: int = 0
    prompts: dict[bytes, int] = field(default_factory=dict)
    responses: dict[bytes, int] = field(default_factory=dict)
    people: dict[str, int] = field(default_factory=dict)

    def add(self, chunk: Sequence[Record]) -> None:
        new = self._new(self._of_criterion(chunk))
        if not new:
            return
        records = list(new.values())
        if self.batch.pk is None:
            self.batch.overlap = max(1, *(len(record.verdicts) for record in records))
            self.batch.save()
        prompt_ids = self._store_prompts(records)
        answers = self._store_responses(records, prompt_ids)
        comparisons = Comparison.objects.bulk_create(
            self._comparison(known_by, record, prompt_id, answer_ids)
            for (known_by, record), prompt_id, answer_ids in zip(
                new.items(), prompt_ids, answers, strict=True
            )
        )
        Annotation.objects.bulk_create(
            self._annotation(comparison.pk, slot, verdict, record)
            for comparison, record in zip(comparisons, records, strict=True)
            for slot, verdict in enumerate(record.verdicts)
        )
        for comparison, record in zip(comparisons, records, strict=True):
            self._count(record, comparison.unusable_reason)

    def _of_criterion(self, chunk: Sequence[Record]) -> list[Record]:
        """The chunk without what its own file puts under the other criterion."""
        for record in chunk:
            self.summary.records += record.number != self.last_record
            self.last_record = record.number
        kept = [record for record in chunk if record.criterion in (None, self.criterion)]
        self.summary.other_criterion += len(chunk) - len(kept)
        return kept

    def _new(self, records: Sequence[Record]) -> dict[str, Record]:
        """Those not stored yet, by hash; of equal ones the first."""
        found: dict[str, Record] = {}
        for record in records:
            found.setdefault(record.hash, record)
        stored = Comparison.objects.filter(
            source_format=self.source_format, criterion=self.criterion, source_hash__in=found
        )
        for known_by in stored.values_list("source_hash", flat=True):
            del found[known_by]
        self.summary.already_there += len(records) - len(found)
        return found

    def _store_prompts(self, records: Sequence[Record]) -> list[int]:
        """The prompt row of each record; records that ask the same share one."""
        keys = [_digest(r.prompt, r.risk_category, self._source(r)) for r in records]
        missing = {
            key: record
            for key, record in zip(keys, records, strict=True)
            if key not in self.prompts
        }
        roots = [dialogue_root(record.prompt) for record in missing.values()]
        DialogueRoot.objects.bulk_create(
            (DialogueRoot(hash=root, split=split_by_hash(root)) for root in set(roots)),
            ignore_conflicts=True,
        )
        dialogues = Dialogue.objects.bulk_create(
            Dialogue(root_id=root, source=self._source(record))
            for root, record in zip(roots, missing.values(), strict=True)
        )
        prompts = Prompt.objects.bulk_create(
            self._prompt(dialogue, record)
            for dialogue, record in zip(dialogues, missing.values(), strict=True)
        )
        self.prompts.update(zip(missing, (prompt.pk for prompt in prompts), strict=True))
        return [self.prompts[key] for key in keys]

    def _prompt(self, dialogue: Dialogue, record: Record) -> Prompt:
        return Prompt(
            dialogue=dialogue,
            turn=sum(message.role == "user" for message in record.prompt),
            messages=[message._asdict() for message in record.prompt],
            is_safety=self.criterion == Criterion.SAFETY,
            risk_category=record.risk_category or "",
        )

    def _store_responses(
        self, records: Sequence[Record], prompt_ids: Sequence[int]
    ) -> list[tuple[int, int]]:
        """The rows of each record's two answers; equal answers to one prompt share one.

        A comparison of an answer with itself still needs two.
        """
        keys: list[tuple[bytes, bytes]] = []
        missing: dict[bytes, Response] = {}
        for record, prompt_id in zip(records, prompt_ids, strict=True):
            a = _digest(prompt_id, record.answer_a, record.a_from)
            b = _digest(prompt_id, record.answer_b, record.b_from)
            b = _digest("second", a.hex()) if a == b else b
            keys.append((a, b))
            for key, text, origin in (
                (a, record.answer_a, record.a_from),
                (b, record.answer_b, record.b_from),
            ):
                if key not in self.responses:
                    missing[key] = _response(prompt_id, text, origin)
        stored = Response.objects.bulk_create(missing.values())
        self.responses.update(zip(missing, (response.pk for response in stored), strict=True))
        return [(self.responses[a], self.responses[b]) for a, b in keys]

    def _comparison(
        self, known_by: str, record: Record, prompt_id: int, answer_ids: tuple[int, int]
    ) -> Comparison:
        return Comparison(
            batch=self.batch,
            criterion=self.criterion,
            prompt_id=prompt_id,
            response_a_id=answer_ids[0],
            response_b_id=answer_ids[1],
            overlap=max(1, len(record.verdicts)),
            open_slots=0,
            unusable_reason=_why_unusable(record),
            source=self._source(record),
            source_format=self.source_format,
            source_hash=known_by,
        )

    def _annotation(
        self, comparison_id: int, slot: int, verdict: Verdict, record: Record
    ) -> Annotation:
        return Annotation(
            comparison_id=comparison_id,
            batch=self.batch,
            annotator_id=self._person(verdict.annotator),
            purpose=Annotation.Purpose.WORK,
            state=Annotation.State.RECORDED,
            slot=slot,
            overlap=len(record.verdicts),
            shown_left=Side.A,
            choice=verdict.choice,
            strength=verdict.strength or "",
            a_safe=verdict.a_safe,
            b_safe=verdict.b_safe,
            leased_at=self.now,
            lease_expires_at=self.now,
            recorded_at=self.now,
        )

    def _person(self, name: str) -> int:
        if name not in self.people:
            self.people[name] = Person.imported(self.source_format, name).pk
        return self.people[name]

    def _source(self, record: Record) -> str:
        return record.source or self.source_format

    def _count(self, record: Record, reason: str) -> None:
        self.summary.added += 1
        self.summary.verdicts += len(record.verdicts)
        self.summary.tie_verdicts += sum(verdict.choice == "tie" for verdict in record.verdicts)
        if reason:
            self.summary.unusable[reason] += 1
        else:
            choices = [Verdict(verdict.annotator, verdict.choice) for verdict in record.verdicts]
            self.summary.tied_comparisons += aggregate(choices).choice is None


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _response(prompt_id: int, text: str, origin: Origin | None) -> Response:
    """An answer from elsewhere. Its checkpoint is none of ours, whatever its name."""
    return Response(
        prompt_id=prompt_id,
        text=text,
        temperature=origin.temperature if origin else None,
        top_p=origin.top_p if origin else None,
        seed=origin.seed if origin else None,
    )


def _why_unusable(record: Record) -> str:
    return (
        record.unusable_reason
        or _prompt_fault(record.prompt)
        or unusable_reason(record.answer_a, record.answer_b)
    )


def _prompt_fault(prompt: Sequence[Message]) -> str:
    if not prompt or prompt[-1].role != "user":
        return "prompt does not end with the user"
    return "" if prompt[-1].content.strip() else "empty prompt"
