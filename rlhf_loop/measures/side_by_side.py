"""A chat model at an address judges old against new answers, each pair in both orders.

The work is ``reward.judge``'s: retries, hostile input, what is asked already. Helpfulness is asked
about prompts without a safety tag, safety about those with one, as annotators are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward.config import JudgeConfig
from reward.judge import is_understood, judge, read_answers
from reward.lines import Record
from reward.measures.accuracy import wilson_interval
from reward.measures.resampling import Draws, bootstrap
from reward.preferences import Criterion, PreferencePair, write_pairs
from reward.scores import SCORES, read_scores
from rlhf_loop.measures.asking import ChatJudge
from rlhf_loop.prompts import Prompt


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
    order and takes back in the other is a tie. Of ``asked`` pairs the ``unclear`` ones, where it is
    not understood in both orders, count as nothing; where they are more than half, the criterion
    was not measured and has no win rate. Raises JudgeRefused where the judge does not answer.
    """
    credits = [_unasked(before, after) for before, after in zip(old, new, strict=True)]
    pairs = [
        _pair(prompt, before, after)
        for prompt, before, after, credit in zip(prompts, old, new, credits, strict=True)
        if credit is None
    ]
    verdicts: dict[str, float | None] = {}
    if pairs:
        verdicts = _verdicts(asked, pairs, out, draws)
    found: Record = {}
    for criterion in Criterion:
        own = [i for i, prompt in enumerate(prompts) if _criterion(prompt) is criterion]
        if own:
            found[criterion.value] = _figures(
                [prompts[i].root for i in own],
                [verdicts[prompts[i].id] if credits[i] is None else credits[i] for i in own],
                sum(credits[i] is None for i in own),
                draws,
            )
    return found


def _unasked(before: str, after: str) -> float | None:
    """The new answer's credit where there is nothing to ask: 1 a win, 0.5 a tie, 0 a loss."""
    if before == after:
        return 0.5
    if not before.strip() or not after.strip():
        return 1.0 if after.strip() else 0.0
    return None


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
) -> dict[str, float | None]:
    """The new answer's credit by prompt id, None where the judge is not understood."""
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
    answers = read_answers(config.out)
    return {
        s.pair.id: s.credit if is_understood(s.pair, answers) else None
        for s in read_scores(config.out / SCORES, pairs)
    }


def _figures(
    roots: Sequence[str], credits: Sequence[float | None], asked: int, draws: Draws
) -> Record:
    """The interval is the wider of Wilson's, which has a width where all agree, and the bootstrap
    by dialogue root."""
    known = [credit for credit in credits if credit is not None]
    counts = {
        "count": len(known),
        "asked": asked,
        "unclear": len(credits) - len(known),
        "wins": sum(credit == 1.0 for credit in known),
        "ties": sum(credit == 0.5 for credit in known),
        "losses": sum(credit == 0.0 for credit in known),
    }
    if 2 * counts["unclear"] > asked:
        return {**counts, "win_rate": None, "low": None, "high": None}
    own = [root for root, credit in zip(roots, credits, strict=True) if credit is not None]
    values = np.column_stack([np.array(known), np.ones(len(known))])
    low, high = bootstrap(own, values, lambda sums: sums[:, :1] / sums[:, 1:], draws)
    rate = sum(known) / len(known)
    wilson = wilson_interval(rate, len(known))
    return {
        **counts,
        "win_rate": rate,
        "low": min(wilson[0], float(low[0])),
        "high": max(wilson[1], float(high[0])),
    }
