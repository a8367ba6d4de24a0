"""The settings of the reward model's commands: one frozen dataclass each. Standard library only.

The paper is Llama 2 (Touvron et al. 2023). Where it gives no number, the help says "our choice".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward.preferences import Criterion
from reward.settings import (
    AT_LEAST_1,
    BELOW_1,
    HOW,
    INSIDE_0_1,
    NOT_NEGATIVE,
    PORT,
    POSITIVE,
    POSITIVE_SHARE,
    REQUIRED,
    SHARE,
    SMOOTHING,
    How,
    Needs,
    Settings,
    other_setting,
    setting,
)

Device = str
DType = Literal["float32", "bfloat16"]

COSINE = Needs("schedule=cosine", lambda config: config.schedule == "cosine")
ADAPTERS = Needs("lora_rank above 0", lambda config: config.lora_rank > 0)
NOTHING_DROPPED = How(lambda was, now: not now.get("lora_dropout"))
"""What dropout draws depends on what goes through the model at once, and on the device."""


@dataclass(frozen=True, kw_only=True)
class AdamW(Settings):
    """The optimiser that everything is trained with."""

    learning_rate: float = setting(1e-5, "highest learning rate", NOT_NEGATIVE)
    adam_beta1: float = setting(0.9, "AdamW beta 1; section 2.2", BELOW_1)
    adam_beta2: float = setting(0.95, "AdamW beta 2; section 2.2", BELOW_1)
    adam_epsilon: float = setting(1e-5, "AdamW epsilon; section 2.2", POSITIVE)
    weight_decay: float = setting(
        0.1, "AdamW decay of matrices, not of norms; section 2.2", NOT_NEGATIVE
    )
    max_grad_norm: float = setting(
        1.0, "global gradient norm is clipped here; section 2.2", POSITIVE
    )


@dataclass(frozen=True, kw_only=True)
class ScheduledAdamW(AdamW):
    """The same with a learning rate that sinks after its warm-up."""

    schedule: Literal["cosine", "constant"] = setting(
        "cosine", "of the learning rate after warm-up; sections 3.1 and 3.2.2"
    )
    final_learning_rate_share: float = setting(
        0.1, "where the cosine ends, share of the highest learning rate; section 2.2", SHARE,
        COSINE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ScheduledAdamW):
    """Train one reward model on preference pairs, starting from a chat model."""

    pairs: Path = setting(REQUIRED, "pairs file to train on, JSON lines")
    model: Path = setting(REQUIRED, "folder of the chat model to start from; section 3.2.2")
    out: Path = setting(REQUIRED, "run folder to write; started again it resumes")
    criterion: Criterion = setting(REQUIRED, "what the scores shall mean")
    holdout: Path | None = setting(None, "pairs file that only accuracy is measured on")
    ties: Path | None = setting(
        None, "pairs file of comparisons that annotators left undecided, to learn from them",
        needs=Needs("tie_threshold above 0", lambda config: config.tie_threshold > 0),
    )  # fmt: skip
    agreement: tuple[Path, ...] = setting(
        (),
        "pairs files, ties too, that annotator agreement is measured on; default: pairs, holdout",
    )
    margin: Literal["none", "small", "large"] = setting(
        "small", "margin by preference strength; table 27, small is the best average of table 28"
    )
    auxiliary_weight: float = setting(
        1.0,
        "weight of the safety auxiliary loss, safety model only; not in the paper, our choice",
        NOT_NEGATIVE,
    )
    label_smoothing: float = setting(
        0.0,
        "share of the target given to the rejected response; off, Szegedy et al. 2016",
        SMOOTHING,
    )
    soft_labels: bool = setting(
        False, "target is the share of annotators who chose the chosen response; off, our choice"
    )
    reliability_weights: bool = setting(
        False, "a pair counts by the mean weight of its verdicts' annotators; off, our choice"
    )
    centring: float = setting(
        0.0,
        "weight of the square of a pair's summed scores; off, Eisenstein et al. 2023 use 0.01",
        NOT_NEGATIVE,
    )
    tie_threshold: float = setting(
        0.0,
        "how far apart two responses must be to be told apart, raw score; off; Rao and Kupper 1967",
        NOT_NEGATIVE,
    )
    mixture: Literal["published", "own", "all"] = setting(
        "published", "which pairs are mixed in; section 3.2.2, see reward.data.mix"
    )
    epochs: int = setting(1, "passes over the pairs; section 3.2.2", AT_LEAST_1)
    learning_rate: float = setting(
        1e-5, "highest learning rate; section 3.2.2: 5e-6 for 70B, 1e-5 for smaller", POSITIVE
    )
    warmup_share: float = setting(0.03, "share of all steps that warm up; section 3.2.2", SHARE)
    warmup_least_steps: int = setting(
        5, "at least so many steps warm up; section 3.2.2", NOT_NEGATIVE
    )
    pairs_per_step: int = setting(512, "pairs per optimiser step; section 3.2.2", AT_LEAST_1)
    tokens_per_minibatch: int = setting(
        4_096,
        "distinct tokens put through the model at once, at least a pair's; our choice",
        AT_LEAST_1,
        how=NOTHING_DROPPED,
    )
    lora_rank: int = setting(
        0,
        "rank of the adapters trained beside the head, 0 trains all; Hu et al. 2021",
        NOT_NEGATIVE,
    )
    lora_alpha: int = setting(
        16, "adapters count by alpha / rank; Dettmers et al. 2023, table 9", AT_LEAST_1, ADAPTERS
    )
    lora_dropout: float = setting(
        0.0, "share of the adapters' input dropped; off", BELOW_1, ADAPTERS
    )
    lora_targets: str = setting(
        "all-linear", "layers that get adapters: all-linear (never the head), or q_proj,v_proj …",
        needs=ADAPTERS,
    )  # fmt: skip
    quantise: Literal["none", "4bit"] = setting(
        "none", "keep the trunk's matrices in NF4 under the adapters; Dettmers et al. 2023",
        needs=ADAPTERS,
    )  # fmt: skip
    recompute_activations: bool = setting(
        False, "activation checkpointing: less memory for a third more work; our choice", how=HOW
    )
    max_tokens: int = setting(
        4096,
        "longest prompt with answer, tokens, at most the model's context; section 2.2",
        AT_LEAST_1,
    )
    over_long: Literal["drop", "cut", "error"] = setting(
        "drop",
        "pairs with a longer row are dropped or lose their oldest turns, and counted, or refused; "
        "our choice",
    )
    shuffle: bool = setting(True, "draw the order from the seed; false keeps the file's")
    seed: int = setting(0, "seed of the head, the mixture and the order; our choice")
    device: Device = setting(
        "auto", "auto (a GPU where there is one), cpu, cuda, cuda:1 …", how=NOTHING_DROPPED
    )
    dtype: DType = setting("float32", "type the trunk computes in; head and loss are float32")
    checkpoint_every_steps: int = setting(
        50, "optimiser steps between resumable checkpoints", AT_LEAST_1, how=HOW
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """Measure a reward model's accuracy on pairs."""

    model: Path = setting(REQUIRED, "folder of the reward model")
    pairs: Path = setting(REQUIRED, "pairs file to measure on")
    out: Path = setting(REQUIRED, "JSON file to write the figures to")
    max_tokens: int = setting(
        4096, "pairs with a longer row are left out and counted, tokens", AT_LEAST_1
    )
    tokens_per_minibatch: int = setting(
        16_384, "distinct tokens put through the model at once; our choice", AT_LEAST_1
    )
    device: Device = setting("auto", "auto (a GPU where there is one), cpu, cuda …")
    dtype: DType = setting("float32", "type the trunk computes in")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Settings):
    """Score answers: each input line {messages: […]} gains a score."""

    model: Path = setting(REQUIRED, "folder of the reward model")
    input: Path = setting(REQUIRED, "JSON lines with messages that end with an assistant's")
    output: Path = setting(REQUIRED, "JSON lines file to write")
    tokens_per_minibatch: int = setting(
        16_384, "distinct tokens put through the model at once; our choice", AT_LEAST_1
    )
    device: Device = setting("auto", "auto (a GPU where there is one), cpu, cuda …")
    dtype: DType = setting("float32", "type the trunk computes in")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """Compare reward models, and judges, on the same pairs: every figure of each, and tests."""

    models: tuple[Path, ...] = setting((), "folders of reward models, one output each")
    judged: tuple[Path, ...] = setting((), "run folders of reward.judge on the same pairs")
    names: tuple[str, ...] = setting((), "what to call them, models first; default: their folders")
    pairs: Path = setting(REQUIRED, "pairs file to measure on, held out from all of them")
    out: Path = setting(REQUIRED, "run folder to write; started again it goes on")
    criterion: Criterion | None = setting(None, "only pairs of this criterion count")
    batches: tuple[str, ...] = setting(
        (), "the batches, oldest first, for drift; default: order of appearance in the pairs file"
    )
    agreement: tuple[Path, ...] = setting(
        (), "pairs files, ties too, that annotator agreement is measured on; default: the pairs"
    )
    threshold: float = setting(
        0.15, "safety probability under which an answer counts as unsafe; section 3.2.3", INSIDE_0_1
    )
    unsafe_precision: float = setting(
        0.89, "precision that the fitted threshold shall have; section 3.2.3", INSIDE_0_1
    )
    resamples: int = setting(2000, "bootstrap draws of dialogue roots; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed of the bootstrap; our choice")
    max_tokens: int = setting(
        4096, "pairs with a longer row are left out of all and counted, tokens", AT_LEAST_1
    )
    tokens_per_minibatch: int = setting(
        16_384, "distinct tokens put through a model at once; our choice", AT_LEAST_1, how=HOW
    )
    device: Device = setting("auto", "auto (a GPU where there is one), cpu, cuda …", how=HOW)
    dtype: DType = setting("float32", "type the trunks compute in")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Settings):
    """Let a chat model at an OpenAI-compatible address judge pairs, each in both orders."""

    address: str = setting(
        REQUIRED,
        "base URL of the server, the only address that is called; an API key comes from the "
        "environment variable JUDGE_API_KEY",
    )
    model: str = setting(REQUIRED, "name of the model served there")
    pairs: Path = setting(REQUIRED, "pairs file to judge")
    out: Path = setting(REQUIRED, "run folder to write; started again it asks what is unanswered")
    criterion: Criterion | None = setting(None, "only pairs of this criterion are judged")
    temperature: float = setting(0.0, "sampling temperature of the judge; our choice", NOT_NEGATIVE)
    max_new_tokens: int = setting(1024, "longest answer of the judge, tokens", AT_LEAST_1)
    timeout_seconds: float = setting(120.0, "longest wait for one answer, s", POSITIVE, how=HOW)
    attempts: int = setting(
        4, "how often a question is asked that gets no answer", AT_LEAST_1, how=HOW
    )
    parallel_requests: int = setting(8, "questions asked at the same time", AT_LEAST_1, how=HOW)
    unanswered_share: float = setting(
        0.0, "share of the questions that may stay without an answer for a result to be written",
        SHARE,
    )  # fmt: skip
    resamples: int = setting(2000, "bootstrap draws of dialogue roots; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed of the bootstrap; our choice")


