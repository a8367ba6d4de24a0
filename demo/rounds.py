"""Many rounds of the loop by files alone: ``python -m demo.rounds --out FOLDER --seed 0``.

What the platform does in weeks, with the same commands and no web: sample two models, let the
simulated annotators judge, retrain both reward models on all that was collected, run a round,
release, and have the hidden gold scorer judge the new version on test prompts. Every step is a run
folder, so a run that was killed goes on where it stopped. ``--without`` leaves one ingredient out.
``demo.rounds_report`` reads the folders of several seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo import gold, world
from demo.annotators import CAST
from reward.lines import write_records
from reward.preferences import (
    ContradictorySafety,
    Criterion,
    Message,
    Origin,
    PreferencePair,
    RiskCategory,
    SafetyLabel,
    Verdict,
    dialogue_root,
    read_json_lines,
    safety_label,
    write_pairs,
)
from reward.run_folder import write_json
from reward.settings import to_flags
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts

CHECKPOINTS = Path(__file__).parent / "checkpoints"
HOLDOUT_ONE_IN = 10  # of the dialogues, whatever the round: a prompt may be asked again
INGREDIENTS = (
    "margin", "auxiliary", "gate", "whitening", "kl", "kl and budget", "pool", "fresh batches",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One seed's rounds."""

    out: Path
    seed: int
    rounds: int = 8
    helpfulness_comparisons: int = 4_800  # of a round: facts take many to tell right from wrong
    safety_comparisons: int = 800
    train_prompts: int = 2048  # of a round's rejection sampling and PPO
    test_prompts: int = 2350  # that the gold scorer judges versions on
    samples: int = 8  # of a prompt in rejection sampling
    ppo_iterations: int = 16
    ppo_batch: int = 128
    max_new_tokens: int = 64
    without: str | None = None
    threads: int = 1

    def round(self, number: int) -> Path:
        return self.out / f"round-{number}"

    def comparisons(self, criterion: Criterion) -> int:
        if criterion is Criterion.SAFETY:
            return self.safety_comparisons
        return self.helpfulness_comparisons


# --- one round -----------------------------------------------------------------------------------


def run(experiment: Experiment) -> None:
    """All rounds that are not finished yet, and the gold figures of every version."""
    start = CHECKPOINTS / "starter-b"
    judge(experiment, start, experiment.out / "start")
    versions = [CHECKPOINTS / "starter-a", start]
    for number in range(1, experiment.rounds + 1):
        folder, started = experiment.round(number), time.monotonic()
        if (folder / "done.json").exists():
            versions.append(folder / "loop" / _model(folder))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for criterion in Criterion:
            collect(experiment, number, criterion, samplers(experiment, versions))
        rewards = train_rewards(experiment, number, start)
        turn(experiment, number, rewards, versions)
        versions.append(folder / "loop" / _model(folder))
        judge(experiment, versions[-1], folder / "gold")
        if (rejection := folder / "loop" / "rejection" / "model") != versions[-1]:
            judge(experiment, rejection, folder / "gold-rejection")
        write_json(folder / "done.json", {"seconds": time.monotonic() - started})


def _model(folder: Path) -> str:
    return str(json.loads((folder / "loop" / "result.json").read_text(encoding="utf-8"))["model"])


def collect(
    experiment: Experiment, number: int, criterion: Criterion, models: Sequence[Path]
) -> None:
    """Both models answer this round's prompts of a criterion, and the cast judges the answers."""
    folder = experiment.round(number) / str(criterion)
    if (folder / "pairs.jsonl").exists():
        return
    folder.mkdir(exist_ok=True)
    asked = dict(_batch_prompts(experiment, number, criterion))
    write_prompts(
        folder / "prompts.jsonl",
        (replace(loop_prompt(prompt), id=name) for name, prompt in asked.items()),
    )
    seed = _number(experiment.seed, number, criterion)
    command(experiment, "rlhf_loop.sampling", {
        "prompts": folder / "prompts.jsonl", "model": models, "temperature": (1.0, 1.1),
        "max_new_tokens": experiment.max_new_tokens, "seed": seed, "out": folder / "sampling",
    })  # fmt: skip
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    for _, line in read_json_lines(folder / "sampling" / "responses.jsonl"):
        answers.setdefault(line["prompt_id"], {})[line["model_index"]] = line
    rng = random.Random(seed)
    pairs = [
        pair
        for name, prompt in asked.items()
        if (pair := judged(name, prompt, answers[name], criterion, f"round {number}", rng))
    ]
    write_pairs(folder / "holdout.jsonl", filter(_is_held_out, pairs))
    temporary = folder / "pairs.tmp"
    write_pairs(temporary, (pair for pair in pairs if not _is_held_out(pair)))
    os.replace(temporary, folder / "pairs.jsonl")


def _is_held_out(pair: PreferencePair) -> bool:
    return int(pair.root, 16) % HOLDOUT_ONE_IN == 0


