"""How fast a reward model trains here and with TRL's RewardTrainer, as its users run both.

    python -m benchmarks.reward_training --trl-python ENV/bin/python --out out.json

TRL's environment is that of ``benchmarks.reward_against_trl``, which shows that the two compute the
same. Here nothing is held in step but what is learnt from: the same pairs, start weights, pairs a
step, precision. TRL runs as it comes (random order, activation checkpointing) and tuned (a length
column and grouping by it, no checkpointing). The three take turns; the figures are medians over
the turns. A rate is pairs of the data by the seconds of the training steps, without imports,
reading and tokenising. Memory is the largest resident set of the whole process.

Grouping by length sorts within stretches of 50 steps, but never of more than a quarter of the data:
a small set would be padded up to twice as much as its user's whole one (on 48 of these pairs 3.0
times the tokens, on all 1,466 1.31 times). The turns of "tuned" are therefore given their pairs
sorted by length, which comes to 1.38 times on 160; the accuracy below trains on the whole set with
TRL's own grouping, and its rates are reported too.

The model is a Llama of six layers with random weights and the demo's tokenizer. ``pairs`` are those
of HH-RLHF in ``demo/data``; ``sessions`` are dialogues of four turns made of them, each turn a pair
that continues with the chosen answer of the one before. ``answers`` scores 16 answers to a prompt:
``python -m reward.score`` beside a loop over padded minibatches sorted by length, which is what a
user of transformers would write. ``accuracy`` trains a demo chat model on the whole set, seed by
seed, and compares the two on the held-out pairs, intervals drawn by dialogue.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.utils import logging as transformers_logging

from benchmarks.reward_against_trl import ROOT, real_pairs
from reward.data import load_pairs, mix, row_tokens, tokenise, within_length
from reward.measures.accuracy import ScoredPair
from reward.measures.accuracy import accuracy as measures_accuracy
from reward.measures.resampling import compare_pairwise
from reward.model import (
    load_reward_model,
    load_tokenizer,
    save_reward_model,
    start_from_chat_model,
)
from reward.preferences import Criterion, Message, PreferencePair, write_pairs
from reward.score import score_pairs

MEBIBYTE = 1024  # kibibytes, the unit of ru_maxrss
TURNS = 4
TRAINERS = ("Tandem", "TRL as it comes", "TRL tuned")


class Turn(NamedTuple):
    """What one training process took."""

    pairs_per_second: float
    memory_mib: float


def start_weights(folder: Path, arguments: argparse.Namespace) -> None:
    """A Llama that has learnt nothing, with the demo's tokenizer."""
    tokenizer = load_tokenizer(ROOT / "demo" / "checkpoints" / "starter-a")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 43 // 16,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    save_reward_model(LlamaForSequenceClassification(config), tokenizer, folder)


