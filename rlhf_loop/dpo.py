"""Direct preference optimisation: ``python -m rlhf_loop.dpo`` (Rafailov et al. 2023).

The same pairs that the reward models learn from, without reward models and without sampling: a
baseline for the rest of the round. The two answers to a prompt, and the comparisons of a dialogue,
share what they have in common (``rlhf_loop.learning.likelihood``). How likely the reference model
finds the answers is computed once, into ``reference.jsonl``. B pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reward import fsdp, ranks
from reward.command import command
from reward.data import epoch_order, load_pairs
from reward.lines import whole_records, write_records
from reward.minibatches import minibatches
from reward.model import context_tokens, row_limit, stored_context
from reward.preferences import Message, PreferencePair
from reward.run_folder import RunFolder
from rlhf_loop.config import DPOConfig, inputs_of
from rlhf_loop.learning.likelihood import Reading, TokenRow, read_nothing, reading, row_logprobs
from rlhf_loop.learning.steps import divided, leave_model, optimise
from rlhf_loop.policy import chunks, load_chat_model, refuse_other_words, stop_tokens
from rlhf_loop.prompts import held_out_roots, is_held_out, left_out_words
from rlhf_loop.sft import answer_row, joined


class AnswerPair(NamedTuple):
    """A pair's two answers as token rows, and how likely the reference model finds them."""

    id: str
    root: str
    chosen: TokenRow
    rejected: TokenRow
    ref_chosen: float = 0.0
    """nats, of the whole answer"""
    ref_rejected: float = 0.0


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float,
    smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Equation 7 of Rafailov et al., of each pair: ``-log sigmoid(margin)``. All (B,).

    ``margin = beta · ((chosen - ref_chosen) - (rejected - ref_rejected))``; each argument is the
    log-probability of a whole answer given its prompt, nats. With ``smoothing`` that share of the
    pairs is taken to be judged the wrong way round (conservative DPO, Mitchell 2023).
    """
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1.0 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def answer_pairs(
    tokenizer: Any, pairs: Sequence[PreferencePair], stops: frozenset[int]
) -> list[AnswerPair]:
    """The pairs as tokens in the chat template; likelihoods are of the answers alone, their end
    tokens included. Raises ValueError naming a pair that cannot be written so."""
    found = []
    for pair in pairs:
        try:
            chosen, rejected = (
                joined([answer_row(tokenizer, [*pair.prompt, Message("assistant", text)], stops)])
                for text in (pair.chosen, pair.rejected)
            )
        except ValueError as error:
            raise ValueError(f"pair {pair.id!r}: {error}") from None
        if chosen.tokens == rejected.tokens:
            raise ValueError(f"pair {pair.id!r} has two answers that are the same tokens")
        found.append(AnswerPair(pair.id, pair.root, chosen, rejected))
    return found


def _both(pairs: Sequence[AnswerPair]) -> list[TokenRow]:
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def _parts(pairs: Sequence[AnswerPair], tokens: int, shared: bool) -> list[tuple[list[int], int]]:
    """Which pairs go through the model together, and how many tokens that is."""
    groups = [(pair.chosen.inputs, pair.rejected.inputs) for pair in pairs]
    return [(part.groups, part.tokens) for part in minibatches(groups, tokens, shared)]


# --- the reference --------------------------------------------------------------------------------


def with_reference(
    config: DPOConfig, run: RunFolder, pairs: Sequence[AnswerPair], policy: Any, tokenizer: Any
) -> list[AnswerPair]:
    """The pairs with the reference model's log-probabilities, computed where none are stored.

    ``policy`` is the model before its first step, the reference where no other one is named, and
    ``tokenizer`` its own, which wrote the pairs. Raises ValueError for a reference of other tokens,
    and for stored log-probabilities of other pairs.
    """
    file = run.path / "reference.jsonl"
    if not ranks.told(file.exists()):
        model = policy
        if config.reference is not None:
            model, other = load_chat_model(config.reference, str(policy.device))
            refuse_other_words(tokenizer, other, str(config.reference))
        records = _reference(config, model, pairs)
        if ranks.is_first():
            run.begin()  # from here on the folder has this reference and no other
            write_records(file, records)
        ranks.wait()
    stored = whole_records(file)
    if [record["id"] for record in stored] != [pair.id for pair in pairs]:
        raise ValueError(
            f"{file} is of other pairs than those that are trained on: use another --out folder"
        )
    return [
        pair._replace(ref_chosen=record["chosen"], ref_rejected=record["rejected"])
        for pair, record in zip(pairs, stored, strict=True)
    ]


@torch.no_grad()
def _reference(config: DPOConfig, model: Any, pairs: Sequence[AnswerPair]) -> list[dict[str, Any]]:
    """A line for each pair; every rank, which has the whole model still, does its part of them."""
    own = ranks.own_rows(len(pairs))
    part = [pairs[i] for i in own]
    found: dict[int, tuple[float, float]] = {}
    dtype = config.train_dtype
    with reading(model, dtype) as read, fsdp.as_divided(model, dtype):
        for chosen, _ in _parts(part, config.tokens_per_minibatch, read.shares):
            sums = row_logprobs(read, _both([part[i] for i in chosen])).view(2, -1)  # (2, B)
            found |= dict(zip(chosen, zip(*sums.tolist(), strict=True), strict=True))
    every = ranks.collected(own, [found[i] for i in range(len(part))], len(pairs))
    return [
        {"id": pair.id, "chosen": chosen, "rejected": rejected}
        for pair, (chosen, rejected) in zip(pairs, every, strict=True)
    ]


# --- the run --------------------------------------------------------------------------------------


def train(config: DPOConfig) -> dict[str, Any]:
    """Train on the pairs; returns the run's result.

    Raises ValueError for pairs that cannot be trained on, RunFolderBusy when another process runs
    in the same folder.
    """
    return ranks.once(config.out, config, config.device, partial(_train, config))


def _train(config: DPOConfig, run: RunFolder, device: torch.device) -> dict[str, Any]:
    run.write_provenance(inputs_of(config))
    model, tokenizer = load_chat_model(config.policy, str(device))
    wanted, left_out = _wanted(config)
    every = answer_pairs(tokenizer, wanted, stop_tokens(model, tokenizer))
    longest = row_limit(config.max_tokens, context_tokens(model), _context_of(config.reference))
    fitting = [pair for pair in every if max(len(row.tokens) for row in _both([pair])) <= longest]
    if not fitting:
        raise ValueError(
            f"all {len(every)} pairs are longer than the {longest} tokens that max_tokens and the "
            "models' contexts allow: none is left"
        )
    pairs = with_reference(config, run, fitting, model, tokenizer)
    steps = list(step_pairs(pairs, config))
    with divided(model, device, config) as read:
        gradients = partial(_gradients, read, config=config)
        figures = optimise(model, config, steps, gradients, run)
        leave_model(model, tokenizer, run)
    return {
        "model": "model",
        "pairs": len(pairs),
        "too_long": len(every) - len(pairs),
        "held_out": left_out,
        "steps": len(steps),
        "ranks": ranks.count(),
        **figures,
    }


def _context_of(reference: Path | None) -> int | None:
    return None if reference is None else stored_context(reference)


def _wanted(config: DPOConfig) -> tuple[list[PreferencePair], int]:
    """The pairs of all files, and how many of held-out prompts were left out."""
    every = _every_pair(config)
    held_out = held_out_roots(config.prompts, *config.held_out)
    wanted = [pair for pair in every if not is_held_out(pair.prompt, pair.root, held_out)]
    left_out = len(every) - len(wanted)
    if not wanted:
        names = ", ".join(map(str, config.pairs))
        raise ValueError(
            f"{names}: no {config.criterion or ''} pair to learn from".replace("  ", " ")
            + left_out_words(left_out, "pairs")
        )
    return wanted, left_out


def _every_pair(config: DPOConfig) -> list[PreferencePair]:
    """The pairs of the wanted criterion. One that stands in two files counts once, judged as in the
    later one: a snapshot that knows more verdicts may choose its other answer. Raises ValueError
    for an id of two different pairs, which are never one."""
    found: dict[str, tuple[Path, PreferencePair]] = {}
    for path in config.pairs:
        for pair in load_pairs(path):
            if config.criterion not in (None, pair.criterion):
                continue
            first, known = found.get(pair.id, (path, pair))
            if _judged(known) != _judged(pair):
                raise ValueError(
                    f"pair {pair.id!r} stands in {first} and in {path} with another prompt, other "
                    "answers or another criterion; allowed is one pair for each id"
                )
            found[pair.id] = (path, pair)
    return [pair for _, pair in found.values()]


def _judged(pair: PreferencePair) -> tuple[object, ...]:
    """What was judged, however it was."""
    return pair.criterion, pair.prompt, {pair.chosen, pair.rejected}


def step_pairs(pairs: Sequence[AnswerPair], config: DPOConfig) -> list[list[AnswerPair]]:
    """The pairs of each optimiser step, over all epochs; an epoch's last step may be small."""
    steps = []
    for epoch in range(config.epochs):
        order = epoch_order([pair.root for pair in pairs], epoch, config.seed, shuffle=True)
        steps += [[pairs[i] for i in order[part]] for part in chunks(len(order), config.batch)]
    return steps


