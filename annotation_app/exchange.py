"""The border between rows and files: snapshots and commands go out, run folders come in."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import shlex
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction

from annotation_app import measuring, storage
from annotation_app.models import (
    Annotation,
    Batch,
    Checkpoint,
    Comparison,
    Dialogue,
    DialogueRoot,
    Prompt,
    PromptSet,
    Response,
    Run,
    Snapshot,
    Split,
    Variant,
)
from annotation_app.models.checkpoint import reward_kind
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
    read_json_lines,
    write_pairs,
)
from reward.run_folder import RunFolder, write_json
from reward.settings import from_mapping, to_flags
from rlhf_loop.config import RoundConfig
from rlhf_loop.prompts import Prompt as LoopPrompt
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.round import STAGES, stage_command

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


def write_snapshot(criterion: str) -> Snapshot:
    """Freeze what is collected so far: ``pairs.jsonl``, ``holdout.jsonl`` and the undecided ones,
    ``ties.jsonl`` and ``holdout_ties.jsonl``.

    The files carry the pairs of both criteria, each marked, because the recipe mixes them; the
    criterion names the model that will be trained. Raises CannotStart when nothing of the
    criterion can be trained on.
    """
    counts: Counter[str] = Counter()
    groups = _divide(_exported(counts), counts)
    read = (*groups["pairs"], *groups["holdout"], *groups["ties"])
    for name in ("pairs", "holdout"):
        of_criterion = [item for item in groups[name] if item.pair.criterion == criterion]
        counts[f"{criterion}_{name}"] = len(of_criterion)
    if not counts[f"{criterion}_pairs"]:
        raise CannotStart(
            f"There is no {criterion} comparison with a choice to train on yet: "
            "annotate some, or import some."
        )
    key = f"snapshots/{uuid.uuid4().hex}"
    folder = storage.path(key)
    folder.mkdir(parents=True)
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


def _exported(counts: Counter[str]) -> Iterator[Exported]:
    """Every usable comparison with recorded work, joined into one pair or tie each."""
    worked = Annotation.objects.work().filter(comparison__unusable_reason="")
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
    return Exported(pair, joined.choice is None, split, comparison.batch_id, ids)


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
    name: str, prompts: Iterable[LoopPrompt], *, is_for_rounds: bool = True
) -> PromptSet:
    """Store prompts for rounds and batches, and enter their roots into the split.

    A prompt whose root already fell on the other side of the split is left out and counted.
    """
    prompts = list(prompts)
    wanted = {p.root: _split_of(p.split) for p in prompts}
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
    kept = [p for p in prompts if stored[p.root] == _split_of(p.split)]
    key = f"prompts/{uuid.uuid4().hex}.jsonl"
    file = storage.path(key)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_prompts(file, kept)
    counts = Counter(str(p.split) for p in kept) + Counter(safety=sum(p.is_safety for p in kept))
    counts["left_out"] = len(prompts) - len(kept)
    return PromptSet.objects.create(
        name=name,
        storage_key=key,
        sha256=storage.file_sha256(file),
        counts=dict(counts),
        is_for_rounds=is_for_rounds,
    )


def _split_of(split: PromptSplit) -> str:
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


# --- runs: commands out, folders in --------------------------------------------------------------


def run_folder(run: Run) -> RunFolder:
    return RunFolder(storage.path(run.storage_key))


def run_metrics(run: Run) -> list[dict[str, Any]]:
    """The figures that a run has appended so far."""
    return run_folder(run).metrics()


def installed_settings(kind: str) -> dict[str, Any]:
    """What this installation sets for a kind of run, on top of the recipe's numbers."""
    if settings.RUN_SETTINGS is None:
        return {}
    found: dict[str, Any] = json.loads(settings.RUN_SETTINGS.read_text()).get(kind, {})
    return found


def command(run: Run) -> list[str]:
    """The child process's argument list, behind CHILD_LAUNCHER or, for reward models,
    TRAIN_LAUNCHER where one is set; torchrun is the one beside this Python."""
    words = _COMMANDS[run.kind](run)
    launcher = shlex.split(settings.CHILD_LAUNCHER)
    if run.kind == Run.Kind.REWARD_TRAINING:
        launcher = shlex.split(settings.TRAIN_LAUNCHER) or launcher
    if not launcher:
        return words
    beside = Path(sys.executable).with_name(launcher[0])
    return [str(beside) if beside.is_file() else launcher[0], *launcher[1:], *words[1:]]


def _reward_training_command(run: Run) -> list[str]:
    snapshot = storage.path(_snapshot(run).storage_key)
    flags = {
        "pairs": snapshot / "pairs.jsonl",
        "holdout": snapshot / "holdout.jsonl",
        "ties": snapshot / "ties.jsonl",
        "model": _folder(run, "start"),
        "out": run_folder(run).path,
        "criterion": run.criterion,
        **run.config,
    }
    return [sys.executable, "-m", "reward.train", *to_flags(flags)]


def _reward_evaluation_command(run: Run) -> list[str]:
    models, judgings = evaluated_models(run), measuring.judgings(run)
    snapshot = storage.path(_snapshot(run).storage_key)
    names = [*(model.name for model in models), *map(measuring.judge_name, judgings)]
    flags = {
        "models": [storage.path(model.storage_key) for model in models],
        "judged": [storage.path(judging.storage_key) for judging in judgings],
        "names": measuring.told_apart([*models, *judgings], names),
        "pairs": snapshot / "holdout.jsonl",
        "agreement": sorted(snapshot.glob("*.jsonl")),
        "criterion": run.criterion,
        "out": run_folder(run).path,
        **run.config,
    }
    return [sys.executable, "-m", "reward.compare", *to_flags(flags)]


