"""A chat model at an address judges old against new answers, each pair in both orders.

The work is ``reward.judge``'s: retries, hostile input, what is asked already. Helpfulness is asked
about prompts without a safety tag, safety about those with one, as annotators are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward.config import JudgeConfig
from reward.judge import judge
from reward.measures.resampling import Draws, bootstrap
from reward.preferences import Criterion, PreferencePair, write_pairs
from reward.scores import SCORES, read_scores
from rlhf_loop.measures.asking import ChatJudge
from rlhf_loop.prompts import Prompt

Record = dict[str, Any]


def judge_answers(
    asked: ChatJudge,
    prompts: Sequence[Prompt],
    old: Sequence[str],
    new: Sequence[str],
    out: Path,
    draws: Draws,
) -> Record:
    """Under each criterion: wins, ties, losses of the new answers, and the win rate with its
    interval, ties counting half.

    Equal answers are a tie, an empty one loses; neither is asked about. What the judge says in one
    order and takes back in the other is a tie. Raises JudgeRefused where it does not answer.
    """
    credits = [_unasked(before, after) for before, after in zip(old, new, strict=True)]
    pairs = [
        _pair(prompt, before, after)
        for prompt, before, after, credit in zip(prompts, old, new, credits, strict=True)
        if credit is None
    ]
    verdicts: dict[str, float] = {}
    if pairs:
        verdicts = _verdicts(asked, pairs, out, draws)
    found: Record = {}
    for criterion in Criterion:
        own = [i for i, prompt in enumerate(prompts) if _criterion(prompt) is criterion]
        if own:
            settled = [_settled(credits[i], verdicts.get(prompts[i].id)) for i in own]
            found[criterion.value] = _figures([prompts[i].root for i in own], settled, draws)
    return found


def _unasked(before: str, after: str) -> float | None:
    """The new answer's credit where there is nothing to ask: 1 a win, 0.5 a tie, 0 a loss."""
    if before == after:
        return 0.5
    if not before.strip() or not after.strip():
        return 1.0 if after.strip() else 0.0
    return None


def _settled(credit: float | None, verdict: float | None) -> float:
    if credit is not None:
        return credit
    assert verdict is not None
    return verdict


def _criterion(prompt: Prompt) -> Criterion:
    return Criterion.SAFETY if prompt.is_safety else Criterion.HELPFULNESS


def _pair(prompt: Prompt, before: str, after: str) -> PreferencePair:
    """The new answer as the chosen one: what the judge finds is its credit."""
    return PreferencePair(
        prompt=prompt.messages,
        chosen=after,
        rejected=before,
        criterion=_criterion(prompt),
        id=prompt.id,
        dialogue=prompt.id,
        root=prompt.root,
    )


def _verdicts(
    asked: ChatJudge, pairs: Sequence[PreferencePair], out: Path, draws: Draws
) -> dict[str, float]:
    """The new answer's credit by prompt id."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "pairs.jsonl"
    if not file.exists():
        temporary = file.with_name(file.name + ".tmp")
        write_pairs(temporary, pairs)
        temporary.replace(file)
    config = JudgeConfig(
        address=asked.address, model=asked.model, pairs=file, out=out / "answers",
        resamples=draws.resamples, seed=draws.seed,
    )  # fmt: skip
    judge(config)
    return {s.pair.id: s.credit for s in read_scores(config.out / SCORES, pairs)}


def _figures(roots: Sequence[str], credits: Sequence[float], draws: Draws) -> Record:
    values = np.column_stack([np.array(credits), np.ones(len(credits))])
    low, high = bootstrap(roots, values, lambda sums: sums[:, :1] / sums[:, 1:], draws)
    return {
        "count": len(credits),
        "wins": sum(credit == 1.0 for credit in credits),
        "ties": sum(credit == 0.5 for credit in credits),
        "losses": sum(credit == 0.0 for credit in credits),
        "win_rate": sum(credits) / len(credits),
        "low": float(low[0]),
        "high": float(high[0]),
    }
