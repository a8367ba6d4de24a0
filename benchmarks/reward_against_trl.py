"""Train the same reward model here and with TRL's RewardTrainer, and compare the two.

    python -m benchmarks.reward_against_trl --trl-python ENV/bin/python --real-data --out out.json
    python -m benchmarks.reward_against_trl --trl-python ENV/bin/python --pairs F --holdout F \\
        --model DIR --criterion safety --out out.json

TRL lives in an environment of its own, for it is no dependency of Tandem::

    python -m venv ENV
    ENV/bin/pip install trl==1.16.0 transformers==5.23.0 torch==2.13.0 datasets

Both sides get the same start weights (trunk and drawn head), the same pairs in the same order, the
same AdamW with clipping, a constant learning rate without warm-up, plain ranking loss (no margin,
no auxiliary loss), float32 on the CPU, one epoch, over-long pairs dropped. Within a step Tandem
sorts the pairs by length; a step's loss is the mean of all its pairs, so that changes nothing but
the rounding.

``--real-data`` imports the data in ``demo/data`` into a scratch database, writes a snapshot, and
compares one model of each criterion on its own pairs. Pairs are shuffled once, by the seed, into
the file that both sides then read from top to bottom.

The holdout is scored by Tandem's code for both saved models. The interval of the paired difference
is Agresti and Min's (2005) adjusted Wald interval; it takes pairs as independent, and so is too
narrow where many pairs share a prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from reward.config import TrainConfig
from reward.data import load_pairs, mix, tokenise, within_length
from reward.measures.accuracy import NORMAL_95, ScoredPair
from reward.measures.report import full_report
from reward.model import load_reward_model, save_reward_model, start_from_chat_model
from reward.optimiser import build_optimiser
from reward.preferences import Criterion, write_pairs
from reward.run_folder import RunFolder
from reward.score import score_pairs
from reward.settings import to_flags, to_mapping

ROOT = Path(__file__).resolve().parents[1]
COMPARED_LOSSES = 20
LOSS_GOAL = 1e-4
REAL_DATA = (
    ("hh-rlhf", "hh-harmless-base.jsonl.gz", "safety", "hh"),
    ("pandalm", "pandalm-three-annotators.json.gz", "helpfulness", "pandalm"),
    ("qa-feedback", "qa-feedback-ranked.json.gz", "helpfulness", "qa"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison: what is trained on, what is measured on, and where it is written."""

    name: str
    config: TrainConfig
    holdout: Path
    work: Path
    trl_python: Path
    threads: int


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one trainer gave."""

    losses: list[float]
    pairs: int
    over_long: int
    seconds: float
    """Reading, tokenising, training and saving."""
    process_seconds: float
    """The same with the interpreter's start and the imports."""
    decayed: list[str]
    model: Path


def real_pairs(var: Path) -> tuple[Path, Path]:
    """Import ``demo/data`` into a scratch database in ``var``; the snapshot's two pairs files."""
    environment = {**os.environ, "TANDEM_VAR": str(var), "TANDEM_DEMO": "true"}

    def manage(*arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)

    manage("migrate", "-v0")
    for format_, file, criterion, batch in REAL_DATA:
        data = str(Path("demo", "data", file))
        arguments = ["--format", format_, data, "--criterion", criterion, "--batch", batch]
        manage("import_comparisons", *arguments)
    manage(
        "shell", "-c", "from annotation_app import snapshots; snapshots.write_snapshot('safety')"
    )
    (snapshot,) = (var / "storage" / "snapshots").iterdir()
    return snapshot / "pairs.jsonl", snapshot / "holdout.jsonl"


def prepare_case(
    arguments: argparse.Namespace, criterion: Criterion, pairs: Path, holdout: Path, work: Path
) -> Case:
    """Write the criterion's own pairs, shuffled once and cut to the limit, into ``work``."""
    work.mkdir(parents=True)
    own = mix(load_pairs(pairs), criterion, "own", arguments.seed)
    random.Random(arguments.seed).shuffle(own)
    write_pairs(work / "pairs.jsonl", own[: arguments.limit])
    held = mix(load_pairs(holdout), criterion, "own", arguments.seed)
    write_pairs(work / "holdout.jsonl", held)
    config = TrainConfig(
        pairs=work / "pairs.jsonl",
        model=arguments.model.resolve(),
        out=work / "tandem",
        criterion=criterion,
        margin="none",
        auxiliary_weight=0.0,
        mixture="own",
        learning_rate=arguments.learning_rate,
        schedule="constant",
        warmup_share=0.0,
        warmup_least_steps=0,
        pairs_per_step=arguments.pairs_per_step,
        max_tokens=arguments.max_tokens,
        shuffle=False,
        seed=arguments.seed,
        device="cpu",
        checkpoint_every_steps=10**9,
    )
    return Case(
        name=str(criterion),
        config=config,
        holdout=work / "holdout.jsonl",
        work=work,
        trl_python=arguments.trl_python.absolute(),  # not resolved: a link makes the environment
        threads=arguments.threads,
    )


