"""Rows → the files that runs read, each written once: snapshots of pairs, prompt sets."""

from __future__ import annotations

import hashlib
import hmac
import random
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from annotation_app import storage
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    DialogueRoot,
    Prompt,
    PromptSet,
    Response,
    Snapshot,
    Split,
)
from annotation_app.models.refusals import CannotStart
from reward.preferences import (
    ContradictorySafety,
    Criterion,
    Message,
    Origin,
    PreferencePair,
    PreferenceStrength,
    RiskCategory,
    Verdict,
    aggregate,
    write_pairs,
)
from reward.run_folder import write_json
from rlhf_loop.prompts import Prompt as LoopPrompt
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts

CHUNK = 500
SNAPSHOT_FILES = ("pairs", "holdout", "ties", "holdout_ties")

# --- snapshots: rows → pairs files ---------------------------------------------------------------


class Exported(NamedTuple):
    """One comparison on its way into a snapshot."""

    pair: PreferencePair
    is_tie: bool
    split: str
    batch_id: int
    annotation_ids: list[int]
    is_imported: bool


def write_snapshot(criterion: str, *, imported_only: bool = False) -> Snapshot:
    """Freeze what is collected so far: ``pairs.jsonl``, ``holdout.jsonl`` and the undecided ones,
    ``ties.jsonl`` and ``holdout_ties.jsonl``.

    The files carry the pairs of both criteria, each marked, because the recipe mixes them; the
    criterion names the model that will be trained. What people said of a round's models side by
    side is never among them. With ``imported_only`` neither is anything collected here; the counts
    ``collected`` and ``imported`` say what stands in any snapshot. Raises CannotStart when nothing
    of the criterion can be trained on.
    """
    counts: Counter[str] = Counter(collected=0, imported=0)
    groups = _divide(_exported(counts, imported_only), counts)
    read = (*groups["pairs"], *groups["holdout"], *groups["ties"])
    for item in (*read, *groups["holdout_ties"]):
        counts["imported" if item.is_imported else "collected"] += 1
    for name in ("pairs", "holdout"):
        of_criterion = [item for item in groups[name] if item.pair.criterion == criterion]
        counts[f"{criterion}_{name}"] = len(of_criterion)
    if not counts[f"{criterion}_pairs"]:
        how = "import some" if imported_only else "annotate some, or import some"
        words = f"imported {criterion}" if imported_only else criterion
        raise CannotStart(f"There is no {words} comparison with a choice to train on yet: {how}.")
    key = f"snapshots/{uuid.uuid4().hex}"
    with storage.new(key) as folder:
        folder.mkdir()
        for name, group in groups.items():
            counts[name] = write_pairs(folder / f"{name}.jsonl", (item.pair for item in group))
        used = [pk for item in read for pk in item.annotation_ids]
        manifest = {
            "criterion": criterion,
            "counts": dict(counts),
            "files": {
                f"{name}.jsonl": storage.file_sha256(folder / f"{name}.jsonl") for name in groups
            },
            "annotations": len(used),
        }
        write_json(folder / "manifest.json", manifest)
        return _store_snapshot(criterion, key, dict(counts), used)


@transaction.atomic
def _store_snapshot(
    criterion: str, key: str, counts: dict[str, int], annotation_ids: list[int]
) -> Snapshot:
    snapshot = Snapshot.objects.create(
        criterion=criterion,
        storage_key=key,
        sha256=storage.folder_sha256(storage.path(key)),
        counts=counts,
    )
    through = Snapshot.annotations.through
    through.objects.bulk_create(
        (through(snapshot_id=snapshot.pk, annotation_id=pk) for pk in annotation_ids),
        batch_size=5_000,
    )
    return snapshot