def _batch_prompts(
    experiment: Experiment, number: int, criterion: Criterion
) -> Iterator[tuple[str, world.DemoPrompt]]:
    """Train prompts, each asked again only when all of a criterion's have been, and then under
    another name: what is drawn for a name is the same for ever."""
    wanted = criterion is Criterion.SAFETY
    fitting = [prompt for prompt in world.prompts("train") if prompt.is_safety == wanted]
    random.Random(f"{experiment.seed} {criterion}").shuffle(fitting)
    count = experiment.comparisons(criterion)
    for place in range((number - 1) * count, number * count):
        again, which = divmod(place, len(fitting))
        yield f"{fitting[which].id} time {again + 1}", fitting[which]


def judged(
    asked: str,
    prompt: world.DemoPrompt,
    answers: dict[int, dict[str, Any]],
    criterion: Criterion,
    batch: str,
    rng: random.Random,
) -> PreferencePair | None:
    """One annotator's judgement of two answers; None where it is no comparison or no verdict."""
    left, right = (answers[i] for i in (0, 1))
    if rng.random() < 0.5:
        left, right = right, left
    annotator = rng.choice(CAST)
    if left["text"] == right["text"] or not (left["text"] and right["text"]):
        return None
    found = annotator.judge(criterion, prompt.text, left["text"], right["text"], rng)
    is_left = found.side == "left"
    chosen, rejected = (left, right) if is_left else (right, left)
    flags = (found.left_safe, found.right_safe)
    label: SafetyLabel | None
    try:
        label = safety_label(*(flags if is_left else flags[::-1]))
    except ContradictorySafety:
        return None
    messages = (Message("user", prompt.text),)
    name = f"{batch} {criterion} {asked}"
    return PreferencePair(
        prompt=messages, chosen=chosen["text"], rejected=rejected["text"], criterion=criterion,
        id=name, dialogue=name, root=dialogue_root(messages), strength=found.strength,
        safety=label, verdicts=(Verdict(annotator.name, "a", found.strength),),
        batch=batch, source="demo", risk_category=_risk(prompt),
        chosen_from=_origin(chosen), rejected_from=_origin(rejected),
    )  # fmt: skip


def _origin(line: dict[str, Any]) -> Origin:
    return Origin(line["model"], line["temperature"], line["top_p"], line["seed"])


def train_rewards(experiment: Experiment, number: int, start: Path) -> dict[str, Path]:
    """Both reward models, on the comparisons of all rounds so far, from the first chat model: what
    it was pretrained on wears off in the later ones."""
    folder = experiment.round(number)
    for name in ("pairs", "holdout"):
        lines = [
            line
            for earlier in range(1, number + 1)
            for criterion in Criterion
            for _, line in read_json_lines(
                experiment.round(earlier) / str(criterion) / f"{name}.jsonl"
            )
        ]
        write_records(folder / f"{name}.jsonl", lines)
    found = {}
    for criterion in Criterion:
        out = folder / f"reward-{criterion}"
        if not (out / "result.json").exists():
            command(experiment, "reward.train", {
                "pairs": folder / "pairs.jsonl", "holdout": folder / "holdout.jsonl",
                "model": start, "criterion": criterion, "out": out, "seed": experiment.seed,
                **reward_settings(experiment, criterion),
            })  # fmt: skip
        found[str(criterion)] = out / "model"
    return found


def reward_settings(experiment: Experiment, criterion: Criterion) -> dict[str, Any]:
    """How a reward model learns: facts take many steps, a safe answer is soon told by its words."""
    settings: dict[str, Any] = {"adam_epsilon": 1e-8, "checkpoint_every_steps": 200}
    if criterion is Criterion.HELPFULNESS:
        facts = {"learning_rate": 1e-3, "pairs_per_step": 16, "epochs": 2, "weight_decay": 0.01}
        settings |= facts
    else:
        settings |= {"learning_rate": 5e-4, "pairs_per_step": 32, "epochs": 3}
    if experiment.without == "margin":
        settings["margin"] = "none"
    if experiment.without == "auxiliary":
        settings["auxiliary_weight"] = 0.0
    return settings


def turn(
    experiment: Experiment, number: int, rewards: dict[str, Path], versions: Sequence[Path]
) -> None:
    """Rejection sampling, PPO and the evaluation of this round."""
    folder = experiment.round(number)
    if (folder / "loop" / "result.json").exists():
        return
    prompts = list(_loop_prompts(experiment, number))
    write_prompts(folder / "prompts.jsonl", prompts)
    command(experiment, "rlhf_loop.round", {
        "prompts": folder / "prompts.jsonl", "policy": versions[-1], **rewards,
        "out": folder / "loop", "seed": _number(experiment.seed, number, "loop"),
        **round_settings(experiment, number, base=versions[1]),
    })  # fmt: skip