def run_timed(command: Sequence[object], case: Case, log: str) -> float:
    """Run a trainer in a process of its own; returns its wall seconds. Raises when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads)}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.monotonic()
    with (case.work / log).open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = (case.work / log).read_text(encoding="utf-8")[-3000:]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return time.monotonic() - started


def run_tandem(case: Case) -> Side:
    """``python -m reward.train`` with the settings of the case."""
    config = case.config
    flags = to_flags(to_mapping(config))
    seconds = run_timed([sys.executable, "-m", "reward.train", *flags], case, "tandem.log")
    result = json.loads((config.out / "result.json").read_text(encoding="utf-8"))
    return Side(
        losses=[line["loss"] for line in RunFolder(config.out).metrics()],
        pairs=result["pairs"],
        over_long=result["over_long"],
        seconds=result["seconds"],
        process_seconds=seconds,
        decayed=decayed_parameters(config),
        model=config.out / "model",
    )


def decayed_parameters(config: TrainConfig) -> list[str]:
    """The names of the parameters that Tandem's optimiser decays."""
    model, _ = start_from_chat_model(config.model, config.seed)
    groups = build_optimiser(model, config).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    return sorted(name for name, p in model.named_parameters() if id(p) in decayed)


def run_trl(case: Case) -> tuple[Side, dict[str, str]]:
    """TRL's RewardTrainer from the same start weights; also the versions it ran with."""
    start, out = case.work / "start", case.work / "trl"
    save_reward_model(*start_from_chat_model(case.config.model, case.config.seed), start)
    result_file, settings_file = case.work / "trl-result.json", case.work / "trl-settings.json"
    optimiser = ("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm")
    shared = ("learning_rate", "pairs_per_step", "max_tokens", "seed", *optimiser)
    settings = {name: getattr(case.config, name) for name in shared}
    paths = {"pairs": case.config.pairs, "model": start, "out": out, "result": result_file}
    settings |= {name: str(path) for name, path in paths.items()}
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    script = Path(__file__).with_name("_trl_reward.py")
    seconds = run_timed([case.trl_python, script, settings_file], case, "trl.log")
    result = json.loads(result_file.read_text(encoding="utf-8"))
    side = Side(
        losses=result["losses"],
        pairs=result["pairs"],
        over_long=result["over_long"],
        seconds=result["seconds"],
        process_seconds=seconds,
        decayed=result["decayed"],
        model=out,
    )
    return side, result["versions"]


def score_holdout(model_folder: Path, case: Case) -> tuple[list[ScoredPair], int]:
    """The held-out pairs scored as ``reward.evaluate`` does, and how many were over-long."""
    model, tokenizer = load_reward_model(model_folder)
    rows = tokenise(tokenizer, load_pairs(case.holdout))
    fitted = within_length(tokenizer, rows, case.config.max_tokens, "drop")
    return score_pairs(model, fitted.rows, case.config.tokens_per_minibatch), fitted.dropped


def paired_difference(ours: Sequence[ScoredPair], theirs: Sequence[ScoredPair]) -> dict[str, Any]:
    """Our accuracy less theirs on the same pairs, with Agresti and Min's 95 % interval."""
    differences = [a.credit - b.credit for a, b in zip(ours, theirs, strict=True)]
    count = len(differences) + 2
    centre = sum(differences) / count
    square = (sum(d * d for d in differences) + 1) / count
    half = NORMAL_95 * math.sqrt((square - centre**2) / count)
    return {
        "difference": sum(differences) / len(differences),
        "low": centre - half,
        "high": centre + half,
        "pairs_judged_differently": sum(d != 0 for d in differences),
    }


def largest(differences: Sequence[float]) -> float:
    """The largest absolute value, 0 for none."""
    return max(map(abs, differences), default=0.0)


def weight_difference(first: Path, second: Path) -> float:
    """The largest difference of any weight of two saved models."""
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    if a.keys() != b.keys():
        raise ValueError(f"{first} and {second} hold different weights: {a.keys() ^ b.keys()}")
    return max((a[name] - b[name]).abs().max().item() for name in a)


