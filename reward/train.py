"""Train one reward model: ``python -m reward.train``.

The recipe of Llama 2, section 3.2.2: trunk of the chat model, scalar head, margin ranking loss, for
the safety model a classification loss beside it, AdamW, warm-up and cosine, one epoch. Started
again on the same run folder it goes on from the last checkpoint; on the CPU the finished weights
are bit for bit those of an uninterrupted run. Behind torchrun several processes train the one model
(docs/launching.md).

Left out on purpose: callbacks, trackers, epochs of evaluation. Figures go to ``metrics.jsonl``;
whoever wants to see them reads that file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reward import adapter, fsdp, ranks
from reward.command import command
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
from reward.measures.accuracy import ScoredPair
from reward.measures.report import Wanted, full_report
from reward.minibatches import minibatches
from reward.model import (
    context_tokens,
    outline_of_chat_model,
    recompute_activations,
    row_limit,
    save_reward_model,
    score_rows,
    start_from_chat_model,
)
from reward.objective import Objective
from reward.optimiser import (
    build_optimiser,
    clip_gradients,
    cosine_share,
    refuse_not_finite,
    set_rate,
)
from reward.preferences import PreferencePair, read_pairs
from reward.run_folder import RunFolder, replace_folder
from reward.score import score_pairs
from reward.scores import SCORES, write_scores
from reward.training_state import load_state, save_state
from reward.trunk import shares_prefixes

TOKENS = ("row_tokens", "computed_tokens")  # of the rows as they are, and without what they share


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, measure on the holdout, and leave ``model/`` and ``result.json`` in the run folder.

    Returns the result; a folder that has one already is left as it is. Raises ValueError for data
    or settings that cannot be trained on, RunFolderBusy when another process works there.
    """
    adapter.refuse_impossible(config)
    return ranks.once(config.out, config, config.device, partial(_train, config))


def _train(config: TrainConfig, folder: RunFolder, device: torch.device) -> dict[str, Any]:
    started = time.monotonic()
    torch.manual_seed(config.seed)
    manifest = config.pairs.with_name("manifest.json")
    folder.write_provenance(
        {
            "pairs": config.pairs,
            "holdout": config.holdout,
            "ties": config.ties,
            **{f"agreement-{i}": path for i, path in enumerate(config.agreement, start=1)},
            "manifest": manifest if manifest.is_file() else None,
            "model": config.model,
        }
    )

    # 1. data: what is trained on, what is measured on
    every = load_pairs(config.pairs)
    holdout = load_pairs(config.holdout) if config.holdout else []
    refuse_leak(every, holdout)
    pairs = mix(every, config.criterion, config.mixture, config.seed)
    ties = _learnt_from(load_pairs(config.ties), config) if config.ties else []
    refuse_leak(ties, holdout)
    judged = [pair for file in config.agreement for pair in read_pairs(file)]

    # 2. model: the chat model's trunk with a fresh head
    model, tokenizer = _start(config)
    adapter.add_adapter(model, config, device)
    if config.recompute_activations:
        recompute_activations(model)
    fsdp.place(model, device, config.dtype)
    longest = row_limit(config.max_tokens, context_tokens(model))
    fitted, tied, held = (
        within_length(tokenizer, tokenise(tokenizer, some), longest, config.over_long)
        for some in (pairs, ties, holdout)
    )
    rows = [*fitted.rows, *(row._replace(is_tie=True) for row in tied.rows)]
    if not fitted.rows:
        raise ValueError(f"{config.pairs} leaves no pair to train a {config.criterion} model on")

    # 3. optimise
    optimiser = build_optimiser(model, config)
    steps = list(step_pairs(rows, config))
    done = _resume(folder, model, optimiser)
    folder.rewind_metrics(done)
    training_started = time.monotonic()
    for step, minibatch_rows in enumerate(steps[done:], start=done + 1):
        adapter.draw_dropout(model, config, step)
        figures = optimiser_step(model, optimiser, minibatch_rows, config, step, len(steps))
        folder.log_metrics(step, len(steps), **figures)
        if step % config.checkpoint_every_steps == 0 and step < len(steps):
            state = partial(save_state, model=model, optimiser=optimiser, position={"step": step})
            folder.save_checkpoint(ranks.together(state))
    adapter.stop_dropout(model)
    training_seconds = time.monotonic() - training_started

    # 4. measure and leave
    tokens = 2 * config.tokens_per_minibatch
    scored = _score_held(model, held.rows, tokens, config.dtype)
    if ranks.is_first():
        write_scores(folder.path / SCORES, scored)
    _leave_model(model, tokenizer, folder, config)
    return {
        "model": folder.model.name,
        "criterion": config.criterion,
        "holdout": {
            **_measured(scored, judged or [*every, *holdout], config),
            "over_long": held.dropped,
            "cut": held.cut,
        },
        "pairs": len(fitted.rows),
        "ties": len(tied.rows),
        "over_long": fitted.dropped + tied.dropped,
        "cut": fitted.cut + tied.cut,
        "composition": composition(row.pair for row in rows),
        "steps": len(steps),
        **{name: sum(line.get(name, 0) for line in folder.metrics()) for name in TOKENS},
        "ranks": ranks.count(),
        "training_seconds": round(training_seconds, 3),
        "seconds": round(time.monotonic() - started, 1),
    }


def _start(config: TrainConfig) -> tuple[Any, Any]:
    """Model and tokenizer; its values are read by the first rank only, which sends the others
    theirs when the model is placed."""
    started = ranks.first_alone(partial(start_from_chat_model, config.model, config.seed))
    shares = ranks.told(started is not None and shares_prefixes(started[0]))
    return started or outline_of_chat_model(config.model, shares)


