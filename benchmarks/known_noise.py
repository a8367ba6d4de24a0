"""Reward models on simulated preferences whose noise is known (Bradley and Terry 1952).

    python -m benchmarks.known_noise --model demo/checkpoints/starter-a --out out.json

An answer is a few words; each word has a utility, an answer the sum of its words'. The annotator
prefers a to b with probability sigmoid(u(a) - u(b)), once. So the best accuracy that any model can
have on such verdicts (the Bayes rate) and the true probability of every pair are known. More
strongly preferred is what lies further apart: the four strengths are quarters of |u(a) - u(b)|.

What should be seen: accuracy goes to the Bayes rate and calibration error to what chance leaves
as pairs grow; margins spread the scores (Llama 2, figure 27) and cost calibration.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from reward.config import TrainConfig
from reward.measures.accuracy import ScoredPair
from reward.measures.calibration import preference_outcomes, reliability
from reward.preferences import (
    STRONGEST_FIRST,
    Criterion,
    Message,
    PreferencePair,
    dialogue_root,
    write_pairs,
)
from reward.scores import SCORES, read_scores
from reward.train import train

WORDS = ("red", "blue", "green", "white", "black", "brown", "pink", "grey")
QUARTERS = (1.5, 1.0, 0.5)  # of |u(a) - u(b)|, from significantly better down


class Simulated(NamedTuple):
    """Pairs with drawn verdicts, and the true probability of each verdict."""

    pairs: list[PreferencePair]
    likely: np.ndarray
    """(N,) sigmoid(u(chosen) - u(rejected))."""

    @property
    def bayes_rate(self) -> float:
        """The accuracy that a model which knows the utilities expects."""
        return float(np.maximum(self.likely, 1 - self.likely).mean())


def simulate(count: int, seed: int, first: int = 0, words: int = 2) -> Simulated:
    """``count`` pairs of answers of so many words each; utilities are the same for every seed."""
    utilities = dict(zip(WORDS, np.linspace(-1.0, 1.0, len(WORDS)), strict=True))
    numbers = np.random.default_rng(seed)
    pairs, likely = [], []
    for i in range(first, first + count):
        a, b = (" ".join(numbers.choice(WORDS, words)) for _ in range(2))
        while a == b:
            b = " ".join(numbers.choice(WORDS, words))
        gap = sum(utilities[w] for w in a.split()) - sum(utilities[w] for w in b.split())
        if numbers.random() >= expit(gap):
            a, b, gap = b, a, -gap
        prompt = (Message("user", f"Number {i}?"),)
        strength = STRONGEST_FIRST[sum(abs(gap) < quarter for quarter in QUARTERS)]
        pairs.append(
            PreferencePair(
                prompt=prompt, chosen=a, rejected=b, criterion=Criterion.HELPFULNESS,
                id=str(i), dialogue=str(i), root=dialogue_root(prompt), strength=strength,
                source="collected",
            )
        )  # fmt: skip
        likely.append(expit(gap))
    return Simulated(pairs, np.array(likely))


def train_on(
    simulated: Simulated, holdout: Simulated, model: Path, out: Path, **settings: Any
) -> list[ScoredPair]:
    """The holdout, scored by a model trained on the simulated pairs."""
    out.mkdir(parents=True)
    write_pairs(out / "pairs.jsonl", simulated.pairs)
    write_pairs(out / "holdout.jsonl", holdout.pairs)
    train(
        TrainConfig(
            pairs=out / "pairs.jsonl", holdout=out / "holdout.jsonl", model=model, out=out,
            criterion=Criterion.HELPFULNESS, checkpoint_every_steps=10**9, **settings,
        )
    )  # fmt: skip
    return read_scores(out / SCORES, holdout.pairs)


def figures(scored: Sequence[ScoredPair], holdout: Simulated) -> dict[str, float]:
    """Beside the Bayes rate: accuracy on the drawn verdicts, and on the truly better answers; the
    calibration error, by chance too; the mean distance from the true probability; the spread."""
    found = reliability(preference_outcomes(scored))
    differences = np.array([item.difference for item in scored])
    every = np.array([score for item in scored for score in (item.chosen, item.rejected)])
    return {
        "count": len(scored),
        "bayes_rate": holdout.bayes_rate,
        "accuracy": float(np.mean([item.credit for item in scored])),
        "truly_better": float(np.mean((differences > 0) == (holdout.likely > 0.5))),
        "ece": found["ece"],
        "ece_by_chance": found["ece_by_chance"],
        "distance": float(np.abs(expit(differences) - holdout.likely).mean()),
        "score_sd": float(every.std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 400, 1600, 6400])
    parser.add_argument("--holdout", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    holdout = simulate(arguments.holdout, seed=1, first=10**6)
    settings = {
        "learning_rate": arguments.learning_rate,
        "pairs_per_step": arguments.pairs_per_step,
        "weight_decay": 0.0,
    }
    runs = [(count, "none") for count in arguments.counts]
    runs += [(arguments.counts[-1], margin) for margin in ("small", "large")]
    table = []
    with tempfile.TemporaryDirectory() as work:
        for count, margin in runs:
            scored = train_on(
                simulate(count, seed=0), holdout, arguments.model,
                Path(work) / f"{count}-{margin}", margin=margin, **settings,
            )  # fmt: skip
            table.append({"pairs": count, "margin": margin, **figures(scored, holdout)})
            print(table[-1], flush=True)
    arguments.out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
