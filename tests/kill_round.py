"""Is a stage of the round that was killed, again and again, bit for bit an undisturbed one?

``python -m tests.kill_round`` does with the stages what ``tests.kill_reward_training`` does with
reward training: real child processes, SIGKILL at random moments, and in the end every file that a
run left held against those of a run that nobody disturbed. A stage joins with an entry in STAGES:
what it reads, its settings, and which of its functions are worth being killed in.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from reward.model import save_reward_model, start_from_chat_model
from reward.preferences import Message, dialogue_root, write_pairs
from reward.settings import to_flags
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from rlhf_loop.replay import differences
from tests.kill_reward_training import Findings, Training
from tests.reward.pairs import pairs
from tests.tiny_models import brief_chat_model, tiny_chat_model

RUN = "reward.run_folder.RunFolder"
LONGEST = {
    "loading": 0.05, "resuming": 0.005, "between": 0.005, "drawing": 0.05, "update": 0.05,
    "judging": 0.05, "step": 0.02, "reference": 0.02, "divergence": 0.02, "tasks": 0.02,
    "storing": 0.004, "checkpoint": 0.012, "best": 0.012, "model": 0.012, "result": 0.003,
    "stage": 6.0,
}  # fmt: skip
"""Seconds after the mark within which a kill falls; ``loading`` is before the first of all."""


@dataclass(frozen=True)
class Stage:
    """A stage as it is killed."""

    command: str
    reads: Mapping[str, str | Sequence[str]]
    """Setting → which of the ``inputs`` it names."""
    settings: Mapping[str, object]
    marks: Mapping[str, str]
    """What the child writes down → the function during which it does."""
    wanted: Counter[str]
    """How many kills ``make proof`` wants to fall into each."""
    endings: tuple[str, ...] = ("result",)
    """What comes only at the end."""
    again: Counter[str] = field(default_factory=Counter)
    """What comes again and again, and up to which time it may be waited for."""
    in_order: bool = False
    """Whether the marks come one kind after the other: what has passed does not come again."""

    def flags(self, given: Mapping[str, Path], out: Path) -> list[str]:
        """The command's flags with its inputs, as ``inputs`` wrote them, and its folder."""
        read = {
            setting: given[name] if isinstance(name, str) else [given[n] for n in name]
            for setting, name in self.reads.items()
        }
        return to_flags({**read, **self.settings, "out": out})


def inputs(folder: Path) -> dict[str, Path]:
    """Writes what stages read: small chat models, one of which ends its answers, two reward models,
    prompts of every split, dialogues, pairs, a task, constraints."""
    chat = tiny_chat_model(folder / "chat")
    brief = brief_chat_model(folder / "brief", chat)
    for seed, name in enumerate(("helpfulness", "safety")):
        save_reward_model(*start_from_chat_model(chat, seed), folder / name)
    write_prompts(folder / "prompts.jsonl", _prompts(40))
    write_pairs(folder / "pairs.jsonl", pairs(40))
    lines = {
        "data": [
            {"messages": [{"role": "user", "content": f"Hi {n}"},
                          {"role": "assistant", "content": "Good day." * (1 + n % 4)}]}
            for n in range(60)
        ],
        "tasks": [
            {"query": f"Why {n}?", "choices": ["Yes.", "By law, and that is all."], "gold": n % 2}
            for n in range(20)
        ],
    }  # fmt: skip
    for name, records in lines.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    anything = {"kind": "any", "instruction": "Say {value}.", "terse": "Say: {value}",
                "values": ["something", "more"], "check": {"pattern": ""}}  # fmt: skip
    (folder / "constraints.json").write_text(json.dumps({"constraints": [anything]}))
    files = {path.stem: path for path in folder.glob("*.json*")}
    return {**files, "chat": chat, "brief": brief,
            **{name: folder / name for name in ("helpfulness", "safety")}}  # fmt: skip


def _prompts(count: int) -> list[Prompt]:
    found = []
    splits = cycle((PromptSplit.VALIDATION, PromptSplit.TRAIN, PromptSplit.TEST, PromptSplit.TRAIN))
    for number, split in zip(range(count), splits, strict=False):
        messages = (Message("user", "Why " + "very " * (number % 3) + f"{number}?"),)
        root = dialogue_root(messages)
        found.append(Prompt(f"p{number}", root, messages, number % 3 == 0, None, split))
    return found