def _gradients(read: Reading, step: Sequence[AnswerPair], config: DPOConfig) -> dict[str, float]:
    """Add the gradients of one step's mean loss, a minibatch at a time."""
    names = ("loss", "accuracy", "margin", "chosen", "rejected", "computed")
    sums = dict.fromkeys(names, 0.0)
    own = [step[i] for i in ranks.own_rows(len(step))]
    for chosen, tokens in _parts(own, config.tokens_per_minibatch, read.shares):
        pairs = [own[i] for i in chosen]
        found = row_logprobs(read, _both(pairs)).view(2, -1)  # (2, B)
        known = [[pair.ref_chosen for pair in pairs], [pair.ref_rejected for pair in pairs]]
        reference = torch.tensor(known, dtype=found.dtype, device=found.device)  # (2, B)
        losses = dpo_loss(
            found[0], found[1], reference[0], reference[1], config.beta, config.label_smoothing
        )  # (B,)
        (losses.sum() / len(step)).backward()  # type: ignore[no-untyped-call]
        rewards = config.beta * (found.detach() - reference)  # (2, B)
        margins = rewards[0] - rewards[1]
        for name, values in (
            ("loss", losses.detach()),
            ("accuracy", (margins > 0).double() + 0.5 * (margins == 0).double()),
            ("margin", margins),
            ("chosen", rewards[0]),
            ("rejected", rewards[1]),
        ):
            sums[name] += values.sum().item()
        sums["computed"] += tokens
    fsdp.keep_step(read.policy, partial(read_nothing, read))
    sums = dict(zip(names, ranks.summed(*sums.values()), strict=True))
    computed = int(sums.pop("computed"))
    means = {f"dpo/{name}": total / len(step) for name, total in sums.items()}
    return {**means, "dpo/pairs": len(step), "dpo/computed_tokens": computed}


def summary(result: dict[str, Any]) -> str:
    """A result for reading; of a rank that has none, another one tells."""
    if not result:
        return ""
    left_out = left_out_words(result.get("held_out", 0), "pairs")
    return f"trained on {result['pairs']} pairs, {result['too_long']} were too long{left_out}"


def _run(config: DPOConfig) -> str:
    with ranks.explaining(config.out, config):
        return summary(train(config))


main = command(DPOConfig, "rlhf_loop.dpo", _run, has_ranks=True)


if __name__ == "__main__":
    main()
