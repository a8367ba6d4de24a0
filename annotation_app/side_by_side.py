"""A round's new chat model beside the previous one: what people are asked, and what they said.

Wins, ties and losses are the new model's, as ``rlhf_loop.measures.side_by_side`` counts a judge's:
equal answers are a tie, an empty one loses, and nobody is asked about either. What several people
said of a comparison is joined by majority; an even split is a tie. A choice counts whatever its
strength. The new model was optimised on train prompts: where they had to be asked too, the held-out
ones stand apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from annotation_app import storage
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Criterion,
    DialogueRoot,
    PromptSet,
    Round,
    Run,
    Split,
)
from annotation_app.snapshots import CHUNK, prompts_of
from reward.measures.accuracy import wilson_interval
from reward.measures.resampling import Draws, bootstrap, share_interval
from reward.preferences import Verdict, aggregate
from rlhf_loop.prompts import Prompt as LoopPrompt
from rlhf_loop.prompts import PromptSplit, read_prompts

NORMAL_95 = 1.959964  # two-sided 95 % of the normal distribution
SHARES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


def fresh_prompts(prompt_set: PromptSet, criterion: str) -> list[LoopPrompt]:
    """Prompts of a criterion that no one was asked or is about to be, in an order drawn: those
    first that no model trains on. Test prompts are never asked."""
    prompts = [
        prompt
        for prompt in read_prompts(storage.path(prompt_set.storage_key))
        if prompt.is_safety == (criterion == Criterion.SAFETY)
        and prompt.split is not PromptSplit.TEST
    ]
    asked = _asked_roots([prompt.root for prompt in prompts]) | _ordered_roots()
    fresh = [prompt for prompt in prompts if prompt.root not in asked]
    random.SystemRandom().shuffle(fresh)
    return sorted(fresh, key=lambda prompt: prompt.split is PromptSplit.TRAIN)


def _asked_roots(roots: Sequence[str]) -> set[str]:
    asked: set[str] = set()
    for start in range(0, len(roots), CHUNK):
        some = roots[start : start + CHUNK]
        rows = Comparison.objects.usable().filter(prompt__dialogue__root__in=some)
        asked.update(rows.values_list("prompt__dialogue__root", flat=True))
    return asked


def _ordered_roots() -> set[str]:
    """What models are answering now, for batches that are still to be filled."""
    sampling = Run.objects.active().filter(kind=Run.Kind.SAMPLING)
    sets = PromptSet.objects.filter(used_by__run__in=sampling).distinct()
    return {prompt.root for it in sets for prompt in prompts_of(it)}


def expected_half_width(count: int) -> float:
    """Half of the 95 % interval that a win rate of one half has after so many comparisons."""
    return NORMAL_95 * math.sqrt(0.25 / count)


def figures(round_: Round) -> dict[str, Any]:
    """What people said of a round's models under each criterion whose batch is closed."""
    closed = round_.side_by_sides.filter(state=Batch.State.CLOSED).order_by("criterion")
    found = {batch.criterion: _figures(batch, round_.result_id) for batch in closed}
    return {criterion: it for criterion, it in found.items() if it is not None}


def _figures(batch: Batch, new: int | None) -> dict[str, Any] | None:
    """None where nothing was judged; ``held_out`` the same figures on prompts that no model trains
    on, None where all are such prompts or none is."""
    said: dict[int, list[Verdict]] = {}
    work = Annotation.objects.work().filter(comparison__batch=batch)
    for comparison, choice in work.values_list("comparison", "choice"):
        said.setdefault(comparison, []).append(Verdict("", choice))
    judged: list[tuple[DialogueRoot, float]] = []
    rows = Comparison.objects.filter(batch=batch).order_by("pk")
    for row in rows.select_related("prompt__dialogue__root", "response_a", "response_b"):
        credit = _credit(row, said.get(row.pk, []), new)
        if credit is not None:
            judged.append((row.prompt.dialogue.root, credit))
    if not judged:
        return None
    held_out = [it for it in judged if it[0].split == Split.HOLDOUT]
    are_mixed = 0 < len(held_out) < len(judged)
    return _summary(batch, *_columns(judged)) | {
        "verdicts": sum(map(len, said.values())),
        "unasked": sum(1 for row in rows if row.unusable_reason),
        "unjudged": len(rows) - len(judged),
        "held_out_share": len(held_out) / len(judged),
        "held_out": _summary(batch, *_columns(held_out)) if are_mixed else None,
    }


def _columns(judged: Sequence[tuple[DialogueRoot, float]]) -> tuple[list[str], list[float]]:
    return [root.hash for root, _ in judged], [credit for _, credit in judged]


def _credit(comparison: Comparison, verdicts: Sequence[Verdict], new: int | None) -> float | None:
    """1 where the new model's answer wins, 0 where it loses, 0.5 for a tie, None where nobody
    judged."""
    if comparison.unusable_reason:
        texts = (comparison.response_a.text.strip(), comparison.response_b.text.strip())
        choice = None if bool(texts[0]) == bool(texts[1]) else "a" if texts[0] else "b"
    elif verdicts:
        choice = aggregate(verdicts).choice
    else:
        return None
    if choice is None:
        return 0.5
    return float(comparison.response(choice).checkpoint_id == new)


def _summary(batch: Batch, roots: Sequence[str], credits: Sequence[float]) -> dict[str, Any]:
    """The win rate, ties counting half, and the share of each outcome, with their intervals."""
    draws, count = Draws(seed=batch.pk), len(credits)
    values = np.column_stack([np.array(credits), np.ones(count)])
    low, high = bootstrap(roots, values, lambda sums: sums[:, :1] / sums[:, 1:], draws)
    rate = sum(credits) / count
    wilson = wilson_interval(rate, count)  # has a width where all agree
    shares = {}
    for name, credit in SHARES.items():
        hits = [it == credit for it in credits]
        limits = share_interval(roots, hits, draws)
        shares[name] = {"share": sum(hits) / count, "low": limits[0], "high": limits[1]}
    return {
        "count": count,
        "wins": sum(credit == 1.0 for credit in credits),
        "ties": sum(credit == 0.5 for credit in credits),
        "losses": sum(credit == 0.0 for credit in credits),
        "win_rate": rate,
        "low": min(wilson[0], float(low[0])),
        "high": max(wilson[1], float(high[0])),
        "shares": shares,
    }
