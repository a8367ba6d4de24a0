"""Is a training that was killed, again and again, bit for bit the one that nobody disturbed?

``python -m tests.kill_reward_training`` starts the real training as a child process, kills it
(SIGKILL) at random moments, starts it again, and in the end holds weights, figures and result
against those of an undisturbed run. The child writes down what it is doing
(``tests.marked_reward_training``), so where each kill fell is known and not guessed. A small form
of it is part of ``make test``, the large one of ``make proof``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reward.preferences import Verdict, write_pairs
from reward.run_folder import RunFolder
from tests.forked import Child, start
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model

FLAGS = {
    "learning-rate": "3e-3", "pairs-per-step": "8", "tokens-per-minibatch": "120", "epochs": "3",
    "checkpoint-every-steps": "2", "device": "cpu",
}  # fmt: skip
WAYS: dict[str, dict[str, str]] = {
    "as it comes": {"criterion": "helpfulness"},
    "bfloat16": {"criterion": "helpfulness", "dtype": "bfloat16"},
    "safety": {"criterion": "safety", "mixture": "all"},
    "activations computed again": {"criterion": "helpfulness", "recompute-activations": "true"},
    "further losses": {
        "criterion": "helpfulness", "soft-labels": "true", "label-smoothing": "0.1",
        "reliability-weights": "true", "centring": "0.1",
    },
}  # fmt: skip
LONGEST = {  # seconds after the mark within which a kill falls
    "loading": 0.05, "resuming": 0.005, "between": 0.005, "step": 0.02, "checkpoint": 0.012,
    "scoring": 0.05, "model": 0.02, "result": 0.003,
}  # fmt: skip
ENDINGS = ("scoring", "model", "result")
WANTED = {
    "as it comes": Counter(LONGEST.keys()) + Counter(step=23, checkpoint=11),
    **{way: Counter(step=3, checkpoint=2) for way in list(WAYS)[1:]},
}
PATIENCE_SECONDS = 300
OF_THE_CLOCK = {"time", "seconds", "training_seconds"}


@dataclass
class Findings:
    """Where the kills fell, and what came out different; ``faults`` must be empty."""

    kills: Counter[str] = field(default_factory=Counter)
    remains: Counter[str] = field(default_factory=Counter)
    """Which folders kills inside the writing of a checkpoint left."""
    runs: int = 0
    faults: list[str] = field(default_factory=list)


class Training:
    """One run folder, trained by child processes."""

    def __init__(self, folder: Path, inputs: Mapping[str, Path], way: str) -> None:
        self.run, self.marks = RunFolder(folder / "run"), folder / "marks"
        folder.mkdir()
        words = {**FLAGS, **WAYS[way], **inputs, "out": self.run.path}
        flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        self.module, self.arguments = "tests.marked_reward_training", [str(self.marks), *flags]
        self.log = folder / "log.txt"

    def start(self) -> Child:
        self.marks.unlink(missing_ok=True)
        return start(self.module, self.arguments, self.log)

    def doing(self) -> list[str]:
        """What the child has written down so far; the last is what it is doing."""
        return self.marks.read_text().split() if self.marks.exists() else []

    def killed(self, what: str, number: int, after: float) -> str:
        """Kill a child ``after`` so many seconds of the ``number``-th ``what``; what it was doing
        when it died, "" where it had ended by then."""
        child = self.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.doing().count(what) < number:
            if child.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.0005)
        time.sleep(after)
        child.kill()
        status = child.wait()
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(self.log.read_text()[-2000:])
        return self.doing()[-1] if status and self.doing() else ""

    def finish(self) -> None:
        if self.start().wait():
            raise RuntimeError(self.log.read_text()[-2000:])

    def outcome(self) -> dict[str, object]:
        """All that must not depend on kills."""
        lines = [_without_clock(line) for line in self.run.metrics()]
        left = sorted(str(path.relative_to(self.run.path)) for path in self.run.path.rglob("*"))
        return {
            "weights": (self.run.model / "model.safetensors").read_bytes(),
            "figures": lines,
            "steps": [line["step"] for line in lines],
            "result": _without_clock(self.run.result() or {}),
            "files": left,
        }


def _without_clock(figures: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value
        for name, value in figures.items()
        if name not in OF_THE_CLOCK and not name.startswith("seconds/")
    }


def inputs(folder: Path) -> dict[str, Path]:
    """A small model, 64 pairs of either criterion with verdicts of unlike weight, and a holdout."""
    every = [
        pair(n, criterion, id=f"{criterion}-{n}", share=0.6 + n / 200,
             verdicts=(Verdict("x", "a", weight=n / 7 + 0.1),))
        for criterion in ("helpfulness", "safety") for n in range(64)
    ]  # fmt: skip
    write_pairs(folder / "pairs.jsonl", every)
    write_pairs(folder / "holdout.jsonl", [*pairs(24, first=100), *pairs(24, "safety", first=130)])
    return {
        "pairs": folder / "pairs.jsonl",
        "holdout": folder / "holdout.jsonl",
        "model": tiny_chat_model(folder / "chat"),
    }


def draw_moment(numbers: random.Random, lacking: Counter[str]) -> tuple[str, int, float]:
    """(what, the how manieth of it, seconds after its beginning) of the next kill.

    What only comes in the end is tried when nothing else is lacking. Before that a checkpoint may
    always be drawn, so that a run gets on between its kills.
    """
    early = [kind for kind in lacking.elements() if kind not in ENDINGS]
    what = numbers.choice([*early, "checkpoint"] if early else list(lacking))
    number = numbers.randint(1, 3) if what in ("step", "checkpoint") else 1
    return what, number, numbers.uniform(0, LONGEST[what])


def prove(folder: Path, way: str, wanted: Counter[str], numbers: random.Random) -> Findings:
    """Kill a training until so many kills fell into each kind of moment, then let it end.

    Where it ends before that another one begins.
    """
    folder.mkdir()
    findings, given = Findings(), inputs(folder)
    undisturbed = Training(folder / "undisturbed", given, way)
    undisturbed.finish()
    expected = undisturbed.outcome()
    while wanted - findings.kills:
        findings.runs += 1
        print(f"{way}, run {findings.runs}; so far {dict(findings.kills)}", flush=True)
        disturbed = Training(folder / f"disturbed-{findings.runs}", given, way)
        _disturb(disturbed, wanted, numbers, findings)
        disturbed.finish()
        found = disturbed.outcome()
        findings.faults += [
            f"{way}, run {findings.runs}: other {name}"
            for name in expected
            if found[name] != expected[name]
        ]
    return findings


def _disturb(
    training: Training, wanted: Counter[str], numbers: random.Random, findings: Findings
) -> None:
    """Kill a training again and again until nothing is wanted any more, or it has ended."""
    while wanted - findings.kills and training.run.result() is None:
        fell = training.killed(*draw_moment(numbers, wanted - findings.kills))
        if not fell:
            continue
        findings.kills[fell] += 1
        if fell == "checkpoint":
            path = training.run.checkpoint
            stood = [end for end in ("", ".new", ".old") if Path(f"{path}{end}").exists()]
            findings.remains[" ".join(path.name + end for end in stood)] += 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    numbers, total = random.Random(parser.parse_args().seed), Findings()
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            found = prove(Path(folder) / way.replace(" ", "-"), way, WANTED[way], numbers)
            kills = f"{found.kills.total()} kills in {found.runs} runs"
            print(f"{way}: {kills}, {len(found.faults)} faults", flush=True)
            total.kills += found.kills
            total.remains += found.remains
            total.faults += found.faults
    print(json.dumps({"killed in": total.kills, "left by those in checkpoints": total.remains}))
    if total.faults:
        sys.exit("\n".join(total.faults))


if __name__ == "__main__":
    main()
