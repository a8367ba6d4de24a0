"""Runs: commands go out, run folders come in and become rows."""

from __future__ import annotations

import random
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from annotation_app import measuring, storage
from annotation_app.models import (
    Batch,
    Checkpoint,
    Comparison,
    Dialogue,
    DialogueRoot,
    Prompt,
    Response,
    Round,
    Run,
    Snapshot,
    Variant,
)
from annotation_app.models.checkpoint import reward_kind
from annotation_app.models.refusals import CannotStart
from annotation_app.snapshots import split_of
from reward.command import behind
from reward.preferences import read_json_lines
from reward.run_folder import RunFolder
from reward.settings import from_mapping, to_flags
from rlhf_loop.config import DATA_FILES, RANKED_STAGES, RoundConfig
from rlhf_loop.prompts import Prompt as LoopPrompt
from rlhf_loop.prompts import read_prompts
from rlhf_loop.round import STAGES, stage_command, stages_of, trained_next

# --- commands out -------------------------------------------------------------------------------


def run_folder(run: Run) -> RunFolder:
    return RunFolder(storage.path(run.storage_key))


def run_metrics(run: Run) -> list[dict[str, Any]]:
    """The figures that a run has appended so far."""
    return run_folder(run).metrics()


def installed_settings(kind: str) -> dict[str, Any]:
    """What this installation sets for a kind of run, on top of the recipe's numbers."""
    return deepcopy((settings.RUN_SETTINGS or {}).get(kind, {}))


def round_settings() -> dict[str, Any]:
    """What this installation sets for a round.

    Raises CannotStart with the sentence that one of its stages would refuse it with.
    """
    found = installed_settings("round")
    if measures := measures_of(found.get("evaluate", {})):
        found["evaluate"] = measures
    stages = found.get("stages")
    if isinstance(stages, list) and Run.Kind.INSTRUCTION_KEEPING in stages:
        found[Run.Kind.INSTRUCTION_KEEPING.value] = with_judge(
            found.get(Run.Kind.INSTRUCTION_KEEPING, {})
        )
    later: dict[str, Any] = dict.fromkeys(
        ("prompts", "policy", "helpfulness", "safety", "out"), "later"
    )
    later["dpo"] = {"pairs": [], **found.get("dpo", {})}
    later["sft"] = {"data": [], **found.get("sft", {})}
    try:
        from_mapping(RoundConfig, {**found, **later})
    except ValueError as error:
        raise CannotStart(
            f"A round cannot have the settings of this installation: {error}."
        ) from None
    return found


