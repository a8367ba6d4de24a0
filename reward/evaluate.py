"""Measure a reward model on pairs: ``python -m reward.evaluate``."""

from __future__ import annotations

import sys
from typing import Any

from reward.accuracy import report
from reward.config import EvaluateConfig
from reward.data import load_pairs, tokenise, within_length
from reward.model import load_reward_model, pick_device
from reward.run_folder import write_json
from reward.score import score_pairs
from reward.settings import parse


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of ``reward.accuracy.report``, and how many pairs were too long."""
    model, tokenizer = load_reward_model(config.model)
    model.to(pick_device(config.device))
    rows = tokenise(tokenizer, load_pairs(config.pairs))
    fitted = within_length(tokenizer, rows, config.max_tokens, "drop")
    scored = score_pairs(model, fitted.rows, config.tokens_per_minibatch, config.dtype)
    return {**report(scored), "over_long": fitted.dropped}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(EvaluateConfig, "reward.evaluate", argv)
    try:
        figures = evaluate(config)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    write_json(config.out, figures)
    if figures["count"]:
        print(
            f"accuracy {figures['accuracy']:.3f} "
            f"({figures['low']:.3f} to {figures['high']:.3f}) on {figures['count']} pairs"
        )
    else:
        print("no pairs to measure on")


if __name__ == "__main__":
    main()
