"""K scored answers to each prompt: what rejection sampling and its temperature sweep draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from reward import ranks
from reward.lines import Record
from rlhf_loop.config import ServedPolicy
from rlhf_loop.engines import engine_for
from rlhf_loop.policy import Drawing, row_seed
from rlhf_loop.prompts import Prompt
from rlhf_loop.rollout import RewardModels, sample_and_score


def draw_candidates(
    model: Any,
    tokenizer: Any,
    rewards: RewardModels,
    prompts: Sequence[Prompt],
    samples: int,
    seed: int,
    purpose: str,
    drawing: Drawing,
    compute: ServedPolicy,
) -> list[Record]:
    """``samples`` answers to each prompt, the answers to one prompt one after the other.

    Each has its own seed: from the run's ``seed``, the ``purpose``, the prompt's id and its number
    among the prompt's answers. Every rank, which has the whole chat model, draws its own prompts'.
    """
    own = ranks.own_rows(len(prompts))
    asked = [(prompts[i], number) for i in own for number in range(samples)]
    seeds = [row_seed(seed, purpose, prompt.id, number) for prompt, number in asked]
    engine = engine_for(compute, model, tokenizer)
    answers, texts, scores = sample_and_score(
        engine, rewards, [prompt for prompt, _ in asked], seeds, drawing
    )
    drawn = [
        {
            "temperature": drawing.temperature,
            "prompt_id": prompt.id,
            "sample": number,
            "seed": seeds[i],
            "text": texts[i],
            "finish_reason": "stop" if answers[i].finished else "length",
            "helpfulness": scores.helpfulness[i].item(),
            "safety": scores.safety[i].item(),
            "score": scores.combined[i].item(),
        }
        for i, (prompt, number) in enumerate(asked)
    ]
    return ranks.joined_lists(drawn)


def is_usable(record: Record) -> bool:
    """Whether an answer may be learnt from: not empty, and not cut at the limit, since that would
    teach an end where there is none."""
    return record["finish_reason"] != "length" and bool(record["text"].strip())


def selectable_scores(records: Sequence[Record]) -> list[float]:
    """What each answer is worth to a choice of the best: its score, or where it cannot be selected
    the lowest one of its prompt among ``records``."""
    worst: dict[str, float] = {}
    for record in records:
        name = record["prompt_id"]
        worst[name] = min(record["score"], worst.get(name, math.inf))
    return [
        record["score"] if is_usable(record) else worst[record["prompt_id"]] for record in records
    ]


def part_figures(records: Sequence[Record]) -> dict[str, float]:
    """A part's figures for the metrics."""
    best: dict[str, float] = {}
    for record, score in zip(records, selectable_scores(records), strict=True):
        best[record["prompt_id"]] = max(score, best.get(record["prompt_id"], -math.inf))
    return {
        "temperature": records[0]["temperature"],
        "objective/scores": mean(record["score"] for record in records),
        "objective/helpfulness": mean(record["helpfulness"] for record in records),
        "objective/safety": mean(record["safety"] for record in records),
        "objective/truncated": mean(record["finish_reason"] == "length" for record in records),
        "candidates/best_scores": mean(best.values()),
    }


def mean(values: Iterable[float]) -> float:
    """The mean, 0 of none."""
    found = list(values)
    return sum(found) / max(len(found), 1)
