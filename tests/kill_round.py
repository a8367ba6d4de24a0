"""Is a stage of the round that was killed, again and again, bit for bit an undisturbed one?

``python -m tests.kill_round`` does with the stages what ``tests.kill_reward_training`` does with
reward training: real child processes, SIGKILL at random moments, and in the end weights, figures,
result and files held against those of a run that nobody disturbed. A stage joins with an entry in
STAGES: its settings, and which of its functions are worth being killed in.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reward.model import save_reward_model, start_from_chat_model
from reward.preferences import Message, dialogue_root
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from tests.kill_reward_training import Findings, Training
from tests.tiny_models import tiny_chat_model

RUN = "reward.run_folder.RunFolder"


@dataclass(frozen=True)
class Stage:
    """A stage as it is killed."""

    module: str
    inputs: Callable[[Path], Mapping[str, Path]]
    """Writes what the stage reads into a folder; the flags that name it."""
    flags: Mapping[str, object]
    marks: Mapping[str, str]
    """What the child writes down → the function during which it does."""
    longest: Mapping[str, float]
    """Seconds after the mark within which a kill falls; ``loading`` is before the first of all."""
    wanted: Counter[str]
    """How many kills ``make proof`` wants to fall into each."""
    endings: tuple[str, ...] = ("result",)
    """What comes only at the end."""
    again: Counter[str] = field(default_factory=Counter)
    """What comes again and again, and up to which time it may be waited for."""


def inputs_of_ppo(folder: Path) -> dict[str, Path]:
    """A small policy, two reward models, and prompts."""
    chat = tiny_chat_model(folder / "chat")
    for seed, name in enumerate(("helpfulness", "safety")):
        save_reward_model(*start_from_chat_model(chat, seed), folder / name)
    prompts = []
    for number in range(24):
        messages = (Message("user", "Why " + "very " * (number % 3) + f"{number}?"),)
        split = PromptSplit.VALIDATION if number % 3 == 0 else PromptSplit.TRAIN
        root = dialogue_root(messages)
        prompts.append(Prompt(f"p{number}", root, messages, number % 4 == 0, None, split))
    write_prompts(folder / "prompts.jsonl", prompts)
    folders = {name: folder / name for name in ("helpfulness", "safety")}
    return {"prompts": folder / "prompts.jsonl", "policy": chat, **folders}


PPO = {
    "batch": 12, "minibatch": 4, "iterations": 6, "max-new-tokens": 12, "learning-rate": "2e-3",
    "validate-every": 2, "checkpoint-every": 1, "device": "cpu",
}  # fmt: skip
PPO_MARKS = {
    "drawing": "rlhf_loop.learner.sample_and_score",
    "update": "rlhf_loop.learner.Learner.update",
    "judging": "rlhf_loop.learner.Learner.validate",
    "checkpoint": f"{RUN}.save_checkpoint",
    "best": "rlhf_loop.ppo.replace_folder",
    "resuming": f"{RUN}.resumable_checkpoint",
    "result": f"{RUN}.write_result",
}
PPO_LONGEST = {
    "loading": 5.0, "resuming": 0.005, "between": 0.005, "drawing": 0.05, "update": 0.05,
    "judging": 0.05, "checkpoint": 0.012, "best": 0.012, "result": 0.003,
}  # fmt: skip
TIMES = Counter(drawing=5, update=4, judging=3, checkpoint=4, best=1)
STAGES = {
    "ppo": Stage(
        "rlhf_loop.ppo", inputs_of_ppo, PPO, PPO_MARKS, PPO_LONGEST,
        Counter(drawing=3, update=4, judging=2, checkpoint=4, best=2, result=1), again=TIMES,
    ),
    "ppo, value model": Stage(
        "rlhf_loop.ppo", inputs_of_ppo, {**PPO, "value": "safety", "answers-per-prompt": 2},
        PPO_MARKS, PPO_LONGEST, Counter(update=2, checkpoint=2), again=TIMES,
    ),
}  # fmt: skip


class StageRun(Training):
    """One run folder of a stage, worked on by child processes."""

    def __init__(self, folder: Path, inputs: Mapping[str, Path], stage: str) -> None:
        super().__init__(folder, inputs, "as it comes")
        words = {**STAGES[stage].flags, **inputs, "out": self.run.path}
        flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        self.command = [
            sys.executable, "-m", "tests.marked_stage", stage, str(self.marks), *flags
        ]  # fmt: skip


def draw_moment(
    stage: Stage, numbers: random.Random, lacking: Counter[str]
) -> tuple[str, int, float]:
    """(what, the how manieth of it, seconds after its beginning) of the next kill."""
    early = [kind for kind in lacking.elements() if kind not in stage.endings]
    what = numbers.choice([*early, "checkpoint"] if early else list(lacking))
    number = numbers.randint(1, max(stage.again[what], 1))
    return what, number, numbers.uniform(0, stage.longest[what])


def prove(folder: Path, name: str, wanted: Counter[str], numbers: random.Random) -> Findings:
    """Kill a stage until so many kills fell into each kind of moment, then let it end.

    Where it ends before that another run begins.
    """
    folder.mkdir()
    stage, findings = STAGES[name], Findings()
    given = stage.inputs(folder)
    undisturbed = StageRun(folder / "undisturbed", given, name)
    undisturbed.finish()
    expected = undisturbed.outcome()
    while wanted - findings.kills:
        findings.runs += 1
        print(f"{name}, run {findings.runs}; so far {dict(findings.kills)}", flush=True)
        disturbed = StageRun(folder / f"disturbed-{findings.runs}", given, name)
        while wanted - findings.kills and disturbed.run.result() is None:
            fell = disturbed.killed(*draw_moment(stage, numbers, wanted - findings.kills))
            findings.kills.update([fell] if fell else [])
        disturbed.finish()
        found = disturbed.outcome()
        findings.faults += [
            f"{name}, run {findings.runs}: other {part}"
            for part in expected
            if found[part] != expected[part]
        ]
    return findings


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    numbers, kills, faults = random.Random(parser.parse_args().seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, stage) in enumerate(STAGES.items()):
            found = prove(Path(folder) / str(number), name, stage.wanted, numbers)
            told = f"{found.kills.total()} kills in {found.runs} runs"
            print(f"{name}: {told}, {len(found.faults)} faults", flush=True)
            kills += found.kills
            faults += found.faults
    print(json.dumps({"killed in": kills}))
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
