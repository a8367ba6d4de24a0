"""Which temperature to draw at: ``python -m rlhf_loop.temperature`` (Llama 2, figure 8).

K answers to each of a fixed set of held-out prompts at each temperature, scored as rejection
sampling scores them. From the K the expected maximum and median of N follow for every N up to K in
closed form, over all subsets of N, so that small N are not left to one lucky draw. The temperature
with the highest mean max@N is picked, of equal ones the lower. The random numbers are the same at
every temperature, and what is compared is paired by prompt.

As in figure 8 a score is the sigmoid of the combined logit. An answer that rejection sampling would
not select, cut or empty, counts as the worst answer that its prompt got at any temperature.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from scipy.special import expit

from reward import ranks
from reward.command import command
from reward.lines import Record, whole_records
from reward.run_folder import RunFolder
from rlhf_loop.candidates import draw_candidates, is_usable, part_figures, selectable_scores
from rlhf_loop.config import TemperatureConfig, inputs_of
from rlhf_loop.measures.paired_figures import mean_interval
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import Drawing, chunks, load_chat_model
from rlhf_loop.prompts import Prompt, fixed_prompts, read_prompts
from rlhf_loop.rollout import RewardModels
from rlhf_loop.room import refuse_without_room


def sweep(config: TemperatureConfig) -> Record:
    """Draw and score what is not stored yet; returns the run's result, ``temperature`` in it.

    Raises ValueError where the prompts file has none of the split or one of them leaves no room for
    an answer, RunFolderBusy when another process runs in the same folder.
    """
    return ranks.once(config.out, config, config.device, partial(_sweep, config))


def _sweep(config: TemperatureConfig, run: RunFolder, device: torch.device) -> Record:
    run.write_provenance(inputs_of(config))
    every = list(read_prompts(config.prompts, config.split))
    if not every:
        raise ValueError(f"{config.prompts} has no {config.split} prompts, and a sweep needs some")
    prompts = fixed_prompts(every, config.prompt_count)
    _sample(config, run, prompts, str(device))
    scores, unusable = scores_by_temperature(whole_records(_file(run)))
    roots = [prompt.root for prompt in prompts]
    return picked(scores, config, roots) | {"unusable": unusable}


def _file(run: RunFolder) -> Path:
    return run.path / "samples.jsonl"


def _sample(
    config: TemperatureConfig, run: RunFolder, prompts: Sequence[Prompt], device: str
) -> None:
    """Append what is not stored yet, temperature by temperature, a chunk of prompts at a time."""
    parts = list(product(config.temperatures, chunks(len(prompts), config.chunk_prompts)))
    sizes = [len(prompts[part]) * config.samples for _, part in parts]
    judges = (config.helpfulness, config.safety)
    refuse_without_room(prompts, config.max_new_tokens, [config.policy], judges)
    model, tokenizer = load_chat_model(config.policy, device, config.dtype)
    rewards = RewardModels(*judges, config.threshold, config)

    def draw(number: int) -> list[Record]:
        temperature, part = parts[number]
        return draw_candidates(
            model, tokenizer, rewards, prompts[part], config.samples, config.seed, "temperature",
            Drawing(config.max_new_tokens, temperature, config.top_p), config,
        )  # fmt: skip

    make_parts(run, _file(run), sizes, len(parts), draw, part_figures)


# --- from answers to a pick -----------------------------------------------------------------------

Scores = dict[float, list[list[float]]]
"""By temperature the K scores of each prompt, the prompts always in the same order."""


def scores_by_temperature(records: Sequence[Record]) -> tuple[Scores, dict[str, float]]:
    """Scores between 0 and 1, and the share of unusable answers at each temperature."""
    names = dict.fromkeys(record["prompt_id"] for record in records)
    found: dict[float, dict[str, list[float]]] = {}
    usable: dict[float, list[bool]] = {}
    for record, score in zip(records, selectable_scores(records), strict=True):
        name, temperature = record["prompt_id"], record["temperature"]
        usable.setdefault(temperature, []).append(is_usable(record))
        found.setdefault(temperature, {}).setdefault(name, []).append(float(expit(score)))
    scores = {t: [by_prompt[name] for name in names] for t, by_prompt in found.items()}
    return scores, {str(t): 1 - statistics.fmean(flags) for t, flags in usable.items()}


def picked(scores: Scores, config: TemperatureConfig, roots: Sequence[str] | None = None) -> Record:
    """The curve of figure 8, and the temperature that it speaks for.

    ``curve`` holds for each temperature, lowest first, ``max`` and ``median`` by N with the 95 %
    interval of the mean over prompts, and ``behind``: the paired difference of its max@N to the
    picked one's. An interval that covers 0 there says that these prompts do not tell the two apart.
    The units are the prompts' dialogue ``roots``; without them each prompt is its own.
    """
    wanted = config.pick_at or config.samples
    counts = sorted({2**i for i in range(config.samples.bit_length())} | {wanted, config.samples})
    best = {t: [expected_maximum(s, wanted) for s in scores[t]] for t in sorted(scores)}
    pick = max(best, key=lambda t: (round(statistics.fmean(best[t]), 12), -t))

    def over_prompts(
        figure: Callable[[Sequence[float], int], float], temperature: float, count: int
    ) -> Record:
        return mean_interval([figure(s, count) for s in scores[temperature]], roots)

    curve = [
        {
            "temperature": t,
            "max": {str(n): over_prompts(expected_maximum, t, n) for n in counts},
            "median": {str(n): over_prompts(expected_median, t, n) for n in counts},
            "behind": mean_interval(
                [a - b for a, b in zip(best[t], best[pick], strict=True)], roots
            ),
        }
        for t in best
    ]
    return {
        "temperature": pick,
        "pick_at": wanted,
        "samples": config.samples,
        "prompts": len(scores[pick]),
        "curve": curve,
    }


def expected_order_statistic(scores: Sequence[float], count: int, place: int) -> float:
    """The mean over all subsets of ``count`` scores of the ``place``-th smallest of each.

    Unbiased for the ``place``-th smallest of ``count`` fresh draws: the i-th smallest of K has that
    place in C(i-1, place-1) · C(K-i, count-place) of the C(K, count) subsets. Raises ValueError for
    a count that is not 1 to K, or a place that is not 1 to the count.
    """
    total = len(scores)
    if not 1 <= count <= total:
        raise ValueError(f"count is {count}, allowed is 1 to {total}")
    if not 1 <= place <= count:
        raise ValueError(f"place is {place}, allowed is 1 to {count}")
    subsets = math.comb(total, count)
    return math.fsum(
        score * (math.comb(i - 1, place - 1) * math.comb(total - i, count - place) / subsets)
        for i, score in enumerate(sorted(scores), start=1)
    )


def expected_maximum(scores: Sequence[float], count: int) -> float:
    """max@N: the mean over all subsets of ``count`` scores of the best of each."""
    return expected_order_statistic(scores, count, count)


def expected_median(scores: Sequence[float], count: int) -> float:
    """median@N: the same of the median; of an even count it lies between the two in the middle."""
    lower = expected_order_statistic(scores, count, (count + 1) // 2)
    upper = expected_order_statistic(scores, count, count // 2 + 1)
    return (lower + upper) / 2


def summary(result: Record) -> str:
    """A result for reading, a line for each temperature."""
    wanted = str(result["pick_at"])
    lines = [
        f"temperature {row['temperature']:g}: max@{wanted} {row['max'][wanted]['mean']:.3f}, "
        f"median@{wanted} {row['median'][wanted]['mean']:.3f}"
        for row in result["curve"]
    ]
    return "\n".join([*lines, f"picked {result['temperature']:g}, on {result['prompts']} prompts"])


def _run(config: TemperatureConfig) -> str:
    with ranks.explaining(config.out, config):
        return summary(sweep(config))


main = command(TemperatureConfig, "rlhf_loop.temperature", _run, has_ranks=True)


if __name__ == "__main__":
    main()
