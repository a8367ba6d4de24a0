"""Measure a reward model on pairs: ``python -m reward.evaluate``."""

from __future__ import annotations

from typing import Any

from reward.any_model import load_any, score_any
from reward.command import command
from reward.compare import report_lines
from reward.config import EvaluateConfig
from reward.data import load_pairs
from reward.measures.report import full_report
from reward.run_folder import write_json


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of ``reward.measures.report.full_report``, and how many pairs were too long."""
    loaded = load_any(config.model, config.device)
    pairs = load_pairs(config.pairs)
    scored = score_any(loaded, pairs, config.max_tokens, config.tokens_per_minibatch, config.dtype)
    return {**full_report(scored), "over_long": len(pairs) - len(scored)}


def _evaluate(config: EvaluateConfig) -> str:
    figures = evaluate(config)
    write_json(config.out, figures)
    return "\n".join(report_lines(figures))


main = command(EvaluateConfig, "reward.evaluate", _evaluate)

if __name__ == "__main__":
    main()