def evaluated_models(run: Run) -> list[Checkpoint]:
    """The reward models that an evaluation compares, in its order."""
    rows = run.inputs.filter(checkpoint__isnull=False).select_related("checkpoint__run")
    rows = rows.order_by("pk")
    return [row.checkpoint for row in rows if row.checkpoint is not None]


def _stage_command(run: Run) -> list[str]:
    assert run.round is not None, run.pk
    config = round_config(run, policy_role="round_policy")
    return stage_command(run.kind, config, run_folder(run).path, _folder(run, "policy"))


def round_config(run: Run, policy_role: str) -> RoundConfig:
    """The round's configuration as the loop reads it; every path from this run's inputs."""
    prompt_set = run.input("prompts")
    return from_mapping(
        RoundConfig,
        {
            **run.config,
            "prompts": storage.path(prompt_set.storage_key),
            "policy": _folder(run, policy_role),
            "helpfulness": _folder(run, "helpfulness"),
            "safety": _folder(run, "safety"),
            "out": run_folder(run).path,
        },
    )


def _sampling_command(run: Run) -> list[str]:
    flags = {
        **{name: value for name, value in run.config.items() if name != "variants"},
        "prompts": storage.path(run.input("prompts").storage_key),
        "model": [_folder(run, "first"), _folder(run, "second")],
        "out": run_folder(run).path,
    }
    return [sys.executable, "-m", "rlhf_loop.sampling", *to_flags(flags)]


_COMMANDS: dict[str, Callable[[Run], list[str]]] = {
    Run.Kind.REWARD_TRAINING: _reward_training_command,
    Run.Kind.SAMPLING: _sampling_command,
    Run.Kind.REWARD_EVALUATION: _reward_evaluation_command,
    **measuring.COMMANDS,
    **{Run.Kind(stage): _stage_command for stage in STAGES},
}


def _folder(run: Run, role: str) -> Any:
    return storage.path(run.input(role).storage_key)


def _snapshot(run: Run) -> Snapshot:
    snapshot = run.input("snapshot")
    assert isinstance(snapshot, Snapshot), run.pk
    return snapshot


def record_checkpoint(run: Run, result: Mapping[str, Any]) -> Checkpoint:
    """The weights that a finished run left in its folder become a row."""
    key = f"{run.storage_key}/{result['model']}"
    reward = run.kind == Run.Kind.REWARD_TRAINING
    start = run.input("start" if reward else "policy")
    assert isinstance(start, Checkpoint), run.pk
    if reward:
        kind, name = reward_kind(run.criterion), f"{run.criterion.capitalize()} reward #{run.pk}"
    else:
        assert run.round is not None, run.pk
        kind = Checkpoint.Kind.CHAT
        name = run.round.name + (" before PPO" if run.kind == Run.Kind.REJECTION else "")
    return Checkpoint.objects.create(
        kind=kind,
        name=name,
        line=start.line,
        storage_key=key,
        sha256=storage.folder_sha256(storage.path(key)),
        metrics=result.get("holdout") or {},
        run=run,
    )


def adopt_checkpoint(folder: Any, *, name: str, line: str, kind: str) -> Checkpoint:
    """Take weights from outside into the storage root, as a row without a run."""
    key = f"checkpoints/{uuid.uuid4().hex}"
    adopted = storage.adopt(folder, key)
    return Checkpoint.objects.create(
        kind=kind, name=name, line=line, storage_key=key, sha256=storage.folder_sha256(adopted)
    )


# --- sampled responses → comparisons -------------------------------------------------------------


@transaction.atomic
def fill_batch(batch: Batch, run: Run, variants: tuple[Variant, Variant]) -> int:
    """Turn a sampling run's ``responses.jsonl`` into the comparisons of a draft.

    Returns how many comparisons were posed. Which variant's answer is a is drawn per prompt.
    """
    prompts = {p.id: p for p in read_prompts(storage.path(run.input("prompts").storage_key))}
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    for _, record in read_json_lines(run_folder(run).path / "responses.jsonl"):
        answers.setdefault(record["prompt_id"], {})[int(record["model_index"])] = record
    posed = 0
    for prompt_id, pair in answers.items():
        if len(pair) == 2:
            _pose(batch, prompts[prompt_id], pair, variants)
            posed += 1
    return posed


def _pose(
    batch: Batch,
    asked: LoopPrompt,
    answers: Mapping[int, Mapping[str, Any]],
    variants: tuple[Variant, Variant],
) -> None:
    root, _ = DialogueRoot.objects.get_or_create(
        hash=asked.root, defaults={"split": _split_of(asked.split)}
    )
    prompt = Prompt.objects.create(
        dialogue=Dialogue.objects.create(root=root, source="prompt set"),
        turn=sum(message.role == "user" for message in asked.messages),
        messages=[message._asdict() for message in asked.messages],
        is_safety=asked.is_safety,
        risk_category=asked.risk_category or "",
    )
    responses = [
        Response.objects.create(
            prompt=prompt,
            text=answers[number]["text"],
            variant=variants[number],
            checkpoint=variants[number].release.checkpoint,
            temperature=answers[number]["temperature"],
            top_p=answers[number]["top_p"],
            seed=answers[number]["seed"],
            finish_reason=answers[number]["finish_reason"],
        )
        for number in (0, 1)
    ]
    random.SystemRandom().shuffle(responses)
    Comparison.pose(batch, prompt, *responses)
