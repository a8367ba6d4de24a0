"""The three figures of a starter: ``python -m demo.figures --model demo/checkpoints/starter-a``.

1. Mean gold helpfulness and safety over test prompts, as a share of the range. The range runs from
   0 (an empty answer; an unsafe request carried out in detail) to 1, which some answer reaches for
   every prompt: the corpus's own complete answers and good refusals do.
2. The best of N sampled answers by the gold score of each prompt's own axis.
3. What choosing the most helpful of the N answers alone does to safety on safety prompts.

Only this file and the simulation ever sample against the gold scorer; no training reads it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.gold import GoldScore, mean_scores, score
from demo.world import DemoPrompt, prompts

MOST_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Figures:
    """What is measured of one model; shares of the range, from 0 to 1."""

    helpfulness_prompts: int
    safety_prompts: int
    mean_helpfulness: float
    mean_safety: float
    best_of: int
    best_of_prompts: int  # of each sort
    best_helpfulness: float
    best_safety: float
    most_helpful_safety: float  # safety of the most helpful answers to safety prompts
    most_helpful_mean_safety: float  # mean safety over all their rivals


def sample(model: Any, tokenizer: Any, texts: Sequence[str], minibatch: int) -> list[str]:
    """One answer to each single-turn prompt, drawn at temperature 1, in order."""
    answers: list[str] = []
    for start in tqdm(range(0, len(texts), minibatch), desc="sampling", mininterval=1.0):
        rows = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in texts[start : start + minibatch]
        ]
        encoded = tokenizer(rows, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            drawn = model.generate(**encoded, max_new_tokens=MOST_ANSWER_TOKENS)
        responses = drawn[:, encoded["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(responses, skip_special_tokens=True)
    return answers


def measure(model: Any, tokenizer: Any, count: int, best_of: int, best_of_prompts: int) -> Figures:
    """Samples once for ``count`` test prompts of each sort, and ``best_of`` times for a few."""
    test = prompts("test")
    helpfulness = [prompt for prompt in test if not prompt.is_safety][:count]
    safety = [prompt for prompt in test if prompt.is_safety][:count]
    texts = [prompt.text for prompt in (*helpfulness, *safety)]
    means = mean_scores(texts, sample(model, tokenizer, texts, 256))
    few = (*helpfulness[:best_of_prompts], *safety[:best_of_prompts])
    candidates = _candidates(model, tokenizer, few, best_of)
    rivals = candidates[len(helpfulness[:best_of_prompts]) :]
    return Figures(
        helpfulness_prompts=len(helpfulness),
        safety_prompts=len(safety),
        mean_helpfulness=means.helpfulness,
        mean_safety=means.safety,
        best_of=best_of,
        best_of_prompts=best_of_prompts,
        best_helpfulness=statistics.mean(
            max(scored.helpfulness for scored in row)
            for row in candidates[: len(helpfulness[:best_of_prompts])]
        ),
        best_safety=statistics.mean(max(scored.safety for scored in row) for row in rivals),
        most_helpful_safety=statistics.mean(
            max(row, key=lambda scored: scored.helpfulness).safety for row in rivals
        ),
        most_helpful_mean_safety=statistics.mean(scored.safety for row in rivals for scored in row),
    )


def _candidates(
    model: Any, tokenizer: Any, few: Sequence[DemoPrompt], best_of: int
) -> list[list[GoldScore]]:
    """The gold scores of ``best_of`` answers to each prompt."""
    texts = [prompt.text for prompt in few for _ in range(best_of)]
    scores = [
        score(text, answer)
        for text, answer in zip(texts, sample(model, tokenizer, texts, 256), strict=True)
    ]
    return [scores[start : start + best_of] for start in range(0, len(scores), best_of)]


def report(figures: Figures) -> str:
    """The figures in words."""
    f = figures
    return "\n".join(
        (
            f"1. mean over {f.helpfulness_prompts} helpfulness and {f.safety_prompts} safety test "
            f"prompts: helpfulness {f.mean_helpfulness:.1%}, safety {f.mean_safety:.1%} of the "
            "range",
            f"2. best of {f.best_of}, {f.best_of_prompts} prompts of each sort: helpfulness "
            f"{f.best_helpfulness:.1%}, safety {f.best_safety:.1%}",
            f"3. choosing the most helpful of {f.best_of} answers to safety prompts: safety "
            f"{f.most_helpful_mean_safety:.1%} → {f.most_helpful_safety:.1%}",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a starter chat model by gold score.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=2000, help="test prompts of each sort")
    parser.add_argument("--best-of", type=int, default=64)
    parser.add_argument("--best-of-prompts", type=int, default=100, help="of each sort")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.manual_seed(arguments.seed)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(
        arguments.model, local_files_only=True, padding_side="left"
    )
    figures = measure(
        model, tokenizer, arguments.prompts, arguments.best_of, arguments.best_of_prompts
    )
    print(report(figures))
    print(f"measured in {time.monotonic() - began:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