JUDGES = {"helpfulness": "helpfulness", "safety": "safety"}
READS = {"prompts": "prompts", "policy": "chat", **JUDGES}
DRAWN = {"max_new_tokens": 40, "device": "cpu"}
CANDIDATES = {**DRAWN, "samples": 4, "chunk_prompts": 3}
STEPS = {
    "learning_rate": 3e-3,
    "batch": 4,
    "epochs": 2,
    "checkpoint_every_steps": 2,
    "device": "cpu",
}
PPO = {
    "batch": 12, "minibatch": 4, "iterations": 6, "max_new_tokens": 12, "learning_rate": 2e-3,
    "validate_every": 2, "checkpoint_every": 1, "device": "cpu",
}  # fmt: skip

RESULT = {"result": f"{RUN}.write_result"}
STORED = {"storing": "rlhf_loop.parts.append_records", **RESULT}
TUNED = {
    "step": "rlhf_loop.sft._gradients",
    "checkpoint": f"{RUN}.save_checkpoint",
    "resuming": f"{RUN}.resumable_checkpoint",
    **RESULT,
}
PPO_MARKS = {
    "drawing": "rlhf_loop.learning.learner.Learner.collect",
    "update": "rlhf_loop.learning.learner.Learner.update",
    "judging": "rlhf_loop.learning.learner.Learner.validate",
    "checkpoint": f"{RUN}.save_checkpoint",
    "best": "rlhf_loop.ppo.replace_folder",
    "resuming": f"{RUN}.resumable_checkpoint",
    **RESULT,
}
PPO_TIMES = Counter(drawing=5, update=4, judging=3, checkpoint=4, best=1)

STAGES = {
    "sft": Stage(
        "sft", {"data": ["data"], "model": "chat"}, STEPS,
        {**TUNED, "model": "rlhf_loop.learning.steps.replace_folder"},
        Counter(step=2, checkpoint=2, model=1), ("model", "result"), Counter(step=9, checkpoint=4),
    ),
    "temperature": Stage(
        "temperature", READS,
        {**CANDIDATES, "temperatures": [0.8, 1.5], "split": "train", "prompt_count": 9},
        {"drawing": "rlhf_loop.candidates.sample_and_score", **STORED},
        Counter(drawing=2, storing=1), again=Counter(drawing=4, storing=4),
    ),
    "rejection": Stage(
        "rejection", {**READS, "sft_data": ["data"]},
        {**CANDIDATES, **STEPS, "temperature": 1.5, "packing": "within", "max_tokens": 64},
        {"drawing": "rlhf_loop.candidates.sample_and_score", **STORED, **TUNED,
         "model": "rlhf_loop.learning.steps.replace_folder"},
        Counter(drawing=2, storing=1, step=2, checkpoint=1, model=1), ("model", "result"),
        Counter(drawing=4, storing=4, step=4, checkpoint=3), in_order=True,
    ),
    "dpo": Stage(
        "dpo", {"pairs": ["pairs"], "policy": "chat"},
        {**STEPS, "warmup_steps": 3, "train_dtype": "bfloat16"},
        {**TUNED, "step": "rlhf_loop.dpo._gradients", "reference": "rlhf_loop.dpo._reference",
         "model": "rlhf_loop.learning.steps.replace_folder"},
        Counter(reference=1, step=2, checkpoint=1), ("model", "result"),
        Counter(step=9, checkpoint=4),
    ),
    "ppo": Stage(
        "ppo", READS, PPO, PPO_MARKS,
        Counter(drawing=3, update=4, judging=2, checkpoint=4, best=2, result=1), again=PPO_TIMES,
    ),
    "ppo, value model": Stage(
        "ppo", READS,
        {**PPO, "value": "safety", "answers_per_prompt": 2, "train_dtype": "bfloat16",
         "recompute_activations": True},
        PPO_MARKS,
        Counter(update=2, checkpoint=2), again=PPO_TIMES,
    ),
    "evaluate": Stage(
        "evaluate", {**READS, "policy": "brief", "against": "chat", "tasks": ["tasks"]},
        {**DRAWN, "diversity_prompts": 4, "diversity_samples": 3},
        {"judging": "rlhf_loop.evaluate.sample_and_score",
         "storing": "rlhf_loop.parts.append_records",
         "divergence": "rlhf_loop.evaluate._mean_kl",
         "drawing": "rlhf_loop.evaluate.answer_prompts",
         "tasks": "rlhf_loop.evaluate.picked_options",
         **RESULT},
        Counter(drawing=1, judging=1, storing=1, divergence=1, tasks=1),
        again=Counter(drawing=2, judging=2, storing=2, tasks=2), in_order=True,
    ),
    "ghost attention": Stage(
        "ghost_attention", {"prompts": "prompts", "policy": "brief", "constraints": "constraints"},
        {**DRAWN, "dialogues": 150, "longest_turns": 3},
        {"drawing": "rlhf_loop.ghost_attention.answer_prompts",
         "storing": "rlhf_loop.parts.append_records", **RESULT},
        Counter(drawing=2, storing=1), again=Counter(drawing=8, storing=3),
    ),
    "context distillation": Stage(
        "context_distillation", {"prompts": "prompts", "policy": "brief", "safety": "safety"},
        {**DRAWN, "chunk_prompts": 2},
        {"drawing": "rlhf_loop.context_distillation.answer_prompts",
         "storing": "rlhf_loop.parts.append_records", **RESULT},
        Counter(drawing=2, storing=1), again=Counter(drawing=6, storing=3),
    ),
    "instruction keeping": Stage(
        "instruction_keeping",
        {"prompts": "prompts", "policy": "brief", "against": "chat", "constraints": "constraints"},
        {**DRAWN, "turns": [2, 4], "dialogues": 12, "resamples": 50, "max_new_tokens": 12},
        {"drawing": "rlhf_loop.instruction_keeping.answer_prompts",
         "storing": "rlhf_loop.instruction_keeping.append_records", **RESULT},
        Counter(drawing=2, storing=1), again=Counter(drawing=7, storing=7),
    ),
    "sampling": Stage(
        "sampling", {"prompts": "prompts", "model": ["chat", "brief"]},
        {**DRAWN, "chunk_prompts": 8},
        {"drawing": "rlhf_loop.sampling.answer_prompts",
         "storing": "rlhf_loop.parts.append_records", **RESULT},
        Counter(drawing=2, storing=1), again=Counter(drawing=8, storing=8),
    ),
    "round": Stage(
        "round", READS,
        {"max_new_tokens": 12, "stages": ["rejection", "ppo", "evaluate"],
         "rejection": {**STEPS, "samples": 4},
         "ppo": {name: value for name, value in PPO.items() if name != "max_new_tokens"},
         "evaluate": {"device": "cpu", "diversity_prompts": 0}},
        {"stage": "rlhf_loop.round.finish_stage", **RESULT},
        Counter(stage=3), again=Counter(stage=2),
    ),
}  # fmt: skip


