"""Train one reward model: ``python -m reward.train``.

The recipe of Llama 2, section 3.2.2: trunk of the chat model, scalar head, margin ranking loss, for
the safety model a classification loss beside it, AdamW, warm-up and cosine, one epoch. Started
again on the same run folder it goes on from the last checkpoint; on the CPU the finished weights
are bit for bit those of an uninterrupted run.

Left out on purpose: callbacks, trackers, epochs of evaluation. Figures go to ``metrics.jsonl``;
whoever wants to see them reads that file.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reward.accuracy import report
from reward.config import TrainConfig
from reward.data import (
    PairRows,
    composition,
    epoch_order,
    load_pairs,
    mix,
    refuse_leak,
    tokenise,
    within_length,
)
from reward.loss import MARGINS, centring_loss, ranking_loss, safety_auxiliary_loss
from reward.model import (
    context_tokens,
    pick_device,
    recompute_activations,
    save_reward_model,
    score_rows,
    shares_prefixes,
    start_from_chat_model,
)
from reward.preferences import Criterion, PreferencePair
from reward.run_folder import RunFolder, RunFolderBusy, replace_folder
from reward.score import score_pairs
from reward.scores import SCORES, write_scores
from reward.settings import parse, to_mapping
from reward.training_state import load_state, save_state


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, measure on the holdout, and leave ``model/`` and ``result.json`` in the run folder.

    Returns the result; a folder that has one already is left as it is. Raises ValueError for data
    or settings that cannot be trained on, RunFolderBusy when another process works there.
    """
    folder = RunFolder(config.out)
    with folder.locked():
        folder.write_config(to_mapping(config))
        finished = folder.result()
        if finished is not None:
            print(f"{config.out} is done already.", flush=True)
            return finished
        return _train(config, folder)