TRAINED_ALIKE = How(
    lambda was, now: other_setting(TrainConfig, was["training"], now["training"]) is None
)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(Settings):
    """Train on more and more of the pairs, measure on one holdout: what more data brings."""

    pairs: Path = setting(REQUIRED, "pairs file to train on, of several batches")
    holdout: Path = setting(REQUIRED, "pairs file that accuracy is measured on, the same for all")
    models: tuple[Path, ...] = setting(REQUIRED, "folders of chat models to start from, by size")
    out: Path = setting(REQUIRED, "run folder to write; started again it goes on")
    criterion: Criterion = setting(REQUIRED, "what the scores shall mean")
    batches: tuple[str, ...] = setting(
        (), "all batches, oldest first: trained on the criterion's first, the first two …; "
        "figure 6. Default: order of appearance in the pairs file",
        needs=Needs("no shares beside it", lambda config: not config.shares),
    )  # fmt: skip
    shares: tuple[float, ...] = setting(
        (), "instead of batches, shares of the dialogues, each share within the next",
        POSITIVE_SHARE,
    )  # fmt: skip
    seeds: tuple[int, ...] = setting((0,), "each point is trained once with each; our choice")
    training: dict[str, object] = setting(
        {}, "further settings of reward.train, a JSON object", how=TRAINED_ALIKE
    )
    next_pairs: int = setting(
        0, "comparisons that the next batch would bring; 0: as many as the last step", NOT_NEGATIVE
    )
    resamples: int = setting(2000, "bootstrap draws of dialogue roots; our choice", AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Score answers over HTTP with the reward models below a folder."""

    root: Path = setting(REQUIRED, "folder below which a request may name a reward model")
    host: str = setting(
        "127.0.0.1",
        "address to listen on; a key that requests must bring comes from the environment variable "
        "SCORER_API_KEY",
    )
    port: int = setting(8003, "port to listen on, 0 for any free one", PORT)
    models: int = setting(2, "so many stay loaded, those asked for last; our choice", AT_LEAST_1)
    tokens_per_minibatch: int = setting(
        16_384, "distinct tokens put through the model at once; our choice", AT_LEAST_1
    )
    device: Device = setting("auto", "auto (a GPU where there is one), cpu, cuda …")
    dtype: DType = setting("float32", "type the trunk computes in")