def _learnt_from(undecided: Sequence[PreferencePair], config: TrainConfig) -> list[PreferencePair]:
    """Of the undecided comparisons those of the criterion."""
    return [u for u in undecided if config.mixture == "all" or u.criterion == config.criterion]


def _measured(
    scored: Sequence[ScoredPair], judged: Sequence[PreferencePair], config: TrainConfig
) -> dict[str, Any]:
    """Every figure of the holdout but drift, since the model was trained on all its batches."""
    figures = full_report(scored, Wanted(config.criterion, judged=judged))
    return {name: figure for name, figure in figures.items() if name != "drift"}


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


def optimiser_step(
    model: Any,
    optimiser: torch.optim.Optimizer,
    rows: Sequence[PairRows],
    config: TrainConfig,
    step: int,
    total: int,
) -> dict[str, float | None]:
    """One update from all pairs of the step, a minibatch at a time; returns its figures.

    Raises ValueError, before any weight has changed, where loss or gradient norm is not finite.
    """
    rate = config.learning_rate * learning_rate_share(step, total, config)
    set_rate(optimiser, rate)
    objective = Objective(rows, config)
    decided = sum(not row.is_tie for row in rows)
    ranking = auxiliary = centring = correct = computed = 0.0
    own = [rows[i] for i in ranks.own_part(rows)]
    both = [(row.chosen, row.rejected) for row in own]
    for indices, tokens in minibatches(both, config.tokens_per_minibatch, shares_prefixes(model)):
        minibatch = [own[i] for i in indices]
        chosen, rejected = _score_pairs(model, minibatch, config.dtype)
        shares = objective.shares(chosen, rejected, minibatch)
        objective.total(*shares).backward()  # type: ignore[no-untyped-call]
        ranking += shares.ranking.item()
        auxiliary += shares.auxiliary.item()
        centring += shares.centring.item()
        correct += sum(
            ScoredPair(row.pair, *scores).credit
            for row, *scores in zip(minibatch, chosen.tolist(), rejected.tolist(), strict=True)
            if not row.is_tie
        )
        computed += tokens
    fsdp.keep_step(model, partial(_idle, model, rows, config.dtype))
    ranking, auxiliary, centring, correct, computed = ranks.summed(
        ranking, auxiliary, centring, correct, computed
    )
    norm = clip_gradients(model, config)
    loss = objective.total(ranking, auxiliary, centring)
    refuse_not_finite(f"at step {step}", loss=loss, gradient_norm=norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {
        "loss": loss,
        "ranking_loss": ranking,
        "auxiliary_loss": auxiliary,
        "centring_loss": centring,
        "accuracy": correct / decided if decided else None,
        "learning_rate": rate,
        "gradient_norm": norm,
        "pairs": len(rows),
        "row_tokens": sum(len(row.chosen) + len(row.rejected) for row in rows),
        "computed_tokens": int(computed),
    }


def _idle(model: Any, rows: Sequence[PairRows], dtype: str) -> None:
    """A minibatch that changes nothing."""
    scores = score_rows(model, [min((row.chosen for row in rows), key=len)], dtype)
    if scores.requires_grad:
        (0 * scores.sum()).backward()  # type: ignore[no-untyped-call]


def _score_pairs(model: Any, rows: Sequence[PairRows], dtype: str) -> tuple[Tensor, Tensor]:
    both = [row.chosen for row in rows] + [row.rejected for row in rows]
    scores = score_rows(model, both, dtype)  # (2B,)
    return scores[: len(rows)], scores[len(rows) :]


def _resume(folder: RunFolder, model: Any, optimiser: torch.optim.Optimizer) -> int:
    """Put the last checkpoint into model and optimiser; returns the step it was taken after.

    Orders follow from the seed, and nothing else is random.
    """
    checkpoint = ranks.first_then_all(folder.resumable_checkpoint)
    if checkpoint is None:
        return 0
    step: int = load_state(checkpoint, model, optimiser)["step"]
    print(f"Resuming after step {step}.", flush=True)
    return step


def _score_held(model: Any, rows: Sequence[PairRows], tokens: int, dtype: str) -> list[ScoredPair]:
    """Both responses of every pair, each pair scored by one rank."""
    own = ranks.own_part(rows)
    scored = score_pairs(model, [rows[i] for i in own], tokens, dtype)
    with torch.no_grad():
        fsdp.keep_step(model, partial(_idle, model, rows, dtype))
    both = ranks.collected(own, [(pair.chosen, pair.rejected) for pair in scored], len(rows))
    return [ScoredPair(row.pair, *scores) for row, scores in zip(rows, both, strict=True)]


def _leave_model(model: Any, tokenizer: Any, folder: RunFolder, config: TrainConfig) -> None:
    """The merged model, and the adapter beside it where there is one."""
    state = fsdp.whole_state(model)
    if not ranks.is_first():
        return
    if config.lora_rank:
        replace_folder(folder.adapter, lambda new: adapter.save_adapter(state, config, new))
    merged = adapter.merged_state(model, state)
    replace_folder(folder.model, lambda new: save_reward_model(model, tokenizer, new, merged))


def _run(config: TrainConfig) -> str:
    """Train; returns the closing words. Every rank that is refused says why."""
    with ranks.explaining(config.out, config):
        return _closing_words(train(config))


def _closing_words(result: Mapping[str, Any]) -> str:
    if not result:
        return ""  # another rank's to tell
    held = result["holdout"]
    shown = f"{held['accuracy']:.3f} on {held['count']} pairs" if held["count"] else "no holdout"
    return f"{result['steps']} steps in {result['seconds']} s; holdout accuracy {shown}"


main = command(TrainConfig, "reward.train", _run, has_ranks=True)

if __name__ == "__main__":
    main()
