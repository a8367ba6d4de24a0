"""New chat model against old on the same prompts: ``python -m rlhf_loop.evaluate``.

Both answer every test prompt with the same random numbers, and both reward models score the
answers. ``responses.jsonl`` holds the answers, ``result.json`` the figures that a gate reads. These
are the rewards that the new model was trained on, so they show that training worked and not that
people agree: that is what the next batch of comparisons is for.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reward.lines import write_records
from reward.run_folder import RunFolder, RunFolderBusy
from reward.settings import parse, to_mapping
from rlhf_loop.config import EvaluateConfig
from rlhf_loop.policy import (
    Answer,
    Drawing,
    chunks,
    exact_kl,
    left_pad,
    load_chat_model,
    pad_token,
    prompt_tokens,
    response_logits,
    right_pad,
    row_seed,
)
from rlhf_loop.prompts import Prompt, read_prompts
from rlhf_loop.rollout import RewardModels, sample_and_score

Record = dict[str, Any]
NORMAL_95 = 1.959964  # two-sided 95 % of the normal distribution


def evaluate(config: EvaluateConfig) -> Record:
    """Compare the two models and return the run's result.

    Raises ValueError where the prompts file has none of the split, RunFolderBusy when another
    process runs in the same folder.
    """
    run = RunFolder(config.out)
    with run.locked():
        run.write_config(to_mapping(config))
        finished = run.result()
        if finished is not None:
            return finished
        prompts = list(read_prompts(config.prompts, config.split))
        if not prompts:
            raise ValueError(f"{config.prompts} has no {config.split} prompts to evaluate on")
        run.rewind_metrics(-1)
        rewards = RewardModels(config.helpfulness, config.safety, config.threshold, config)
        old, _ = _answer(config, config.against, prompts, rewards)
        run.log_metrics(1, 3)
        new, answers = _answer(config, config.policy, prompts, rewards)
        run.log_metrics(2, 3)
        result = {**compare(prompts, old, new), "kl": _mean_kl(config, prompts, answers)}
        records = [
            {
                "prompt_id": prompt.id,
                "is_safety": prompt.is_safety,
                "request": prompt.messages[-1].content,
                "before": before,
                "after": after,
            }
            for prompt, before, after in zip(prompts, old, new, strict=True)
        ]
        write_records(run.path / "responses.jsonl", records)
        run.log_metrics(3, 3, **_flat(result))
        run.write_result({**result, "samples": records[: config.shown]})
        return run.result() or {}


def _answer(
    config: EvaluateConfig, folder: Path, prompts: Sequence[Prompt], rewards: RewardModels
) -> tuple[list[Record], list[Answer]]:
    model, tokenizer = load_chat_model(folder, config.device, config.dtype)
    drawing = Drawing(config.max_new_tokens, config.temperature, config.top_p)
    seeds = [row_seed(config.seed, "evaluate", prompt.id) for prompt in prompts]
    answers, texts, scores = sample_and_score(
        model, tokenizer, rewards, prompts, seeds, drawing, config
    )
    records = [
        {
            "text": texts[i],
            "finish_reason": "stop" if answer.finished else "length",
            "length_tokens": len(answer.tokens),
            "helpfulness": scores.helpfulness[i].item(),
            "safety": scores.safety[i].item(),
            "combined": scores.combined[i].item(),
        }
        for i, answer in enumerate(answers)
    ]
    return records, answers


def compare(prompts: Sequence[Prompt], old: Sequence[Record], new: Sequence[Record]) -> Record:
    """The figures over all prompts, over the safety prompts and over the others.

    Each of ``all``, ``helpfulness_prompts``, ``safety_prompts`` is None without prompts, or holds
    ``count``, for each score the figures of ``paired``, and the mean lengths in tokens.
    """
    everything = list(range(len(prompts)))
    groups = {
        "all": everything,
        "helpfulness_prompts": [i for i in everything if not prompts[i].is_safety],
        "safety_prompts": [i for i in everything if prompts[i].is_safety],
    }
    return {name: _group([old[i] for i in rows], [new[i] for i in rows]) if rows else None
            for name, rows in groups.items()}  # fmt: skip


def _group(old: Sequence[Record], new: Sequence[Record]) -> Record:
    scores = {
        name: paired([record[name] for record in old], [record[name] for record in new])
        for name in ("helpfulness", "safety", "combined")
    }
    return {
        "count": len(old),
        **scores,
        "length_tokens_before": statistics.fmean(record["length_tokens"] for record in old),
        "length_tokens_after": statistics.fmean(record["length_tokens"] for record in new),
        "truncated_after": statistics.fmean(r["finish_reason"] == "length" for r in new),
    }


def paired(before: Sequence[float], after: Sequence[float]) -> dict[str, float | None]:
    """Mean before and after, their difference with its 95 % interval, and the win rate.

    The interval is the normal one of the paired differences, None for a single pair. A win is a
    higher score after than before; equal ones count half.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    difference = statistics.fmean(differences)
    half = None
    if len(differences) > 1:
        half = NORMAL_95 * statistics.stdev(differences) / math.sqrt(len(differences))
    wins = sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)
    return {
        "before": statistics.fmean(before),
        "after": statistics.fmean(after),
        "difference": difference,
        "low": None if half is None else difference - half,
        "high": None if half is None else difference + half,
        "win_rate": wins / len(differences),
    }


@torch.inference_mode()
def _mean_kl(config: EvaluateConfig, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> float:
    """Mean over answers of KL(new ‖ old), nats: the exact divergence of every next token, summed.

    Unbiased for the whole-answer divergence where answers are drawn at temperature 1 and top-p 1.
    """
    new, tokenizer = load_chat_model(config.policy, config.device, config.dtype)
    old, _ = load_chat_model(config.against, config.device, config.dtype)
    total, pad = 0.0, pad_token(tokenizer)
    for part in chunks(len(prompts), config.forward_rows):
        queries = [prompt_tokens(tokenizer, prompt.messages) for prompt in prompts[part]]
        query, query_mask = left_pad(queries, pad, new.device)
        tokens = [answer.tokens for answer in answers[part]]
        response, mask = right_pad(tokens, pad, new.device)  # (B, T) both
        logits, _ = response_logits(new, query, query_mask, response, mask)
        old_logits, _ = response_logits(old, query, query_mask, response, mask)
        total += exact_kl(logits, old_logits).masked_fill(~mask, 0.0).sum().item()
    return total / len(prompts)


def _flat(result: Record, prefix: str = "eval") -> dict[str, float | None]:
    """Nested figures as ``eval/all/helpfulness/after``: what metrics.jsonl can hold."""
    flat: dict[str, float | None] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}/{name}")
        else:
            flat[f"{prefix}/{name}"] = value
    return flat


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(EvaluateConfig, "rlhf_loop.evaluate", argv)
    try:
        result = evaluate(config)
    except (ValueError, OSError, RunFolderBusy) as error:
        sys.exit(str(error))
    for score in ("helpfulness", "safety", "combined"):
        found = result["all"][score]
        print(f"{score}: {found['before']:.3f} → {found['after']:.3f}, "
              f"win rate {found['win_rate']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