class StageRun(Training):
    """One run folder of a stage, worked on by child processes."""

    def __init__(self, folder: Path, given: Mapping[str, Path], stage: str) -> None:
        super().__init__(folder, {}, "as it comes")
        flags = STAGES[stage].flags(given, self.run.path)
        self.module, self.arguments = "tests.marked_stage", [stage, str(self.marks), *flags]


def draw_moment(
    stage: Stage, numbers: random.Random, lacking: Counter[str]
) -> tuple[str, int, float]:
    """(what, the how manieth of it, seconds after its beginning) of the next kill."""
    early = [kind for kind in lacking.elements() if kind not in stage.endings]
    if early and stage.in_order:
        early = [next(kind for kind in stage.marks if kind in early)]
    elif early and "checkpoint" in stage.marks:
        early.append("checkpoint")  # so that a run gets on between its kills
    what = numbers.choice(early or list(lacking))
    number = numbers.randint(1, max(stage.again[what], 1))
    return what, number, numbers.uniform(0, LONGEST[what])


def prove(folder: Path, name: str, wanted: Counter[str], numbers: random.Random) -> Findings:
    """Kill a stage until so many kills fell into each kind of moment, then let it end.

    Where it ends before that another run begins.
    """
    folder.mkdir()
    stage, findings = STAGES[name], Findings()
    given = inputs(folder)
    undisturbed = StageRun(folder / "undisturbed", given, name)
    undisturbed.finish()
    while wanted - findings.kills:
        findings.runs += 1
        print(f"{name}, run {findings.runs}; so far {dict(findings.kills)}", flush=True)
        disturbed = StageRun(folder / f"disturbed-{findings.runs}", given, name)
        while wanted - findings.kills and disturbed.run.result() is None:
            fell = disturbed.killed(*draw_moment(stage, numbers, wanted - findings.kills))
            findings.kills.update([fell] if fell else [])
        disturbed.finish()
        findings.faults += [
            f"{name}, run {findings.runs}: {where}"
            for where in differences(undisturbed.run.path, disturbed.run.path)
        ]
    return findings


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    asked = parser.parse_args()
    numbers, kills, faults = random.Random(asked.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(asked.stages):
            found = prove(Path(folder) / str(number), name, STAGES[name].wanted.copy(), numbers)
            told = f"{found.kills.total()} kills in {found.runs} runs"
            where = ", ".join(f"{what} {count}" for what, count in found.kills.items())
            print(f"{name}: {told} ({where}), {len(found.faults)} faults", flush=True)
            kills += found.kills
            faults += found.faults
    print(json.dumps({"killed in": kills}))
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
