"""Feedback other than preferences, as files: rows → JSON lines, streamed, nothing kept.

Demonstrations have the shape that ``python -m rlhf_loop.sft --data`` reads; a round that learns
from them freezes the same lines in the storage. What models said in the turns before is not learnt.
Ratings and comments carry the split of their dialogue's root; only train ones may be trained on.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from annotation_app import storage
from annotation_app.models import (
    Annotation,
    Batch,
    Demonstration,
    DemonstrationSet,
    Remark,
    Split,
)
from annotation_app.models.remark import RATINGS
from annotation_app.snapshots import CHUNK, annotator_hash
from rlhf_loop.config import LearntAnswers

SCALE = [RATINGS[0], RATINGS[-1]]


class Export(NamedTuple):
    """One file that researchers may download."""

    what: str
    line_count: Callable[[], int]
    records: Callable[[], Iterator[dict[str, Any]]]


def lines(name: str) -> Iterator[str]:
    """The file's lines, read from the database a chunk at a time."""
    for record in FILES[name].records():
        yield json.dumps(record, ensure_ascii=False) + "\n"


def demonstrations(split: str) -> QuerySet[Demonstration]:
    """Approved ones of one side of the split."""
    return (
        Demonstration.objects.approved()
        .filter(prompt__dialogue__root__split=split)
        .select_related("prompt__dialogue", "corrects")
        .order_by("pk")
    )


def _demonstration_records(split: str) -> Iterator[dict[str, Any]]:
    for row in demonstrations(split).iterator(CHUNK):
        yield _record(row, split)


def _record(row: Demonstration, split: str) -> dict[str, Any]:
    return {
        "messages": [*row.prompt.messages, {"role": "assistant", "content": row.text}],
        "id": f"demonstration-{row.pk}",
        "criterion": row.criterion,
        "corrects": None if row.corrects is None else row.corrects.text,
        "annotator": annotator_hash(row.author_id),
        "edited": row.supersedes_id is not None,
        "root": row.prompt.dialogue.root_id,
        "split": split,
        "answers": LearntAnswers.LAST,
        "risk_category": row.prompt.risk_category or None,
        "attack_vector": row.prompt.attack_vector or None,
    }


def freeze_demonstrations() -> DemonstrationSet | None:
    """The approved demonstrations that may be trained on, as a file that stays as it is; None
    without any."""
    rows = list(demonstrations(Split.TRAIN))
    if not rows:
        return None
    key = f"demonstrations/{uuid.uuid4().hex}.jsonl"
    with storage.new(key) as file:
        with file.open("w", encoding="utf-8", newline="\n") as opened:
            for row in rows:
                opened.write(json.dumps(_record(row, Split.TRAIN), ensure_ascii=False) + "\n")
        sha256 = storage.file_sha256(file)
        frozen = DemonstrationSet.objects.create(storage_key=key, sha256=sha256)
        frozen.demonstrations.set(rows)
    return frozen


def remarks() -> QuerySet[Remark]:
    """Those on answers that may become pairs: none to a round's models side by side."""
    worked = Annotation.objects.work().filter(
        comparison__unusable_reason="", comparison__batch__kind=Batch.Kind.PREFERENCE
    )
    return Remark.objects.filter(annotation__in=worked)


def rated(side: str) -> QuerySet[Remark]:
    return remarks().filter(**{f"{side}_rating__isnull": False})


def commented() -> QuerySet[Remark]:
    """Those with a comment or a reason."""
    return remarks().exclude(Q(comment="") & Q(a_tags=[]) & Q(b_tags=[]))


def _rating_records() -> Iterator[dict[str, Any]]:
    """A line for each rated response."""
    for remark in _with_texts(rated("a") | rated("b")):
        for side, rating in (("a", remark.a_rating), ("b", remark.b_rating)):
            if rating is not None:
                response = remark.annotation.comparison.response(side)
                yield _context(remark) | {
                    "response": response.text,
                    "rating": rating,
                    "scale": SCALE,
                    "checkpoint": response.checkpoint and response.checkpoint.name,
                }


def _comment_records() -> Iterator[dict[str, Any]]:
    for remark in _with_texts(commented()):
        comparison, tags = remark.annotation.comparison, (remark.a_tags, remark.b_tags)
        responses = (comparison.response_a.text, comparison.response_b.text)
        if remark.annotation.choice == Annotation.Choice.B:
            tags, responses = tags[::-1], responses[::-1]
        yield _context(remark) | {
            "chosen": responses[0],
            "rejected": responses[1],
            "strength": remark.annotation.strength,
            "comment": remark.comment,
            "chosen_tags": tags[0],
            "rejected_tags": tags[1],
        }


def _with_texts(found: QuerySet[Remark]) -> Iterator[Remark]:
    rows = found.select_related(
        "annotation__comparison__batch",
        "annotation__comparison__prompt__dialogue__root",
        "annotation__comparison__response_a__checkpoint",
        "annotation__comparison__response_b__checkpoint",
    )
    return rows.order_by("pk").iterator(CHUNK)


def _context(remark: Remark) -> dict[str, Any]:
    comparison = remark.annotation.comparison
    return {
        "prompt": comparison.prompt.messages,
        "criterion": comparison.criterion,
        "annotator": annotator_hash(remark.annotation.annotator_id),
        "comparison": f"comparison-{comparison.pk}",
        "batch": comparison.batch.name,
        "split": comparison.prompt.dialogue.root.split,
    }


FILES = {
    "demonstrations.jsonl": Export(
        "Approved demonstrations and corrected answers, for supervised fine-tuning",
        lambda: demonstrations(Split.TRAIN).count(),
        lambda: _demonstration_records(Split.TRAIN),
    ),
    "demonstrations-holdout.jsonl": Export(
        "The approved ones whose requests are held out: no model may train on them",
        lambda: demonstrations(Split.HOLDOUT).count(),
        lambda: _demonstration_records(Split.HOLDOUT),
    ),
    "ratings.jsonl": Export(
        "Ratings from 1 to 7, a line for each rated response",
        lambda: rated("a").count() + rated("b").count(),
        _rating_records,
    ),
    "comments.jsonl": Export(
        "Comments and reasons, a line for each comparison that has any",
        lambda: commented().count(),
        _comment_records,
    ),
}