def measures_of(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation's settings with the judge and the task files of this installation, where the
    settings name no others."""
    tasks = [] if settings.TASKS_FOLDER is None else sorted(settings.TASKS_FOLDER.glob("*.jsonl"))
    return {**({"tasks": [str(file) for file in tasks]} if tasks else {}), **with_judge(evaluate)}


def with_judge(stage_settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings with the judge of this installation, where they name no other, and no null
    in place of one."""
    judge = {"judge_address": settings.JUDGE_URL, "judge_model": settings.JUDGE_MODEL}
    is_missing = settings.JUDGE_URL and "judge_address" not in stage_settings
    return {**(judge if is_missing else {}), **stage_settings}


def command(run: Run) -> list[str]:
    """The child process's argument list, behind CHILD_LAUNCHER or, where several processes can
    share the work, TRAIN_LAUNCHER where one is set."""
    launcher = settings.CHILD_LAUNCHER
    if run.kind in {Run.Kind.REWARD_TRAINING, *RANKED_STAGES}:
        launcher = settings.TRAIN_LAUNCHER or launcher
    return behind(launcher, _COMMANDS[run.kind](run))


def _reward_training_command(run: Run) -> list[str]:
    snapshot = storage.path(_snapshot(run).storage_key)
    flags = {
        "pairs": snapshot / "pairs.jsonl",
        "holdout": snapshot / "holdout.jsonl",
        "ties": snapshot / "ties.jsonl" if run.config.get("tie_threshold") else None,
        "agreement": sorted(snapshot.glob("*.jsonl")),
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
    _refuse_other_judge(run)
    sampler_address(run)
    config = round_config(run, policy_role="round_policy")
    finished = run.round.runs.filter(state=Run.State.SUCCEEDED, pk__lt=run.pk)
    results = {done.kind: run_folder(done).result() or {} for done in finished}
    folder, policy = run_folder(run).path, _folder(run, "policy")
    return stage_command(run.kind, config, folder, policy, results, built_data(run))


def built_data(run: Run) -> list[Path]:
    """The files that a stage was given of its round's builders of data."""
    given = run.inputs.filter(other_run__kind__in=DATA_FILES).select_related("other_run")
    builders = [row.other_run for row in given.order_by("pk") if row.other_run is not None]
    return [run_folder(builder).path / DATA_FILES[builder.kind] for builder in builders]


def _refuse_other_judge(run: Run) -> None:
    """Raises ValueError where the judge is not one that is configured now: a round that waited, or
    goes on, calls nobody whom nobody configures any more."""
    address = run.config.get(run.kind, {}).get("judge_address")
    own = installed_settings("round").get(run.kind, {}).get("judge_address")
    if address and address not in (settings.JUDGE_URL, own):
        raise ValueError(
            f"{address} was to judge, but neither JUDGE_URL nor the round's settings name it now. "
            "Start a new round."
        )


def sampler_address(run: Run) -> str | None:
    """The address that draws a run's answers. Raises ValueError where it is not the one that is
    configured now, as for a judge: it would be given policies, prompts and the sampler's key."""
    own, now = run.config, installed_settings("sampling")
    if run.kind != Run.Kind.SAMPLING:
        own, now = own.get(run.kind, {}), installed_settings("round").get(run.kind, {})
    address: str | None = own.get("address")
    if address and address != now.get("address"):
        whose = "of batches" if run.kind == Run.Kind.SAMPLING else f"of a round's {run.kind}"
        raise ValueError(
            f"{address} was to draw the answers, but the settings {whose} do not name it now. "
            "Name it there again, or start anew."
        )
    return address


def round_config(run: Run, policy_role: str) -> RoundConfig:
    """The round's configuration as the loop reads it; every path from this run's inputs, but for
    what earlier rounds selected and the pairs behind the reward models."""
    assert run.round is not None, run.pk
    prompt_set = run.input("prompts")
    given: dict[str, dict[str, Any]] = {"rejection": {}}
    if run.config.get("rejection", {}).get("pool", True):
        given["rejection"]["earlier"] = earlier_selected(run.round)
    if run.kind == Run.Kind.REJECTION:
        given["rejection"]["start"] = _folder(run, "start")
    if "dpo" in stages_of(run.config):
        given["dpo"] = {"pairs": judged_pairs(run.round)}
    given["evaluate"] = _measured_by(run)
    stages = {stage: own | run.config.get(stage, {}) for stage, own in given.items()}
    return from_mapping(
        RoundConfig,
        {
            "seed": run.round.pk,  # or every round would draw with the same random numbers
            **run.config,
            **with_demonstrations(run.round, run.config | stages),
            "prompts": storage.path(prompt_set.storage_key),
            "policy": _folder(run, policy_role),
            "helpfulness": _folder(run, "helpfulness"),
            "safety": _folder(run, "safety"),
            "out": run_folder(run).path,
        },
    )


def demonstrated_in(settings_: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings, as stage and name, that approved demonstrations are added to in a round: the
    data of fine-tuning, and of rejection sampling ``sft_data`` (section 3.2.3), unless that is
    null."""
    found = [("sft", "data"), ("rejection", "sft_data")]
    if settings_.get("rejection", {}).get("sft_data", ()) is None:
        found.remove(("rejection", "sft_data"))
    return [(stage, name) for stage, name in found if stage in stages_of(settings_)]


def with_demonstrations(round_: Round, settings_: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the stages, with the round's demonstrations beside the files they name."""
    stages = {name: it for name, it in settings_.items() if isinstance(it, dict)}
    frozen = round_.demonstrations
    files = [] if frozen is None else [str(storage.path(frozen.storage_key))]
    for stage, name in demonstrated_in(settings_):
        own = stages.get(stage, {})
        stages[stage] = {**own, name: [*own.get(name, []), *files]}
    return stages


def _measured_by(run: Run) -> dict[str, Any]:
    """What an evaluation is given beside the round's own: its inputs say which."""
    roles = {row.role: row.item for row in run.inputs.select_related("checkpoint", "prompt_set")}
    further = [name for name in roles if name.startswith("further_")]
    found: dict[str, Any] = {}
    if "independent" in roles:
        found["independent"] = _folder(run, "independent")
    if further:
        found["further_prompts"] = [_folder(run, role) for role in sorted(further)]
    elif run.kind != STAGES[-1]:
        found["further_prompts"] = _held_out_for_measuring(run)
    return found


def _held_out_for_measuring(run: Run) -> list[Path]:
    """The prompts that a stage's round is measured on: no stage of it learns from them."""
    assert run.round is not None, run.pk
    measured_on = run.round.measured_on.order_by("pk")
    return [storage.path(prompt_set.storage_key) for prompt_set in measured_on]


def earlier_selected(round_: Round) -> list[Path]:
    """The best answers of all rounds whose rejection sampling had ended when this one began: the
    same ones whenever a stage is started again."""
    before = Run.objects.filter(
        kind=Run.Kind.REJECTION, state=Run.State.SUCCEEDED, ended_at__lt=round_.created_at
    )
    return [run_folder(run).path / "selected.jsonl" for run in before.order_by("pk")]


def judged_pairs(round_: Round) -> list[Path]:
    """The pairs that the round's reward models learnt from, the older snapshot first."""
    runs = [model.run for model in (round_.helpfulness, round_.safety) if model.run is not None]
    snapshots = {snapshot.pk: snapshot for snapshot in map(_snapshot, runs)}
    return [storage.path(snapshots[pk].storage_key) / "pairs.jsonl" for pk in sorted(snapshots)]


def _sampling_command(run: Run) -> list[str]:
    sampler_address(run)
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


# --- weights in ---------------------------------------------------------------------------------


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
        following = trained_next(run.kind, run.round.config)
        name = run.round.name + (f" before {Run.Kind(following).label}" if following else "")
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
def fill_batch(batch: Batch, run: Run, variants: Sequence[Variant]) -> int:
    """Turn a sampling run's ``responses.jsonl`` into the comparisons of a draft.

    ``variants`` are the two released ones that answered; none where a round's models did, released
    or not. Returns how many comparisons were posed. Which model's answer is a is drawn per prompt.
    """
    models = [(run.input(role), None) for role in ("first", "second")]
    sources = [(v.release.checkpoint, v) for v in variants] or models
    prompts = {p.id: p for p in read_prompts(storage.path(run.input("prompts").storage_key))}
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    for _, record in read_json_lines(run_folder(run).path / "responses.jsonl"):
        answers.setdefault(record["prompt_id"], {})[int(record["model_index"])] = record
    posed = 0
    for prompt_id, pair in answers.items():
        if len(pair) == 2:
            _pose(batch, prompts[prompt_id], pair, sources)
            posed += 1
    return posed


def _pose(
    batch: Batch,
    asked: LoopPrompt,
    answers: Mapping[int, Mapping[str, Any]],
    sources: Sequence[tuple[Any, Variant | None]],
) -> None:
    root, _ = DialogueRoot.objects.get_or_create(
        hash=asked.root, defaults={"split": split_of(asked.split)}
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
            variant=variant,
            checkpoint=checkpoint,
            temperature=answers[number]["temperature"],
            top_p=answers[number]["top_p"],
            seed=answers[number]["seed"],
            finish_reason=answers[number]["finish_reason"],
        )
        for number, (checkpoint, variant) in enumerate(sources)
    ]
    random.SystemRandom().shuffle(responses)
    Comparison.pose(batch, prompt, *responses)
