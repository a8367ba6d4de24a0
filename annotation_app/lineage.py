"""What led to a checkpoint: its runs back to the first weights, and the people's work they read.

A walk back a generation of runs at a time, with everything kept that was met on the way.
Annotations are counted by the database, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Count, Q, QuerySet

from annotation_app.models import (
    Annotation,
    Batch,
    Checkpoint,
    Demonstration,
    DemonstrationSet,
    PromptSet,
    Run,
    RunInput,
    Snapshot,
    Split,
)
from annotation_app.tables import Column, Table

OWN_BATCHES = (
    Column("Batch"), Column("Criterion"), Column("Comparisons trained on", "count"),
    Column("Comparisons held out", "count"), Column("Annotations", "count"),
    Column("Annotators", "count"),
)  # fmt: skip


class Step(NamedTuple):
    """A run on the way, what it made (None: data to learn from), and what it was given."""

    run: Run
    made: Checkpoint | None
    inputs: list[RunInput]
    pool: list[Run]
    """earlier rounds' rejection sampling, whose best answers competed in it"""

    @property
    def at(self) -> datetime | None:
        """When what it made was there."""
        return self.run.ended_at if self.made is None else self.made.created_at


class FromBatch(NamedTuple):
    """What of a batch stands behind the checkpoint."""

    batch: Batch
    trained: int
    """comparisons whose dialogue may be trained on, undecided ones included"""
    held_out: int
    annotations: int
    annotators: int


class Lineage(NamedTuple):
    steps: list[Step]
    """the newest first"""
    brought_in: list[Checkpoint]
    snapshots: list[Snapshot]
    prompt_sets: list[PromptSet]
    demonstration_sets: list[tuple[DemonstrationSet, int]]
    """with how many each holds"""


def lineage(checkpoint: Checkpoint) -> Lineage:
    """Everything that led to these weights. Queries: one for each generation of runs."""
    made: dict[int, Checkpoint | None] = {}
    inputs: dict[int, list[RunInput]] = {}
    brought_in: dict[int, Checkpoint] = {}
    pending, builders = [checkpoint], set[int]()
    while pending or builders:
        brought_in |= {it.pk: it for it in pending if it.run_id is None}
        new = {it.run_id: it for it in pending if it.run_id} | dict.fromkeys(builders)
        new = {run: it for run, it in new.items() if run not in made}
        made |= new
        given = list(_inputs(new))
        for item in given:
            inputs.setdefault(item.run_id, []).append(item)
        pending = [item.checkpoint for item in given if item.checkpoint is not None]
        builders = {item.other_run_id for item in given if item.other_run_id is not None}
    every = [item for given in inputs.values() for item in given]
    return Lineage(
        _steps(made, inputs),
        [brought_in[pk] for pk in sorted(brought_in)],
        _once(item.snapshot for item in every),
        _once(item.prompt_set for item in every),
        _counted(_once(item.demonstration_set for item in every)),
    )


def _inputs(runs: Iterable[int]) -> QuerySet[RunInput]:
    rows = RunInput.objects.filter(run__in=list(runs)).select_related(*RunInput.KINDS)
    return rows.order_by("pk")


def _counted(sets: Sequence[DemonstrationSet]) -> list[tuple[DemonstrationSet, int]]:
    held = DemonstrationSet.demonstrations.through.objects.filter(demonstrationset__in=sets)
    rows = held.values_list("demonstrationset").annotate(Count("pk")).order_by() if sets else []
    counts = dict(rows)
    return [(it, counts.get(it.pk, 0)) for it in sets]


def _once(found: Iterable[Any]) -> list[Any]:
    """Each of them once, in the order of their making."""
    rows = {it.pk: it for it in found if it is not None}
    return [rows[pk] for pk in sorted(rows)]


def _steps(
    made: Mapping[int, Checkpoint | None], inputs: Mapping[int, list[RunInput]]
) -> list[Step]:
    found = Run.objects.filter(pk__in=made).select_related("round", "asked_by")
    runs = list(found.defer("round__evaluation", "round__config").order_by("-pk"))
    pools = _pools(runs)
    return [Step(r, made[r.pk], inputs.get(r.pk, []), pools.get(r.pk, [])) for r in runs]


def _pools(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Whose selected answers competed in each rejection sampling, as ``exchange`` gave them."""
    asking = [
        run for run in runs
        if run.kind == Run.Kind.REJECTION and run.round and _has_pool(run)
    ]  # fmt: skip
    if not asking:
        return {}
    done = Run.objects.filter(kind=Run.Kind.REJECTION, state=Run.State.SUCCEEDED)
    ended = list(done.filter(ended_at__isnull=False).order_by("pk"))
    return {
        run.pk: [it for it in ended if run.round and it.ended_at and
                 it.ended_at < run.round.created_at]
        for run in asking
    }  # fmt: skip


def _has_pool(run: Run) -> bool:
    settings = run.config.get(Run.Kind.REJECTION, {})
    return bool(settings.get("pool", True)) and "earlier" not in settings


# --- the people's work ---------------------------------------------------------------------------


def annotations_of(snapshots: Sequence[Snapshot]) -> QuerySet[Annotation]:
    """What any of the snapshots holds, each once."""
    held = Snapshot.annotations.through.objects.filter(snapshot__in=snapshots)
    return Annotation.objects.filter(pk__in=held.values("annotation"))


def demonstrations_of(sets: Sequence[DemonstrationSet]) -> QuerySet[Demonstration]:
    """The same of what fine-tuning read."""
    held = DemonstrationSet.demonstrations.through.objects.filter(demonstrationset__in=sets)
    return Demonstration.objects.filter(pk__in=held.values("demonstration"))


_COUNTED = {
    "annotations": Count("pk"),
    "annotators": Count("annotator", distinct=True),
    "comparisons": Count("comparison", distinct=True),
    "batches": Count("comparison__batch", distinct=True),
}


def totals(annotations: QuerySet[Annotation]) -> dict[str, int]:
    """How many annotations, of how many comparisons in how many batches, by how many people."""
    return annotations.aggregate(**_COUNTED)


def by_criterion(annotations: QuerySet[Annotation]) -> list[dict[str, Any]]:
    """The same of each criterion."""
    rows = annotations.values("comparison__criterion").annotate(**_COUNTED)
    return [
        {**row, "criterion": row["comparison__criterion"]}
        for row in rows.order_by("comparison__criterion")
    ]


def by_batch(annotations: QuerySet[Annotation]) -> list[FromBatch]:
    """Batch by batch, the newest first."""
    in_training = Q(comparison__prompt__dialogue__root__split=Split.TRAIN)
    rows = annotations.values_list("comparison__batch").annotate(
        trained=Count("comparison", distinct=True, filter=in_training),
        held_out=Count("comparison", distinct=True, filter=~in_training),
        **{name: _COUNTED[name] for name in ("annotations", "annotators")},
    )
    found = {batch: counts for batch, *counts in rows.order_by()}
    batches = Batch.objects.filter(pk__in=found).order_by("-pk")
    return [FromBatch(batch, *found[batch.pk]) for batch in batches]


def batches_table(found: Sequence[FromBatch]) -> Table:
    """The batches as a table, for its file."""
    rows = [(it.batch.name, it.batch.criterion, *it[1:]) for it in found]
    title = "Batches behind it"
    counts = [sum(it.annotations for it in found)]
    return Table("batches", title, OWN_BATCHES, rows, None, "", counts, "annotations")