def sessions_of(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Dialogues of four turns: every four pairs of one turn each, one after the other."""
    single = [pair for pair in pairs if len(pair.prompt) == 1]
    found = []
    for start in range(0, len(single) - TURNS + 1, TURNS):
        history: tuple[Message, ...] = ()
        for turn, pair in enumerate(single[start : start + TURNS]):
            history = (*history, pair.prompt[0])
            root = single[start].root
            found.append(replace(pair, prompt=history, root=root, dialogue=root, turn=turn))
            history = (*history, Message("assistant", pair.chosen))
    return found


def run(command: Sequence[object], threads: int, log: Path) -> float:
    """Run to the end; returns the largest resident set, MiB. Raises when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=environment,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{command[0]} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return usage.ru_maxrss / MEBIBYTE


def train_here(
    arguments: argparse.Namespace, start: Path, out: Path, pairs: Path, seed: int
) -> Turn:
    """``python -m reward.train``."""
    flags = {
        "pairs": pairs, "model": start, "out": out, "criterion": "safety", "seed": seed,
        "margin": "none", "auxiliary-weight": 0, "mixture": "all", "dtype": arguments.dtype,
        "pairs-per-step": arguments.pairs_per_step, "max-tokens": arguments.max_tokens,
        "learning-rate": arguments.learning_rate, "checkpoint-every-steps": 10**9,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "reward.train", *words]
    memory = run(command, arguments.threads, out.with_suffix(".log"))
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return Turn(result["pairs"] / result["training_seconds"], memory)


def train_with_trl(
    arguments: argparse.Namespace, start: Path, out: Path, pairs: Path, seed: int, kind: str
) -> Turn:
    """TRL's RewardTrainer; ``kind`` is "as it comes", "tuned" or "sorted"."""
    out.mkdir()
    settings = {
        "pairs": str(pairs), "model": str(start), "out": str(out), "seed": seed,
        "result": str(out / "result.json"), "kind": kind, "dtype": arguments.dtype,
        "pairs_per_step": arguments.pairs_per_step, "max_tokens": arguments.max_tokens,
        "learning_rate": arguments.learning_rate,
    }  # fmt: skip
    (out / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    script = Path(__file__).with_name("_trl_reward.py")
    command = [arguments.trl_python.absolute(), script, out / "settings.json"]
    memory = run(command, arguments.threads, out.with_suffix(".log"))
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return Turn(result["pairs"] / result["training_seconds"], memory)


def take_turns(arguments: argparse.Namespace, work: Path, pairs: Path) -> dict[str, Any]:
    """Every trainer once in each turn; medians, and how Tandem compares within each turn."""
    start = work / "start"

    def trl(kind: str) -> Callable[[Path, int], Turn]:
        return lambda out, seed: train_with_trl(arguments, start, out, pairs, seed, kind)

    trainers: dict[str, Callable[[Path, int], Turn]] = {
        "Tandem": lambda out, seed: train_here(arguments, start, out, pairs, seed),
        "TRL as it comes": trl("as it comes"),
        "TRL tuned": trl("sorted"),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in TRAINERS}
    for seed in range(arguments.turns):
        for name in TRAINERS:
            out = Path(tempfile.mkdtemp(dir=work)) / "run"
            turns[name].append(trainers[name](out, seed))
            print(f"  turn {seed + 1}, {name}: {turns[name][-1]}", flush=True)
    return {
        name: {
            "pairs_per_second": statistics.median(turn.pairs_per_second for turn in found),
            "memory_mib": statistics.median(turn.memory_mib for turn in found),
            "tandem_is_faster": statistics.median(
                ours.pairs_per_second / theirs.pairs_per_second
                for ours, theirs in zip(turns["Tandem"], found, strict=True)
            ),
            "turns": [turn._asdict() for turn in found],
        }
        for name, found in turns.items()
    }


def bound(arguments: argparse.Namespace, work: Path, pairs: Path) -> dict[str, float]:
    """The rate at which nothing but the matrix products of each distinct token would run.

    6 operations a weight and token, and 12 a channel, layer and pair of a token with one it attends
    to (a third forward, the rest backward), at the rate of a matrix product of the model's own
    shape, measured now.
    """
    from timeit import repeat

    from reward.data import tokenise
    from reward.prefix_tree import prefix_tree

    model, tokenizer = start_from_chat_model(work / "start", 0)
    rows = tokenise(tokenizer, load_pairs(pairs))
    flat = [tokens for row in rows for tokens in (row.chosen, row.rejected)]
    tree = prefix_tree(flat, shortest=1)
    attended = sum(position + 1 for position in tree.positions)
    weights = sum(p.numel() for p in model.base_model.layers.parameters())
    torch.set_num_threads(arguments.threads)
    a = torch.randn(4096, arguments.hidden)
    b = torch.randn(arguments.hidden, arguments.hidden * 43 // 16)
    seconds = min(repeat(lambda: a @ b, number=10, repeat=5)) / 10
    rate = 2 * a.shape[0] * b.numel() / seconds
    operations = 6 * weights * len(tree.tokens)
    operations += 12 * arguments.hidden * arguments.layers * attended
    return {
        "tokens_of_rows": sum(map(len, flat)),
        "distinct_tokens": len(tree.tokens),
        "operations_per_second": rate,
        "pairs_per_second": len(rows) * rate / operations,
    }


def accuracy(
    arguments: argparse.Namespace, work: Path, pairs: Path, holdout: Path
) -> dict[str, Any]:
    """Both trainers on the whole set, a run each a seed, and their judgements of the holdout."""
    held: dict[str, list[ScoredPair]] = {"Tandem": [], "TRL": []}
    rates: dict[str, list[float]] = {"Tandem": [], "TRL": []}
    for seed in range(arguments.seeds):
        start = work / f"accuracy-{seed}"
        save_reward_model(*start_from_chat_model(arguments.chat_model, seed), start)
        runs = {name: work / f"{name}-{seed}" for name in held}
        turns = {
            "Tandem": train_here(arguments, start, runs["Tandem"], pairs, seed),
            "TRL": train_with_trl(arguments, start, runs["TRL"], pairs, seed, "tuned"),
        }
        folders = {"Tandem": runs["Tandem"] / "model", "TRL": runs["TRL"]}
        for name, folder in folders.items():
            rates[name].append(turns[name].pairs_per_second)
            held[name] += score_holdout(folder, holdout, arguments.max_tokens)
        print(f"  seed {seed}: {turns}", flush=True)
    return {
        "seeds": arguments.seeds,
        "accuracy": {name: measures_accuracy(scored)["accuracy"] for name, scored in held.items()},
        "paired": compare_pairwise(held["Tandem"], held["TRL"]),
        "pairs_per_second": {name: statistics.median(found) for name, found in rates.items()},
    }


def score_holdout(folder: Path, holdout: Path, max_tokens: int) -> list[ScoredPair]:
    """The held-out pairs that are not over-long, scored here whoever trained the model."""
    model, tokenizer = load_reward_model(folder)
    rows = tokenise(tokenizer, load_pairs(holdout))
    return score_pairs(model, within_length(tokenizer, rows, max_tokens, "drop").rows, 16384)


def answers(arguments: argparse.Namespace, work: Path, pairs: Path) -> dict[str, Any]:
    """Sixteen answers to each of a few prompts, scored here and by a padded loop."""
    from time import monotonic

    from reward.score import Scorer

    every = load_pairs(pairs)
    texts = [answer for pair in every for answer in (pair.chosen, pair.rejected)]
    numbers = random.Random(0)
    prompts = sorted({pair.prompt for pair in every}, key=str)[: arguments.prompts]
    asked = [[*p, Message("assistant", a)] for p in prompts for a in numbers.sample(texts, 16)]
    scorer = Scorer(work / "start", dtype=arguments.dtype)
    torch.set_num_threads(arguments.threads)
    plain = LlamaForSequenceClassification.from_pretrained(work / "start").eval()
    rows = [row_tokens(scorer.tokenizer, messages) for messages in asked]
    seconds: dict[str, list[float]] = {"Tandem": [], "padded": []}
    for _ in range(arguments.turns):
        started = monotonic()
        ours = scorer.score_tokens(rows)
        seconds["Tandem"].append(monotonic() - started)
        started = monotonic()
        theirs = padded_scores(plain, rows, scorer.tokenizer.pad_token_id)
        seconds["padded"].append(monotonic() - started)
    ratios = [b / a for a, b in zip(seconds["Tandem"], seconds["padded"], strict=True)]
    return {
        "answers": len(rows),
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "tandem_is_faster": statistics.median(ratios),
        "largest_difference": (ours - theirs).abs().max().item(),
    }


@torch.no_grad()
def padded_scores(model: Any, rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Scores by the class's own forward, 64 rows of like length at once."""
    scores = torch.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        longest = max(len(rows[i]) for i in chosen)
        ids = torch.tensor([[*rows[i]] + [pad] * (longest - len(rows[i])) for i in chosen])
        scores[chosen] = model(ids, attention_mask=(ids != pad).long()).logits.squeeze(-1)
    return scores


def table(name: str, found: dict[str, Any]) -> str:
    """A case for reading."""
    lines = [f"{name}:"]
    for trainer, figures in found["trainers"].items():
        lines.append(
            f"  {trainer:17}{figures['pairs_per_second']:8.2f} pairs/s{figures['memory_mib']:8.0f}"
            f" MiB   Tandem is {figures['tandem_is_faster']:.2f} times as fast"
        )
    limit = found["bound"]
    share = found["trainers"]["Tandem"]["pairs_per_second"] / limit["pairs_per_second"]
    lines.append(
        f"  bound {limit['pairs_per_second']:.2f} pairs/s, reached {share:.0%}; "
        f"{limit['distinct_tokens']} distinct tokens of {limit['tokens_of_rows']}"
    )
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trl-python", type=Path, required=True, help="interpreter with TRL")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--limit", type=int, default=160, help="pairs of a turn")
    parser.add_argument("--prompts", type=int, default=8, help="prompts with 16 answers each")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="runs on the whole set; 0 for none")
    parser.add_argument(
        "--chat-model", type=Path, default=ROOT / "demo" / "checkpoints" / "starter-a"
    )
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each trainer")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Both cases and the answers; prints the tables, writes the JSON file."""
    arguments = parse_arguments(argv)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="reward-training-") as temporary:
        work = Path(temporary)
        start_weights(work / "start", arguments)
        every, holdout = (load_pairs(file) for file in real_pairs(work / "var"))
        own = mix(every, Criterion.SAFETY, "own", 0)
        random.Random(0).shuffle(own)
        cases = {"pairs": own[: arguments.limit], "sessions": sessions_of(own)[: arguments.limit]}
        for name, pairs in cases.items():
            file = work / f"{name}.jsonl"
            write_pairs(file, pairs)
            trainers = take_turns(arguments, work, file)
            found[name] = {"trainers": trainers, "bound": bound(arguments, work, file)}
            print(table(name, found[name]), flush=True)
        found["answers"] = answers(arguments, work, work / "pairs.jsonl")
        print(found["answers"], flush=True)
        if arguments.seeds:
            write_pairs(work / "own.jsonl", own)
            write_pairs(work / "holdout.jsonl", mix(holdout, Criterion.SAFETY, "own", 0))
            found["accuracy"] = accuracy(
                arguments, work, work / "own.jsonl", work / "holdout.jsonl"
            )
            print(found["accuracy"])
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