def compare(case: Case) -> dict[str, Any]:
    """Train on both sides and hold the two against each other."""
    ours = run_tandem(case)
    theirs, versions = run_trl(case)
    if len(ours.losses) != len(theirs.losses):
        raise ValueError(f"{len(ours.losses)} steps here, {len(theirs.losses)} with TRL")
    gaps = [a - b for a, b in zip(ours.losses, theirs.losses, strict=True)]
    scored, held_too_long = score_holdout(ours.model, case)
    scored_trl, held_too_long_trl = score_holdout(theirs.model, case)
    scores = [
        gap
        for a, b in zip(scored, scored_trl, strict=True)
        for gap in (a.chosen - b.chosen, a.rejected - b.rejected)
    ]
    return {
        "name": case.name,
        "steps": len(gaps),
        "largest_loss_difference_first_20": largest(gaps[:COMPARED_LOSSES]),
        "largest_loss_difference": largest(gaps),
        "largest_weight_difference": weight_difference(ours.model, theirs.model),
        "largest_score_difference": largest(scores),
        "same_parameters_decayed": ours.decayed == theirs.decayed,
        "paired": paired_difference(scored, scored_trl),
        "holdout_over_long": [held_too_long, held_too_long_trl],
        "sides": {
            name: {**asdict(side), "model": side.model.name, "holdout": full_report(held)}
            for name, side, held in (("Tandem", ours, scored), ("TRL", theirs, scored_trl))
        },
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(case.config).items()
            if name not in ("pairs", "model", "out")
        },
        "threads": case.threads,
        "versions": {"TRL side": versions, "Tandem side": {"torch": torch.__version__}},
    }


def table(found: dict[str, Any]) -> str:
    """A comparison for reading."""
    lines = [
        f"{found['name']}: {found['steps']} steps of {found['settings']['pairs_per_step']} pairs",
        f"{'':10}{'pairs':>7}{'over-long':>11}{'first loss':>12}{'last loss':>11}"
        f"{'held-out accuracy (95 %)':>31}{'seconds':>9}{'process s':>11}",
    ]
    for name, side in found["sides"].items():
        held = side["holdout"]
        shown = f"{held['accuracy']:.4f} ({held['low']:.4f} to {held['high']:.4f})"
        lines.append(
            f"{name:10}{side['pairs']:>7}{side['over_long']:>11}{side['losses'][0]:>12.6f}"
            f"{side['losses'][-1]:>11.6f}{shown:>31}{side['seconds']:>9.1f}"
            f"{side['process_seconds']:>11.1f}"
        )
    gap, paired = found["largest_loss_difference_first_20"], found["paired"]
    count = held["count"]
    lines += [
        f"largest loss difference, first {min(COMPARED_LOSSES, found['steps'])} steps: {gap:.2e} "
        f"({'within' if gap <= LOSS_GOAL else 'NOT within'} {LOSS_GOAL:.0e}); "
        f"all steps: {found['largest_loss_difference']:.2e}",
        f"largest difference of a weight: {found['largest_weight_difference']:.2e}, "
        f"of a held-out score: {found['largest_score_difference']:.2e}; "
        f"decayed parameters the same: {'yes' if found['same_parameters_decayed'] else 'NO'}",
        f"paired difference of accuracy: {paired['difference']:+.4f} "
        f"({paired['low']:+.4f} to {paired['high']:+.4f}), "
        f"{paired['pairs_judged_differently']} of {count} pairs judged differently; "
        f"held-out pairs over-long: {found['holdout_over_long'][0]}",
    ]
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trl-python", type=Path, required=True, help="interpreter with TRL")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--real-data", action="store_true", help="both criteria, from demo/data")
    parser.add_argument("--pairs", type=Path, help="pairs file to train on")
    parser.add_argument("--holdout", type=Path, help="pairs file to measure on")
    parser.add_argument("--criterion", type=Criterion, choices=list(Criterion))
    parser.add_argument(
        "--model", type=Path, default=ROOT / "demo" / "checkpoints" / "starter-a", help="chat model"
    )
    parser.add_argument("--limit", type=int, help="train on so many pairs at most")
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each trainer")
    arguments = parser.parse_args(argv)
    if not arguments.real_data and None in (
        arguments.pairs,
        arguments.holdout,
        arguments.criterion,
    ):
        parser.error("give --real-data, or --pairs, --holdout and --criterion")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print the tables, write the JSON file."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found = []
    with tempfile.TemporaryDirectory(prefix="reward-against-trl-") as temporary:
        work = Path(temporary)
        if arguments.real_data:
            pairs, holdout = real_pairs(work / "var")
            criteria = list(Criterion)
        else:
            pairs, holdout, criteria = arguments.pairs, arguments.holdout, [arguments.criterion]
        for criterion in criteria:
            case = prepare_case(arguments, criterion, pairs, holdout, work / criterion)
            found.append(compare(case))
            print(table(found[-1]), end="\n\n", flush=True)
            arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