def _train(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:
    started = time.monotonic()
    torch.manual_seed(config.seed)
    manifest = config.pairs.with_name("manifest.json")
    folder.write_provenance(
        {
            "pairs": config.pairs,
            "holdout": config.holdout,
            "manifest": manifest if manifest.is_file() else None,
            "model": config.model,
        }
    )

    # 1. data: what is trained on, what is measured on
    every = load_pairs(config.pairs)
    holdout = load_pairs(config.holdout) if config.holdout else []
    refuse_leak(every, holdout)
    pairs = mix(every, config.criterion, config.mixture, config.seed)

    # 2. model: the chat model's trunk with a fresh head
    model, tokenizer = start_from_chat_model(config.model, config.seed)
    model.to(pick_device(config.device))
    if config.recompute_activations:
        recompute_activations(model)
    longest = min(config.max_tokens, context_tokens(model) or config.max_tokens)
    fitted, held = (
        within_length(tokenizer, tokenise(tokenizer, some), longest, config.over_long)
        for some in (pairs, holdout)
    )
    rows = fitted.rows
    if not rows:
        raise ValueError(f"{config.pairs} leaves no pair to train a {config.criterion} model on")

    # 3. optimise
    optimiser = build_optimiser(model, config)
    steps = list(step_pairs(rows, config))
    done = _resume(folder, model, optimiser)
    folder.rewind_metrics(done)
    training_started = time.monotonic()
    for step, minibatch_rows in enumerate(steps[done:], start=done + 1):
        figures = optimiser_step(model, optimiser, minibatch_rows, config, step, len(steps))
        folder.log_metrics(step, len(steps), **figures)
        if step % config.checkpoint_every_steps == 0 and step < len(steps):
            state = partial(save_state, model=model, optimiser=optimiser, position={"step": step})
            folder.save_checkpoint(state)
    training_seconds = time.monotonic() - training_started

    # 4. measure and leave
    at_once = 2 * config.pairs_per_minibatch
    scored = score_pairs(model, held.rows, at_once, config.dtype)
    write_scores(folder.path / SCORES, scored)
    replace_folder(folder.model, lambda new: save_reward_model(model, tokenizer, new))
    folder.write_result(
        {
            "model": folder.model.name,
            "criterion": config.criterion,
            "holdout": {
                **report(scored, config.criterion),
                "over_long": held.dropped,
                "cut": held.cut,
            },
            "pairs": len(rows),
            "over_long": fitted.dropped,
            "cut": fitted.cut,
            "composition": composition(row.pair for row in rows),
            "steps": len(steps),
            "training_seconds": round(training_seconds, 3),
            "seconds": round(time.monotonic() - started, 1),
        }
    )
    return folder.result() or {}


def build_optimiser(model: Any, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves vectors (norms, biases) alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
    )


def step_pairs(rows: Sequence[PairRows], config: TrainConfig) -> Iterator[list[PairRows]]:
    """The pairs of each optimiser step, over all epochs; the last step of an epoch may be small."""
    for epoch in range(config.epochs):
        order = epoch_order([row.pair.root for row in rows], epoch, config.seed, config.shuffle)
        for start in range(0, len(order), config.pairs_per_step):
            yield [rows[i] for i in order[start : start + config.pairs_per_step]]


def warmup_steps(total: int, config: TrainConfig) -> int:
    """3 % of all steps, rounded up, at least 5 (section 3.2.2), never more than there are."""
    share = math.ceil(round(config.warmup_share * total, 6))
    return min(total, max(config.warmup_least_steps, share))


def learning_rate_share(step: int, total: int, config: TrainConfig) -> float:
    """What share of the highest learning rate step 1 … total uses: warm-up, then cosine."""
    warmup = warmup_steps(total, config)
    if step <= warmup:
        return step / warmup
    if config.schedule == "constant":
        return 1.0
    return cosine_share((step - warmup) / (total - warmup), config.final_learning_rate_share)


def cosine_share(progress: float, final: float) -> float:
    """From 1 at ``progress`` 0 along half a cosine to ``final`` at 1."""
    return final + (1 - final) / 2 * (1 + math.cos(math.pi * progress))


def optimiser_step(
    model: Any,
    optimiser: torch.optim.Optimizer,
    rows: Sequence[PairRows],
    config: TrainConfig,
    step: int,
    total: int,
) -> dict[str, float | int]:
    """One update from all pairs of the step, a minibatch at a time; returns its figures.

    Each minibatch counts by its share of the step's pairs (auxiliary loss: of its known
    responses), so the gradient is that of the one big batch.
    """
    rate = config.learning_rate * learning_rate_share(step, total, config)
    for group in optimiser.param_groups:
        group["lr"] = rate
    known = _known(rows) or 1
    ranking = auxiliary = centring = correct = 0.0
    for minibatch in _minibatches(model, rows, config.pairs_per_minibatch):
        chosen, rejected = _score_pairs(model, minibatch, config.dtype)
        rank = _ranking(chosen, rejected, minibatch, config) * _part(minibatch, rows, config)
        safety = _auxiliary(chosen, rejected, minibatch) * (_known(minibatch) / known)
        centre = centring_loss(chosen, rejected) * (len(minibatch) / len(rows))
        loss = rank + auxiliary_weight(config) * safety + config.centring * centre
        loss.backward()  # type: ignore[no-untyped-call]
        ranking += rank.item()
        auxiliary += safety.item()
        centring += centre.item()
        correct += (chosen > rejected).sum().item() + 0.5 * (chosen == rejected).sum().item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    loss_value = ranking + auxiliary_weight(config) * auxiliary + config.centring * centring
    if not math.isfinite(loss_value) or not math.isfinite(norm.item()):
        raise ValueError(f"loss is {loss_value} and gradient norm {norm.item()} at step {step}")
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {
        "loss": loss_value,
        "ranking_loss": ranking,
        "auxiliary_loss": auxiliary,
        "centring_loss": centring,
        "accuracy": correct / len(rows),
        "learning_rate": rate,
        "gradient_norm": norm.item(),
        "pairs": len(rows),
    }


def auxiliary_weight(config: TrainConfig) -> float:
    """The helpfulness model has no auxiliary loss (appendix A.3.3)."""
    return config.auxiliary_weight if config.criterion is Criterion.SAFETY else 0.0


def _minibatches(model: Any, rows: Sequence[PairRows], size: int) -> Iterator[list[PairRows]]:
    """Pairs of like beginnings together, or, where nothing is shared, of like lengths."""
    if shares_prefixes(model):
        order = sorted(rows, key=lambda row: row.chosen)
    else:
        order = sorted(rows, key=lambda row: row.longest)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _score_pairs(model: Any, rows: Sequence[PairRows], dtype: str) -> tuple[Tensor, Tensor]:
    both = [row.chosen for row in rows] + [row.rejected for row in rows]
    scores = score_rows(model, both, dtype)  # (2B,)
    return scores[: len(rows)], scores[len(rows) :]


def _ranking(
    chosen: Tensor, rejected: Tensor, rows: Sequence[PairRows], config: TrainConfig
) -> Tensor:
    margins = [MARGINS[config.margin][row.pair.strength] for row in rows]
    numbers = (margins, _weights(rows, config), [_target(row.pair, config) for row in rows])
    return ranking_loss(chosen, rejected, *(torch.tensor(n, device=chosen.device) for n in numbers))


def _target(pair: PreferencePair, config: TrainConfig) -> float:
    """The probability that the chosen response is the better one."""
    sure = pair.share if config.soft_labels else 1.0
    return sure * (1 - config.label_smoothing) + (1 - sure) * config.label_smoothing


def _weights(rows: Sequence[PairRows], config: TrainConfig) -> list[float]:
    """How much each pair counts; one without verdicts is as good as any."""
    if not config.reliability_weights:
        return [1.0] * len(rows)
    weights = ([verdict.weight for verdict in row.pair.verdicts] or [1.0] for row in rows)
    return [sum(of_pair) / len(of_pair) for of_pair in weights]


def _part(minibatch: Sequence[PairRows], rows: Sequence[PairRows], config: TrainConfig) -> float:
    """The share of a step's weight that lies in a minibatch."""
    return sum(_weights(minibatch, config)) / sum(_weights(rows, config))


def _known(rows: Sequence[PairRows]) -> int:
    """How many pairs have a safety label."""
    return sum(row.pair.safety is not None for row in rows)


def _auxiliary(chosen: Tensor, rejected: Tensor, rows: Sequence[PairRows]) -> Tensor:
    labels = [row.pair.safety for row in rows]
    chosen_safe = [label is not None and label.chosen_is_safe for label in labels]
    rejected_safe = [label is not None and label.rejected_is_safe for label in labels]
    known = [label is not None for label in labels]
    flags = (torch.tensor(f, device=chosen.device) for f in (chosen_safe, rejected_safe, known))
    return safety_auxiliary_loss(chosen, rejected, *flags)


def _resume(folder: RunFolder, model: Any, optimiser: torch.optim.Optimizer) -> int:
    """Put the last checkpoint into model and optimiser; returns the step it was taken after.

    Orders follow from the seed, and nothing else is random.
    """
    checkpoint = folder.resumable_checkpoint()
    if checkpoint is None:
        return 0
    step: int = load_state(checkpoint, model, optimiser)["step"]
    print(f"Resuming after step {step}.", flush=True)
    return step


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(TrainConfig, "reward.train", argv)
    try:
        result = train(config)
    except (ValueError, OSError, RunFolderBusy) as error:
        sys.exit(str(error))
    held = result["holdout"]
    shown = f"{held['accuracy']:.3f} on {held['count']} pairs" if held["count"] else "no holdout"
    print(f"{result['steps']} steps in {result['seconds']} s; holdout accuracy {shown}")


if __name__ == "__main__":
    main()
