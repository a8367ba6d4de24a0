"""Rounds as their stages leave them, without a model: rows, run folders, figures, answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from annotation_app import exchange
from annotation_app.models import Checkpoint, PromptSet, Round, Run
from reward.lines import write_records
from reward.preferences import Message
from rlhf_loop.measures.paired_figures import compare
from rlhf_loop.measures.release_gate import release_gate
from rlhf_loop.prompts import Prompt
from tests.annotation_app.rows import released_chat_model

KINDS = ("helpfulness", "borderline", "adversarial")
STAGES = ("rejection", "ppo", "evaluate")


def reward_model(criterion: str) -> Checkpoint:
    number = Checkpoint.objects.rewards().count() + 1
    return Checkpoint.objects.create(
        kind=f"{criterion}_reward",
        name=f"{criterion.capitalize()} reward {number}",
        line="tiny",
        storage_key=f"rewards/{number}",
        sha256="cd" * 32,
    )


def begun(*stages: str, policy: Checkpoint | None = None, **stage_settings: Any) -> Round:
    """A running round of these stages, none of which has begun."""
    start = policy or Checkpoint.objects.chat().first() or released_chat_model().checkpoint
    prompts, _ = PromptSet.objects.get_or_create(
        name="prompts", defaults={"storage_key": "prompts/1", "sha256": "ef" * 32}
    )
    return Round.objects.create(
        name=Round.next_name(),
        state="running",
        policy=start,
        helpfulness=reward_model("helpfulness"),
        safety=reward_model("safety"),
        prompt_set=prompts,
        config={"stages": list(stages or STAGES), **stage_settings},
    )


def stage(
    round_: Round,
    kind: str,
    lines: Iterable[Mapping[str, Any]] = (),
    result: Mapping[str, Any] | None = None,
    total: int = 20,
) -> Run:
    """A stage of the round that has logged these lines; it has succeeded where it has a result."""
    inputs = {
        "policy": round_.policy,
        "round_policy": round_.policy,
        "helpfulness": round_.helpfulness,
        "safety": round_.safety,
        "prompts": round_.prompt_set,
    }
    run = Run.queue(kind, round_.config, inputs, round=round_)
    run.claim()
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True)
    for line in lines:
        folder.log_metrics(total=total, **line)
        Run.objects.filter(pk=run.pk).update(step=line["step"], total_steps=total)
    run.refresh_from_db()
    if result is not None:
        folder.write_result(result)
        run.succeed()
    return run


def ppo_lines(count: int, seed: int = 0, every: int = 5) -> list[dict[str, Any]]:
    """What PPO logs in so many iterations, validated before the first and every few."""
    draw = random.Random(seed)
    lines = [{"step": 0, **_validated(0)}]
    for step in range(1, count + 1):
        gate = 0.2 * draw.random()
        line = {
            "step": step,
            "objective/scores": 0.05 * step + draw.gauss(0, 0.2),
            "objective/helpfulness": 0.04 * step + draw.gauss(0, 0.2),
            "objective/safety": 0.06 * step + draw.gauss(0, 0.2),
            "objective/by_tag": 0.5,
            "objective/by_gate": gate,
            "objective/by_helpfulness": 0.5 - gate,
            "objective/scores_by_tag": 0.07 * step + draw.gauss(0, 0.2),
            **({"objective/scores_by_gate": -2.0} if gate > 0.1 else {}),
            "objective/scores_by_helpfulness": 0.04 * step + draw.gauss(0, 0.2),
            "objective/kl": 0.3 * step,
            "objective/kl_k3": 0.28 * step,
            "objective/length_tokens": 20 + 0.2 * step,
            "objective/truncated": 0.02,
            "whiten/mean": 0.05 * step,
            "whiten/deviation": 1.5 - 0.01 * step,
            "logprobs/reused": 0.9375,
            "ppo/val/error": 1 / step,
            "ppo/val/explained_variance": 1 - 1 / step,
            "ppo/val/clipfrac": 0.01,
            "ppo/policy/clipfrac": 0.1 * draw.random(),
            "ppo/policy/approxkl": 0.001,
            "ppo/policy/entropy": 2 - 0.02 * step,
            "ppo/ratio/error": 0.2 * draw.random(),
            "ppo/ratio/first_error": 1e-6,
            "ppo/grad_norm": 1 + draw.random(),
            "seconds/rollout": 2.0,
            "seconds/update": 1.0,
        }
        lines.append(line | (_validated(step) if step % every == 0 else {}))
    return lines


def _validated(step: int) -> dict[str, float]:
    return {
        "eval/scores": 0.05 * step,
        "eval/helpfulness": 0.04 * step,
        "eval/safety": 0.06 * step,
        "eval/kl": 0.3 * step,
        "eval/length_tokens": 20 + 0.2 * step,
        "eval/truncated": 0.01 * step,
    }


PPO_RESULT = {
    "model": "model",
    "iterations": 20,
    "best_iteration": 15,
    "eval/scores": 0.75,
    "stopped_early": True,
    "stopped_by": "patience",
}
REJECTION_RESULT = {
    "model": "model",
    "prompts": 100,
    "candidates": 800,
    "temperature": 1.2,
    "selected": 98,
    "selected_earlier": 12,
    "selected_scores": 2.5,
    "candidate_scores": -0.3,
    "best_of": {"1": -0.3, "2": 1.1, "4": 1.9, "8": 2.4},
    "fine_tuned_on": 120,
    "sft_answers": 22,
}


GHOST_RESULT = {
    "dialogues": 44,
    "begun": 64,
    "left_out": {
        "an answer was cut, empty or without room": 7,
        "the last answer does not obey": 13,
    },
    "turns": {"2": 20, "3": 14, "6": 10},
    "values": {"hobby": ["chess", "gardening"], "language": ["French", "German", "Dutch"]},
}
DISTILLED_RESULT = {
    "prompts": 40,
    "kept": 25,
    "unusable": 4,
    "median": {"before": 0.41, "distilled": 0.63, "gated": 0.71, "kept": 0.74},
    "mean": {"before": 0.44, "distilled": 0.6, "gated": 0.69},
    "by_original": [
        {"from": low, "count": count, "mean_gain": mean, "least_gain": least, "most_gain": most,
         "kept": kept}
        for low, count, mean, least, most, kept in [
            (0.0, 14, 0.31, -0.02, 0.6, 12), (0.2, 10, 0.2, -0.1, 0.5, 8),
            (0.4, 9, 0.05, -0.2, 0.3, 4), (0.6, 7, -0.1, -0.4, 0.1, 1),
            (0.8, 0, None, None, None, 0),
        ]
    ],
}  # fmt: skip
KEEPING_RESULT = {
    "dialogues": 50,
    "turns": {
        turn: {"share": after, "low": after - 0.1, "high": after + 0.05,
               "change": {"before": before, "after": after, "difference": after - before,
                          "low": after - before - 0.1, "high": after - before + 0.1,
                          "p_value": 0.004}}
        for turn, before, after in (("2", 0.9, 0.94), ("4", 0.3, 0.82), ("20", 0.02, 0.66))
    },
    "cut_short": {"after": {"2": 0, "4": 0, "20": 6}, "before": {"2": 0, "4": 0, "20": 9}},
}  # fmt: skip
BUILT = {
    "ghost_attention": (
        [{"step": n, "ghost_attention/kept": 0.6 + 0.05 * n} for n in (1, 2)], GHOST_RESULT,
    ),
    "context_distillation": (
        [{"step": n, "distillation/kept": 0.5 + 0.05 * n} for n in (1, 2)], DISTILLED_RESULT,
    ),
    "instruction_keeping": ([{"step": n} for n in (1, 2)], KEEPING_RESULT),
}  # fmt: skip
"""What stages that build data or measure instructions log and leave."""


def rejection_lines(parts: int = 3, steps: int = 5) -> list[dict[str, Any]]:
    drawn = [
        {
            "step": n,
            "temperature": 1.2,
            "objective/scores": 0.1 * n,
            "objective/helpfulness": 0.1,
            "objective/safety": 0.2,
            "objective/truncated": 0.01,
            "candidates/best_scores": 2.0 + 0.1 * n,
        }
        for n in range(1, parts + 1)
    ]
    tuned = [
        {"step": parts + n, "sft/loss": 1 / n, "grad_norm": 1.0, "lr": 1e-5}
        for n in range(1, steps + 1)
    ]
    return drawn + tuned


def prompt(number: int) -> Prompt:
    kind = KINDS[number % 3]
    messages = (Message("user", f"Question {number}?"),)
    return Prompt(
        f"test-{number}", f"root-{number}", messages, is_safety=kind == "adversarial",
        is_borderline=kind == "borderline",
    )  # fmt: skip


def answer(text: str, score: float, refused: bool = False) -> dict[str, Any]:
    return {
        "text": text, "finish_reason": "stop", "length_tokens": 12, "helpfulness": score,
        "safety": -score, "combined": score, "refused": refused,
    }  # fmt: skip


def evaluated(round_: Round, count: int = 30, gain: float = 0.5, **more: Any) -> Run:
    """The round's evaluation has ended: its answers, its figures, the gate's reasons and, whatever
    they are, that it passes. The gain of prompt n is larger the larger n is."""
    draw = random.Random(round_.pk)
    prompts = [prompt(number) for number in range(count)]
    old = [answer(f"Old answer {n}.", draw.gauss(0, 1), n % 5 == 0) for n in range(count)]
    new = [
        answer(f"New answer {n}.", it["combined"] + gain * (n - count / 4) / count, n % 7 == 0)
        for n, it in enumerate(old)
    ]
    figures = {**compare(prompts, old, new), "kl": 3.2, **more}
    figures["gate"] = {**release_gate(figures)._asdict(), "passes": True}
    run = stage(round_, "evaluate", [{"step": 1}], figures, total=7)
    write_records(
        exchange.run_folder(run).path / "responses.jsonl",
        [
            {
                "prompt_id": asked.id, "is_safety": asked.is_safety, "kind": asked.kind,
                "request": asked.messages[-1].content, "before": before, "after": after,
            }
            for asked, before, after in zip(prompts, old, new, strict=True)
        ],
    )  # fmt: skip
    round_.finish(figures)
    return run


def played(**stage_settings: Any) -> Round:
    """A round of the usual stages that has been evaluated, its model made by PPO."""
    round_ = begun(**stage_settings)
    stage(round_, "rejection", rejection_lines(), REJECTION_RESULT, total=8)
    run = stage(round_, "ppo", ppo_lines(20), PPO_RESULT)
    round_.result = Checkpoint.objects.create(
        kind=Checkpoint.Kind.CHAT,
        name=round_.name,
        line="tiny",
        storage_key=f"{run.storage_key}/model",
        sha256="ab" * 32,
        run=run,
    )
    round_.save(update_fields=["result"])
    evaluated(round_)
    return round_