def _exported(counts: Counter[str], imported_only: bool) -> Iterator[Exported]:
    """Every usable comparison with recorded work, joined into one pair or tie each."""
    worked = Annotation.objects.work().filter(
        comparison__unusable_reason="", comparison__batch__kind=Batch.Kind.PREFERENCE
    )
    if imported_only:
        worked = worked.exclude(comparison__source_format="")
    comparisons = (
        Comparison.objects.filter(pk__in=worked.values("comparison"))
        .select_related("batch", "prompt__dialogue__root", "response_a", "response_b")
        .prefetch_related("response_a__checkpoint", "response_b__checkpoint")
        .order_by("pk")
    )
    parents = _parent_comparisons()
    for chunk in _chunks(comparisons.iterator(CHUNK)):
        verdicts: dict[int, list[Annotation]] = {}
        for annotation in worked.filter(comparison__in=chunk).order_by("pk"):
            verdicts.setdefault(annotation.comparison_id, []).append(annotation)
        for comparison in chunk:
            try:
                yield _export(comparison, verdicts[comparison.pk], parents)
            except ContradictorySafety:
                counts["contradictory"] += 1


def _chunks(comparisons: Iterator[Comparison]) -> Iterator[list[Comparison]]:
    chunk: list[Comparison] = []
    for comparison in comparisons:
        chunk.append(comparison)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _parent_comparisons() -> dict[int, int]:
    """response → the comparison it stood in, for the responses that a later turn continues."""
    continued = Prompt.objects.filter(parent__isnull=False).values("parent")
    found: dict[int, int] = {}
    for side in ("response_a", "response_b"):
        rows = Comparison.objects.filter(**{f"{side}__in": continued})
        found.update({response: pk for pk, response in rows.values_list("pk", f"{side}_id")})
    return found


def _export(
    comparison: Comparison, annotations: list[Annotation], parents: Mapping[int, int]
) -> Exported:
    """One comparison as a pair; a tie keeps a as chosen, with share 0.5."""
    verdicts = tuple(_verdict(annotation) for annotation in annotations)
    joined = aggregate(verdicts)
    chosen, rejected = comparison.response_a, comparison.response_b
    if joined.choice == "b":
        chosen, rejected = rejected, chosen
    prompt = comparison.prompt
    parent = parents.get(prompt.parent_id) if prompt.parent_id else None
    pair = PreferencePair(
        prompt=tuple(Message(m["role"], m["content"]) for m in prompt.messages),
        chosen=chosen.text,
        rejected=rejected.text,
        criterion=Criterion(comparison.criterion),
        id=f"comparison-{comparison.pk}",
        dialogue=f"dialogue-{prompt.dialogue_id}",
        root=prompt.dialogue.root_id,
        strength=joined.strength,
        safety=joined.safety,
        share=joined.share,
        verdicts=verdicts,
        turn=prompt.turn,
        parent=f"comparison-{parent}" if parent else None,
        batch=comparison.batch.name,
        source=comparison.source,
        risk_category=RiskCategory(prompt.risk_category) if prompt.risk_category else None,
        chosen_from=_origin(chosen),
        rejected_from=_origin(rejected),
    )
    ids = [annotation.pk for annotation in annotations]
    split = prompt.dialogue.root.split
    return Exported(
        pair, joined.choice is None, split, comparison.batch_id, ids,
        is_imported=bool(comparison.source_format),
    )  # fmt: skip


def _verdict(annotation: Annotation) -> Verdict:
    return Verdict(
        annotator=annotator_hash(annotation.annotator_id),
        choice=annotation.choice,
        strength=PreferenceStrength(annotation.strength) if annotation.strength else None,
        a_safe=annotation.a_safe,
        b_safe=annotation.b_safe,
    )


def annotator_hash(pk: int) -> str:
    """A keyed hash, so that exported files name nobody and still tell people apart."""
    key = settings.SECRET_KEY.encode()
    return hmac.new(key, f"annotator-{pk}".encode(), hashlib.sha256).hexdigest()[:16]


