"""Settings of what learns from answers: steps, fine-tuning, DPO. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from reward.config import COSINE, ScheduledAdamW
from reward.preferences import Criterion
from reward.settings import (
    AT_LEAST_1,
    HOW,
    NOT_NEGATIVE,
    POSITIVE,
    REQUIRED,
    SHARE,
    SMOOTHING,
    setting,
)
from rlhf_loop.config.common import Learning, Passes, Training

HELD_OUT_PROMPTS = (
    "prompts file whose validation and test dialogues are never learnt from; lines of theirs are "
    "left out and counted"
)


class LearntAnswers(StrEnum):
    """Which of a dialogue's answers are learnt; a line of data may say so itself."""

    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Optimisation(ScheduledAdamW, Training, Learning):
    """Steps on answers; what the paper leaves open about them is a setting."""

    epochs: int = setting(2, "passes over the data; section 3.1", AT_LEAST_1)
    batch: int = setting(64, "answers per optimiser step; section 3.1", AT_LEAST_1)
    learning_rate: float = setting(2e-5, "highest learning rate; section 3.1", NOT_NEGATIVE)
    final_learning_rate_share: float = setting(
        0.0, "where the cosine ends, share of the highest; our choice, 0.1 in section 2.2", SHARE,
        COSINE,
    )  # fmt: skip
    warmup_steps: int = setting(0, "steps of linear warm-up; our choice", NOT_NEGATIVE)
    adam_epsilon: float = setting(1e-8, "AdamW epsilon; torch's, 1e-5 in section 2.2", POSITIVE)
    max_tokens: int = setting(
        4096,
        "longest prompt with answer, tokens, at most the model's context; longer ones are counted; "
        "section 3.1",
        AT_LEAST_1,
    )
    checkpoint_every_steps: int = setting(
        100, "optimiser steps between resumable checkpoints", AT_LEAST_1, how=HOW
    )


@dataclass(frozen=True, kw_only=True)
class FineTuning(Optimisation):
    """Supervised fine-tuning on answers (section 3.1)."""

    packing: Literal["none", "within", "across"] = setting(
        "none",
        "within or across: answers fill rows of max_tokens (across: at most the model's context), "
        "batch counts rows, and attention stays within each answer's dialogue or reaches across "
        "them; section 3.1 packs, and does not say",
    )
    loss_mean: Literal["tokens", "answers"] = setting(
        "tokens", "mean over a step's answer tokens, or over its answers' means; our choice"
    )


@dataclass(frozen=True, kw_only=True)
class SFTConfig(FineTuning, Passes):
    """Fine-tune a chat model on answers: the loss is on answers only, never on prompts."""

    data: tuple[Path, ...] = setting(
        REQUIRED, "JSON lines, each {messages: […, assistant]}; one with a split must say train"
    )
    model: Path = setting(REQUIRED, "folder of the chat model to start from")
    prompts: Path | None = setting(None, HELD_OUT_PROMPTS)
    out: Path = setting(REQUIRED, "run folder to write; started again it resumes")
    answers: LearntAnswers = setting(
        LearntAnswers.LAST,
        "which of a dialogue's answers are learnt where its line does not say; our choice",
    )
    seed: int = setting(0, "seed of the order of the data; our choice")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(Optimisation, Passes):
    """Direct preference optimisation on the reward models' pairs: a baseline without either."""

    pairs: tuple[Path, ...] = setting(REQUIRED, "pairs files of a snapshot, train roots only")
    policy: Path = setting(REQUIRED, "folder of the chat model that is trained")
    prompts: Path | None = setting(None, HELD_OUT_PROMPTS)
    reference: Path | None = setting(
        None, "folder of the reference model, the policy when not given; Rafailov et al. 2023"
    )
    out: Path = setting(REQUIRED, "run folder to write; started again it resumes")
    criterion: Criterion | None = setting(None, "only pairs of this criterion; both when not given")
    seed: int = setting(0, "seed of the order of the pairs; our choice")
    beta: float = setting(0.1, "beta, strength of the reference; Rafailov et al. 2023", POSITIVE)
    label_smoothing: float = setting(
        0.0, "share of pairs taken to be judged the wrong way round; Mitchell 2023", SMOOTHING
    )
    epochs: int = setting(1, "passes over the pairs; our choice", AT_LEAST_1)
    batch: int = setting(64, "pairs per optimiser step; Rafailov et al. 2023", AT_LEAST_1)
    learning_rate: float = setting(
        1e-6, "highest learning rate; Rafailov et al. 2023, who use RMSprop", NOT_NEGATIVE
    )
    schedule: Literal["cosine", "constant"] = setting(
        "constant", "of the learning rate after warm-up; Rafailov et al. 2023"
    )
    warmup_steps: int = setting(150, "steps of linear warm-up; Rafailov et al. 2023", NOT_NEGATIVE)
    weight_decay: float = setting(
        0.0, "AdamW decay of matrices; our choice, RMSprop has none", NOT_NEGATIVE
    )
