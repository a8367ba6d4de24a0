"""What the stages of a round log at each step: which curves are drawn, and of what.

Figures go by the names of ``metrics.jsonl`` (docs/ppo.md). What a run did not log is left out, so
that older runs have a page too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from annotation_app import figures
from annotation_app.curves import Metrics, Points, logged, window
from annotation_app.models import Run
from annotation_app.tables import Column, Figure, Table, is_number

Result = Mapping[str, Any]


class Panel(NamedTuple):
    """A curve: what ``metrics.jsonl`` calls each of its lines, and what the page calls it.

    ``bound`` names the stage's setting that bounds it. ``is_whole``: its lines are the shares of a
    whole.
    """

    name: str
    title: str
    lines: Mapping[str, str]
    note: str = ""
    kind: str = "text"
    axis: Mapping[str, Any] = {}
    bound: str = ""
    is_whole: bool = False


SHARES = {"tickformat": ".2~%", "rangemode": "tozero"}
POWERS = {"type": "log", "exponentformat": "e"}
SCORES = {"objective/helpfulness": "helpfulness", "objective/safety": "safety"}
LEARNING_RATE = Panel("learning-rate", "Learning rate", {"lr": "learning rate"},
                      axis={"rangemode": "tozero", "exponentformat": "e"})  # fmt: skip
GRADIENT = Panel("gradient-norm", "Gradient norm", {"grad_norm": "norm"}, "Before clipping.")
ANSWER_LOSS = Panel(
    "loss",
    "Loss",
    {"sft/loss": "of each step"},
    "Negative log-likelihood of the answers' tokens, nats. Nothing is held out from it: how good "
    "the model has become is the evaluation's to say.",
)

FINE_TUNING = (ANSWER_LOSS, GRADIENT, LEARNING_RATE)
TRUNCATED = Panel(
    "truncated",
    "Cut at the limit",
    {"objective/truncated": "share"},
    "Share of the answers that had to end at the longest allowed.",
    "share",
    SHARES,
)

Panels = tuple[tuple[str, tuple[Panel, ...]], ...]

PPO: Panels = (
    (
        "Reward",
        (
            Panel(
                "scores",
                "Scores of the answers",
                {"objective/scores": "combined", **SCORES},
                "Mean logits of each batch; combined is what is learnt from, before whitening.",
            ),
            Panel(
                "deciding",
                "Which reward model decides",
                {
                    "objective/by_helpfulness": "helpfulness",
                    "objective/by_gate": "safety, low score",
                    "objective/by_tag": "safety, tagged prompt",
                },
                "Shares of the answers. The safety score decides where the prompt is tagged or the "
                "score is under the threshold.",
                "share",
                is_whole=True,
            ),
            Panel(
                "split",
                "Scores by which decides",
                {
                    "objective/scores_by_helpfulness": "helpfulness",
                    "objective/scores_by_gate": "safety, low score",
                    "objective/scores_by_tag": "safety, tagged prompt",
                },
                "Mean combined logits of the answers that each decides; nothing where it decides "
                "none.",
            ),
            Panel(
                "validation",
                "Held-out prompts",
                {
                    "eval/scores": "combined",
                    "eval/helpfulness": "helpfulness",
                    "eval/safety": "safety",
                },
                "Mean logits. The policy with the best combined score is kept, and early stopping "
                "looks at nothing else but the divergence.",
            ),
        ),
    ),
    (
        "Distance",
        (
            Panel(
                "kl",
                "Divergence from the reference",
                {
                    "objective/kl": "batch",
                    "objective/kl_k3": "batch, estimate k3",
                    "eval/kl": "held-out prompts",
                },
                "Nats per answer.",
                bound="kl_budget",
            ),
            Panel(
                "entropy",
                "Entropy",
                {"ppo/policy/entropy": "nats per token"},
                "Nats per token: near 0 there is nothing left to choose.",
                axis={"rangemode": "tozero"},
            ),
        ),
    ),
    (
        "Updates",
        (
            Panel(
                "clipped",
                "Clipped",
                {"ppo/policy/clipfrac": "policy", "ppo/val/clipfrac": "values"},
                "Share of tokens whose ratio, or whose change of value, is beyond the clip.",
                "share",
                SHARES,
            ),
            Panel(
                "ratio-error",
                "Ratio error",
                {"ppo/ratio/error": "worst token", "ppo/ratio/first_error": "before any update"},
                "How far new probability over old is from 1. Before any update it has to stay "
                "below 1e-5.",
                axis=POWERS,
            ),
            Panel(
                "step-kl",
                "Change of a gradient step",
                {"ppo/policy/approxkl": "nats per token"},
                "Nats per token, half the squared log-ratio.",
                axis={"exponentformat": "e", "rangemode": "tozero"},
            ),
            GRADIENT._replace(
                lines={"ppo/grad_norm": "policy", "ppo/val/grad_norm": "value model"}
            ),
        ),
    ),
    (
        "Whitening and values",
        (
            Panel(
                "whitening",
                "Whitening",
                {"whiten/mean": "mean", "whiten/deviation": "deviation"},
                "What is taken off combined scores, and what they are divided by. As the deviation "
                "falls, the same difference of scores counts for more.",
            ),
            Panel(
                "value-error",
                "Value error",
                {"ppo/val/error": "mean square"},
                "Values at rollout against returns.",
                axis={"rangemode": "tozero"},
            ),
            Panel(
                "explained-variance",
                "Explained variance of returns",
                {"ppo/val/explained_variance": "explained variance"},
                "1: values foresee the returns; 0 or less: no better than their mean.",
            ),
        ),
    ),
    (
        "Answers",
        (
            Panel(
                "length",
                "Length",
                {"objective/length_tokens": "batch", "eval/length_tokens": "held-out prompts"},
                "Mean tokens.",
                axis={"rangemode": "tozero"},
            ),
            TRUNCATED._replace(
                lines={"objective/truncated": "batch", "eval/truncated": "held-out prompts"}
            ),
        ),
    ),
    (
        "Time",
        (
            Panel(
                "seconds",
                "Seconds",
                {"seconds/rollout": "drawing, scoring", "seconds/update": "learning"},
                "Of each iteration.",
                axis={"rangemode": "tozero"},
            ),
            Panel(
                "reused",
                "Log-probabilities reused",
                {"logprobs/reused": "share"},
                "Share of the answers whose log-probabilities were taken over from drawing.",
                "share",
                SHARES,
            ),
        ),
    ),
)
REJECTION: Panels = (
    (
        "Answers drawn",
        (
            Panel(
                "scores",
                "Scores",
                {
                    "candidates/best_scores": "best of each prompt",
                    "objective/scores": "all, combined",
                    **SCORES,
                },
                "Mean logits of each part of the prompts.",
            ),
            TRUNCATED._replace(note="Share of the answers; they are never selected."),
        ),
    ),
    ("Fine-tuning on the selected answers", FINE_TUNING),
)
SFT: Panels = (("Fine-tuning", FINE_TUNING),)
DPO: Panels = (
    (
        "Learning from pairs",
        (
            Panel("loss", "Loss", {"dpo/loss": "of each step"}, "0.693 where nothing is learnt."),
            Panel(
                "accuracy",
                "Accuracy",
                {"dpo/accuracy": "of each step"},
                "Share of the pairs learnt from whose chosen answer has the higher implicit "
                "reward; nothing is held out from it.",
                "share",
                {"range": [0, 1], "tickformat": ".0%"},
            ),
            Panel(
                "implicit-rewards",
                "Implicit rewards",
                {
                    "dpo/margin": "margin",
                    "dpo/chosen": "chosen",
                    "dpo/rejected": "rejected",
                },
                "Beta times the log-ratio to the reference.",
            ),
            GRADIENT,
            LEARNING_RATE,
        ),
    ),
)
GHOST_ATTENTION: Panels = (
    (
        "Dialogues drawn",
        (
            Panel(
                "kept",
                "To learn from",
                {"ghost_attention/kept": "share"},
                "Share of each part of the dialogues.",
                "share",
                SHARES,
            ),
        ),
    ),
)
CONTEXT_DISTILLATION: Panels = (
    (
        "Answers drawn",
        (
            Panel(
                "kept",
                "Kept by the gate",
                {"distillation/kept": "share"},
                "Share of the distilled answers to each part of the prompts.",
                "share",
                SHARES,
            ),
        ),
    ),
)
CURVES: dict[str, Panels] = {
    Run.Kind.PPO: PPO, Run.Kind.REJECTION: REJECTION, Run.Kind.SFT: SFT, Run.Kind.DPO: DPO,
    Run.Kind.GHOST_ATTENTION: GHOST_ATTENTION, Run.Kind.CONTEXT_DISTILLATION: CONTEXT_DISTILLATION,
}  # fmt: skip


# --- drawn ---------------------------------------------------------------------------------------


def curve(
    stage: str, panel: Panel, metrics: Metrics, result: Result, settings: Mapping[str, Any]
) -> Table:
    """A panel as a table; without rows where nothing of it was logged."""
    points = {key: logged(metrics, key) for key in panel.lines}
    lines = {key: found for key, found in points.items() if found}
    steps_are = "iteration" if stage == Run.Kind.PPO else "step"
    at = {key: dict(found) for key, found in lines.items()}
    steps = sorted({step for found in at.values() for step in found})
    rows = [(step, *(found.get(step) for found in at.values())) for step in steps]
    names = [Column(panel.lines[key].capitalize(), panel.kind) for key in lines]
    columns = [Column(steps_are.capitalize(), "count"), *names]
    figure = _drawn(panel, lines, steps_are) if lines else None
    if figure is not None:
        figure["data"] += _marks(panel, lines, result, settings)
        figure["layout"]["showlegend"] = _named(figure) > 1
    return Table(panel.name, panel.title, columns, rows, figure, panel.note, [len(rows)],
                 f"{steps_are}s")  # fmt: skip


def _drawn(panel: Panel, lines: Mapping[str, Points], steps_are: str) -> Figure:
    """What is logged at each step with its running mean; what is measured now and then, joined."""
    if panel.is_whole:
        named = {panel.lines[key]: points for key, points in lines.items()}
        return figures.stacked_shares(named, panel.title, steps_are)
    each = {panel.lines[k]: points for k, points in lines.items() if not k.startswith("eval/")}
    seldom = {panel.lines[k]: points for k, points in lines.items() if k.startswith("eval/")}
    axis = dict(panel.axis)
    figure = figures.smoothed_lines(each, panel.title, window, axis, steps_are)
    for colour, (name, points) in enumerate(seldom.items(), start=len(each)):
        figure["data"].append(figures.joined(name, points, colour))
    return figure


def _marks(
    panel: Panel, lines: Mapping[str, Points], result: Result, settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The bound that a setting gives, and the iteration whose policy was kept."""
    steps = [step for points in lines.values() for step, _ in points]
    bound = settings.get(panel.bound) if panel.bound else None
    if is_number(bound):
        yield figures.dashed("budget", [(min(steps), bound), (max(steps), bound)], 5)
    kept = result.get("best_iteration")
    if panel.name == "validation" and is_number(kept):
        heights = [value for points in lines.values() for _, value in points]
        yield figures.dashed("kept", [(kept, min(heights)), (kept, max(heights))], 3)


def _named(figure: Figure) -> int:
    return sum(trace.get("showlegend", True) for trace in figure["data"])