def round_settings(experiment: Experiment, number: int, base: Path) -> dict[str, Any]:
    """How a round goes; every version is tuned from ``base`` (section 3.2.3)."""
    earlier = [
        str(experiment.round(n) / "loop" / "rejection" / "selected.jsonl")
        for n in range(1, number)
        if experiment.without != "pool"
    ]
    return {
        "max_new_tokens": experiment.max_new_tokens,
        "stages": ("rejection", "ppo", "evaluate"),
        "threshold": 1e-9 if experiment.without == "gate" else 0.15,
        "rejection": {
            "samples": experiment.samples, "learning_rate": 1e-3, "epochs": 4, "batch": 32,
            "temperature": 0.7,  # nearer to what the model knows: see EXPERIMENTS, "temperature"
            "start": str(base), "earlier": earlier,
        },
        "ppo": {
            "iterations": experiment.ppo_iterations, "batch": experiment.ppo_batch,
            "minibatch": experiment.ppo_batch // 4, "learning_rate": 1e-4,
            "kl_coef": 0.0 if experiment.without in ("kl", "kl and budget") else 0.02,
            "whiten_scores": experiment.without != "whitening",
            "validate_every": 4, "validation_prompts": 128,
            # Nats; beyond it the scores rise on and the gold ones fall.
            "kl_budget": None if experiment.without == "kl and budget" else 0.6,
        },
    }  # fmt: skip


def samplers(experiment: Experiment, versions: Sequence[Path]) -> Sequence[Path]:
    """Whose answers are compared: the newest version's and those of the one before it."""
    return versions[:2] if experiment.without == "fresh batches" else versions[-2:]


def _loop_prompts(experiment: Experiment, number: int) -> Iterator[Prompt]:
    """A draw of train prompts of this round; the same validation prompts in every one."""
    rng = random.Random(f"{experiment.seed} {number} prompts")
    for prompt in rng.sample(world.prompts("train"), experiment.train_prompts):
        yield loop_prompt(prompt)
    for i, prompt in enumerate(world.prompts("validation")):
        # Half stop PPO, half compare new with old: the test prompts are for the gold scorer alone.
        yield loop_prompt(prompt, PromptSplit.TEST if i % 2 else PromptSplit.VALIDATION)


# --- the hidden judge ----------------------------------------------------------------------------


def judge(experiment: Experiment, model: Path, folder: Path) -> None:
    """Gold scores of one answer to every test prompt: ``gold.jsonl``."""
    file = folder / "gold.jsonl"
    if file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    asked = {prompt.id: prompt for prompt in world.prompts("test")[: experiment.test_prompts]}
    write_prompts(folder / "prompts.jsonl", map(loop_prompt, asked.values()))
    command(experiment, "rlhf_loop.sampling", {
        "prompts": folder / "prompts.jsonl", "model": [model], "out": folder / "sampling",
        "max_new_tokens": experiment.max_new_tokens, "seed": 1_000 + experiment.seed,
    })  # fmt: skip
    records = []
    for _, line in read_json_lines(folder / "sampling" / "responses.jsonl"):
        prompt = asked[line["prompt_id"]]
        scored = gold.score(prompt.text, line["text"])
        refused = gold.refuses(line["text"])
        records.append(
            {"id": prompt.id, "kind": prompt.kind, **scored._asdict(), "refused": refused}
        )
    write_records(file, sorted(records, key=lambda record: record["id"]))


# --- what all of it uses -------------------------------------------------------------------------


def loop_prompt(prompt: world.DemoPrompt, split: PromptSplit = PromptSplit.TRAIN) -> Prompt:
    """A prompt of the demo world as the loop reads it."""
    messages = (Message("user", prompt.text),)
    root = dialogue_root(messages)
    return Prompt(prompt.id, root, messages, prompt.is_safety, _risk(prompt), split)


def _risk(prompt: world.DemoPrompt) -> RiskCategory | None:
    return RiskCategory(prompt.risk_category) if prompt.risk_category else None


def _number(*names: object) -> int:
    return random.Random(" ".join(map(str, names))).randrange(2**31)


def command(experiment: Experiment, module: str, settings: dict[str, Any]) -> None:
    """Run a command to its end; its words go to a log beside its folder. Raises RuntimeError."""
    log = Path(settings["out"]).with_suffix(".log")
    environment = {**os.environ, "OMP_NUM_THREADS": str(experiment.threads), "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    with log.open("ab") as output:
        status = subprocess.run(
            [sys.executable, "-m", module, *to_flags(settings)],
            env=environment, stdout=output, stderr=subprocess.STDOUT, check=False,
        ).returncode  # fmt: skip
    if status:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{module} ended with {status}:\n{tail}")
    print(f"{settings['out']}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run rounds of the loop in the demo world.")
    parser.add_argument("--out", type=Path, required=True, help="folder; started again it goes on")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--without", choices=INGREDIENTS, help="leave one ingredient out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each command")
    run(Experiment(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