def _origin(response: Response) -> Origin | None:
    if response.checkpoint is None:
        return None
    return Origin(response.checkpoint.name, response.temperature, response.top_p, response.seed)


def _divide(exported: Iterable[Exported], counts: Counter[str]) -> dict[str, list[Exported]]:
    """The snapshot's files. Beyond the cap per batch a held-out pair stays unused."""
    files: dict[str, list[Exported]] = {name: [] for name in SNAPSHOT_FILES}
    held: Counter[int] = Counter()
    for item in exported:
        is_held_out = item.split != Split.TRAIN
        if item.is_tie:
            files["holdout_ties" if is_held_out else "ties"].append(item)
        elif not is_held_out:
            files["pairs"].append(item)
        elif held[item.batch_id] < settings.HOLDOUT_CAP_PER_BATCH:
            held[item.batch_id] += 1
            files["holdout"].append(item)
        else:
            counts["beyond_holdout_cap"] += 1
    return files


# --- prompt sets ---------------------------------------------------------------------------------


def write_prompt_set(
    name: str,
    prompts: Iterable[LoopPrompt],
    *,
    is_for_rounds: bool = True,
    is_for_measuring: bool = False,
) -> PromptSet:
    """Store prompts for rounds and batches, and enter their roots into the split.

    A prompt whose root already fell on the other side of the split is left out and counted.
    """
    prompts = list(prompts)
    wanted = {p.root: split_of(p.split) for p in prompts}
    DialogueRoot.objects.bulk_create(
        (DialogueRoot(hash=root, split=split) for root, split in wanted.items()),
        ignore_conflicts=True,
        batch_size=CHUNK,
    )
    stored: dict[str, str] = {}
    roots = list(wanted)
    for start in range(0, len(roots), CHUNK):
        rows = DialogueRoot.objects.filter(hash__in=roots[start : start + CHUNK])
        stored.update(rows.values_list("hash", "split"))
    kept = [p for p in prompts if stored[p.root] == split_of(p.split)]
    counts = Counter(str(p.split) for p in kept) + Counter(
        safety=sum(p.is_safety for p in kept), borderline=sum(p.is_borderline for p in kept)
    )
    counts["left_out"] = len(prompts) - len(kept)
    key = f"prompts/{uuid.uuid4().hex}.jsonl"
    with storage.new(key) as file:
        write_prompts(file, kept)
        return PromptSet.objects.create(
            name=name,
            storage_key=key,
            sha256=storage.file_sha256(file),
            counts=dict(counts),
            is_for_rounds=is_for_rounds,
            is_for_measuring=is_for_measuring,
        )


def prompts_of(prompt_set: PromptSet) -> list[LoopPrompt]:
    """Every prompt of a stored set."""
    return list(read_prompts(storage.path(prompt_set.storage_key)))


def split_of(split: PromptSplit) -> str:
    """Validation and test prompts are held out: no model ever trains on them."""
    return Split.TRAIN if split is PromptSplit.TRAIN else Split.HOLDOUT


def prompts_for_batch(prompt_set: PromptSet, criterion: str, count: int) -> list[LoopPrompt]:
    """Draw prompts to ask in a batch: train ones, and held-out ones that no gate is judged on.

    Test prompts are never asked: they are what versions are compared on.
    """
    file = storage.path(prompt_set.storage_key)
    asked = [
        prompt
        for prompt in read_prompts(file)
        if prompt.is_safety == (criterion == Criterion.SAFETY)
    ]
    train = [p for p in asked if p.split is PromptSplit.TRAIN]
    held_out = [p for p in asked if p.split is PromptSplit.VALIDATION]
    draw = random.SystemRandom()
    held_out_count = min(len(held_out), round(count * settings.HOLDOUT_SHARE))
    train_count = min(len(train), count - held_out_count)
    drawn = draw.sample(train, train_count) + draw.sample(held_out, held_out_count)
    draw.shuffle(drawn)
    return drawn
