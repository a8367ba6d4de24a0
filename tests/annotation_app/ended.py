"""Rounds as they stand when their evaluation has ended, without running one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from annotation_app import exchange, snapshots, storage
from annotation_app.lifecycle import runs
from annotation_app.models import Batch, Checkpoint, Promotion, PromptSet, Round, Run
from reward.preferences import Message, dialogue_root
from rlhf_loop.measures.paired_figures import paired
from rlhf_loop.measures.release_gate import release_gate
from rlhf_loop.prompts import Prompt, PromptSplit
from tests.annotation_app.rows import released_chat_model

RISEN = ([1.0, 2.0, 3.0], [2.0, 3.1, 4.0])
FALLEN = ([1.0, 2.0, 3.0], [0.0, 1.1, 2.0])
WHY = "People like it better, and the reward models are a month old."


def figures(before: list[float], after: list[float]) -> dict[str, Any]:
    """An evaluation of three prompts with these scores, and the gate's verdict on it."""
    scores = ("helpfulness", "safety", "combined", "refused", "length_tokens")
    found = {"all": {"count": 3, **{score: paired(before, after) for score in scores}}}
    return {**found, "gate": release_gate(found)._asdict()}


def prompt(text: str, split: PromptSplit, is_safety: bool = False) -> Prompt:
    message = Message("user", text)
    return Prompt(text, dialogue_root([message]), (message,), is_safety, None, split)


def prompt_set(name: str = "Help desk", train: int = 12, validation: int = 4) -> PromptSet:
    """So many helpfulness prompts, as many safety ones, and three to test on of each."""
    counts = {PromptSplit.TRAIN: train, PromptSplit.VALIDATION: validation, PromptSplit.TEST: 3}
    return snapshots.write_prompt_set(name, [
        prompt(f"{name}: {split} {criterion} {number}", split, criterion == "safety")
        for criterion in ("helpfulness", "safety")
        for split, count in counts.items()
        for number in range(count)
    ])  # fmt: skip


def chat(name: str, run: Run | None = None) -> Checkpoint:
    return Checkpoint.objects.create(
        kind="chat", name=name, line="tiny", storage_key=f"models/{name}", run=run
    )


def promoted(criterion: str) -> Checkpoint:
    found = Checkpoint.objects.promoted(criterion)
    if found is None:
        found = Checkpoint.objects.create(
            kind=f"{criterion}_reward", name=criterion, line="tiny", storage_key=criterion
        )
        Promotion.promote(found)
    return found


def ended(state: str = "evaluated", scores=RISEN, **fields: Any) -> Round:
    """A round with this chat model before annotators and a new one that it made."""
    old = Checkpoint.objects.chat().filter(releases__isnull=False).first()
    prompts = PromptSet.objects.filter(is_for_rounds=True).first() or prompt_set()
    name = Round.next_name()
    row = {
        "policy": old or released_chat_model().checkpoint,
        "helpfulness": promoted("helpfulness"), "safety": promoted("safety"),
        "prompt_set": prompts, "evaluation": figures(*scores),
    }  # fmt: skip
    if "result" not in fields:
        row["result"] = chat(name)
    round_ = Round.objects.create(name=name, state=state, **(row | fields))
    round_.measured_on.set(PromptSet.objects.to_measure_on().exclude(pk=round_.prompt_set_id))
    return round_


def sampled(run: Run, text: Callable[[str, int], str] | None = None) -> Run:
    """A sampling run ends: both models have answered its prompts, with texts that differ."""
    run.claim()
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True, exist_ok=True)
    asked = snapshots.prompts_of(run.input("prompts"))
    made = {"temperature": 1.0, "top_p": 1.0, "seed": 1, "finish_reason": "stop"}
    lines = [
        {
            "prompt_id": p.id, "model_index": index, **made,
            "text": text(p.id, index) if text else f"Answer {index}.",
        }
        for p in asked
        for index in (0, 1)
    ]  # fmt: skip
    (folder.path / "responses.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))
    runs.run_succeeded(run, {"responses": len(lines)})
    run.refresh_from_db()
    return run


def filling(batch: Batch) -> Run:
    """The run that fills a draft, the newest."""
    return Run.objects.filter(batch=batch).latest("pk")


def asked_in(run: Run) -> list[Prompt]:
    assert storage.path(run.input("prompts").storage_key).exists()
    return snapshots.prompts_of(run.input("prompts"))
