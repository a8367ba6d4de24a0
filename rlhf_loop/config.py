"""The settings of every command of the round: one frozen dataclass each. Standard library only.

The paper is Llama 2 (Touvron et al. 2023); where it gives no number the source named is the public
code of its ancestor, lm-human-preferences (Ziegler et al. 2019), or "our choice". The defaults are
the paper's sizes; a small model wants a smaller batch and a larger learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from reward.preferences import Criterion
from reward.settings import (
    AT_LEAST_1,
    AT_LEAST_2,
    BELOW_1,
    INSIDE_0_1,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    REQUIRED,
    SHARE,
    SMOOTHING,
    Settings,
    from_mapping,
    setting,
)
from rlhf_loop.prompts import PromptSplit


def inputs_of(config: Settings) -> dict[str, Path]:
    """Every file and folder that a run with these settings reads, by the setting's name; those of a
    list are numbered."""
    found: dict[str, Path] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple):
            paths = [path for path in value if isinstance(path, Path)]
            found |= {f"{field.name} {n}": path for n, path in enumerate(paths, start=1)}
        elif isinstance(value, Path) and field.name != "out":
            found[field.name] = value
    return found


@dataclass(frozen=True, kw_only=True)
class Inputs(Settings):
    """What every stage of a round reads, and the folder that it writes."""

    prompts: Path = setting(REQUIRED, "prompts file, JSON lines with a split each")
    policy: Path = setting(REQUIRED, "folder of the chat model that this stage starts from")
    helpfulness: Path = setting(REQUIRED, "folder of the helpfulness reward model")
    safety: Path = setting(REQUIRED, "folder of the safety reward model")
    out: Path = setting(REQUIRED, "run folder to write; started again it resumes")
    seed: int = setting(0, "seed of sampling and of every order; our choice")
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    threshold: float = setting(
        0.15, "safety probability under which the safety score decides; section 3.2.3", INSIDE_0_1
    )


@dataclass(frozen=True, kw_only=True)
class Compute(Settings):
    """How much is put through a model at once, and where; no effect on what is computed."""

    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, cuda:1, …")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "type of weights that only answer or only score, never of trained ones; our choice",
    )
    generation_rows: int = setting(
        256, "answers generated side by side, rows; our choice", AT_LEAST_1
    )
    tokens_per_minibatch: int = setting(
        4096, "distinct tokens put through a model at once otherwise; changes no result", AT_LEAST_1
    )


@dataclass(frozen=True, kw_only=True)
class Served(Compute):
    """Who draws answers: this process, or an OpenAI-compatible server (docs/engines.md)."""

    address: str | None = setting(
        None, "base URL of an OpenAI-compatible server that draws; drawn here when not given"
    )
    timeout_seconds: float = setting(
        120.0, "longest wait for one answer from the address, s", POSITIVE
    )
    parallel_requests: int = setting(
        8, "answers asked for at the same time at the address", AT_LEAST_1
    )


@dataclass(frozen=True, kw_only=True)
class ServedPolicy(Served):
    """The same where the policies are folders that an address has to be given."""

    served_model: str | None = setting(
        None, "model name to ask for at the address; the policy's folder when not given"
    )
    hand_over: str | None = setting(
        None, "command that makes the address serve a policy, {folder} stands for its folder"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is None and (self.served_model or self.hand_over):
            raise ValueError("served_model and hand_over are for an address, and none is given")
        if self.hand_over is not None and "{folder}" not in self.hand_over:
            raise ValueError(
                f"hand_over is {self.hand_over!r}, allowed are commands with {{folder}}"
            )


def refuse_one_name_for_two(config: ServedPolicy) -> None:
    """Raises ValueError where two chat models would be asked for by the same name."""
    if config.served_model is not None and config.hand_over is None:
        raise ValueError(
            f"served_model is {config.served_model!r}, and two chat models are asked: without "
            "hand_over the address would answer for both with one, so leave served_model out"
        )


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """AdamW's steps on answers; what the paper leaves open about them is a setting."""

    epochs: int = setting(2, "passes over the data; section 3.1", AT_LEAST_1)
    batch: int = setting(64, "answers per optimiser step; section 3.1", AT_LEAST_1)
    learning_rate: float = setting(2e-5, "highest learning rate; section 3.1", NOT_NEGATIVE)
    schedule: Literal["cosine", "constant"] = setting(
        "cosine", "of the learning rate after warm-up; section 3.1"
    )
    final_learning_rate_share: float = setting(
        0.0, "where the cosine ends, share of the highest; our choice, 0.1 in section 2.2", SHARE
    )
    warmup_steps: int = setting(0, "steps of linear warm-up; our choice", NOT_NEGATIVE)
    adam_beta1: float = setting(0.9, "AdamW beta 1; section 2.2", BELOW_1)
    adam_beta2: float = setting(0.95, "AdamW beta 2; section 2.2", BELOW_1)
    adam_eps: float = setting(1e-8, "AdamW epsilon; torch's, 1e-5 in section 2.2", POSITIVE)
    weight_decay: float = setting(
        0.1, "AdamW decay of matrices, not of norms; section 3.1", NOT_NEGATIVE
    )
    max_grad_norm: float = setting(
        1.0, "global gradient norm is clipped here; section 2.2", POSITIVE
    )
    max_length: int = setting(
        4096, "longest prompt with answer, tokens; longer ones are counted; section 3.1", AT_LEAST_1
    )
    checkpoint_every: int = setting(
        100, "optimiser steps between resumable checkpoints", AT_LEAST_1
    )


@dataclass(frozen=True, kw_only=True)
class FineTuning(Optimisation):
    """Supervised fine-tuning on answers (section 3.1)."""

    packing: Literal["none", "within", "across"] = setting(
        "none",
        "within or across: answers fill rows of max_length, batch counts rows, and attention stays "
        "within each answer's dialogue or reaches across them; section 3.1 packs, and does not say",
    )
    loss_mean: Literal["tokens", "answers"] = setting(
        "tokens", "mean over a step's answer tokens, or over its answers' means; our choice"
    )


@dataclass(frozen=True, kw_only=True)
class SFTConfig(FineTuning, Compute):
    """Fine-tune a chat model on answers: the loss is on answers only, never on prompts."""

    data: tuple[Path, ...] = setting(
        REQUIRED, "JSON lines, each {messages: […, assistant]}; one with a split must say train"
    )
    model: Path = setting(REQUIRED, "folder of the chat model to start from")
    out: Path = setting(REQUIRED, "run folder to write; started again it resumes")
    answers: Literal["last", "all"] = setting(
        "last", "which of a dialogue's answers are learnt; our choice"
    )
    seed: int = setting(0, "seed of the order of the data; our choice")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Served):
    """Answer every prompt with every model: what fills a batch of comparisons."""

    prompts: Path = setting(REQUIRED, "prompts file, JSON lines")
    out: Path = setting(REQUIRED, "run folder to write responses.jsonl into; resumes")
    model: tuple[Path, ...] = setting((), "folders of the chat models that answer")
    served_model: tuple[str, ...] = setting((), "model names to ask for at the address")
    temperature: tuple[float, ...] = setting(
        (1.0,), "sampling temperature, one for all models or one each; 0 is greedy", NOT_NEGATIVE
    )
    top_p: float = setting(
        1.0, "nucleus: smallest set of tokens with this probability", POSITIVE_SHARE
    )
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed; every answer's own seed derives from it; our choice")
    split: PromptSplit | None = setting(None, "only prompts of this split; all when not given")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is None and (not self.model or self.served_model):
            raise ValueError("give --model folders, or --address with --served-model names")
        if self.address is not None and (self.model or not self.served_model):
            raise ValueError("with --address give --served-model names and no --model folders")
        if len(self.temperature) not in (1, len(self.model or self.served_model)):
            raise ValueError(
                f"temperature has {len(self.temperature)} values, allowed are 1 or one for each "
                f"of the {len(self.model or self.served_model)} models"
            )


@dataclass(frozen=True, kw_only=True)
class RejectionConfig(FineTuning, ServedPolicy, Inputs):
    """Rejection sampling: K answers per prompt, the best by both scores is fine-tuned on."""

    samples: int = setting(
        10, "K, answers per train prompt; the paper gives none, our choice", AT_LEAST_1
    )
    temperature: float = setting(
        1.0, "sampling temperature; 1.2 to 1.3 later, section 3.2.3", NOT_NEGATIVE
    )
    top_p: float = setting(1.0, "nucleus of the samples; our choice", POSITIVE_SHARE)
    chunk_prompts: int = setting(
        256, "prompts sampled, scored and stored together; resume unit", AT_LEAST_1
    )
    pool: bool = setting(
        True, "best answers of the earlier rounds compete; false: V1 to V3 of section 3.2.3"
    )
    earlier: tuple[Path, ...] = setting(
        (), "selected.jsonl of all earlier rounds, scored again by today's reward models"
    )
    sft_data: tuple[Path, ...] = setting(
        (), "JSON lines of demonstrations, fine-tuned on beside the selected answers; section 3.2.3"
    )
    start: Path | None = setting(
        None, "folder of the model that is fine-tuned, the policy when not given; section 3.2.3 "
        "begins each version at the base model"
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig(ServedPolicy, Inputs):
    """Find the temperature whose best of N answers is best (figure 8), before a round draws."""

    temperatures: tuple[float, ...] = setting(
        (0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5), "temperatures tried; figure 8", POSITIVE
    )
    samples: int = setting(
        16, "K, answers to each prompt at each temperature; up to 100 in figure 8", AT_LEAST_1
    )
    pick_at: int | None = setting(
        None, "N of the max@N that is compared, 1 to K; K when not given; our choice", AT_LEAST_1
    )
    top_p: float = setting(1.0, "nucleus of the samples; our choice", POSITIVE_SHARE)
    split: PromptSplit = setting(
        PromptSplit.VALIDATION, "prompts that are used; our choice, so that train ones stay unseen"
    )
    prompt_count: int = setting(
        64, "prompts used at most, the same in every round; our choice", AT_LEAST_1
    )
    chunk_prompts: int = setting(
        64, "prompts sampled, scored and stored together; resume unit", AT_LEAST_1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pick_at is not None and self.pick_at > self.samples:
            raise ValueError(f"pick_at is {self.pick_at}, allowed is 1 to samples {self.samples}")
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            shown = " ".join(map(str, self.temperatures)) or "empty"
            raise ValueError(f"temperatures is {shown}, allowed are different ones, at least one")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(Optimisation, Compute):
    """Direct preference optimisation on the reward models' pairs: a baseline without either."""

    pairs: tuple[Path, ...] = setting(REQUIRED, "pairs files of a snapshot, train roots only")
    policy: Path = setting(REQUIRED, "folder of the chat model that is trained")
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


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Compute, Inputs):
    """PPO against the combined score with a KL penalty to the policy it started from."""

    iterations: int = setting(200, "iterations at most; 200 to 400 in section 3.2.3", AT_LEAST_1)
    batch: int = setting(512, "answers per iteration; section 3.2.3", AT_LEAST_1)
    minibatch: int = setting(64, "answers per gradient step; section 3.2.3", AT_LEAST_1)
    epochs: int = setting(1, "passes over each batch; section 3.2.3 implies 1", AT_LEAST_1)
    answers_per_prompt: int = setting(
        1, "K, answers to each prompt of a batch; section 3.2.3 implies 1", AT_LEAST_1
    )
    advantage: Literal["gae", "rloo", "grpo"] = setting(
        "gae",
        "gae: against learnt values, Schulman et al. 2016; rloo: against the other answers to the "
        "prompt, Ahmadian et al. 2024; grpo: whitened among them, Shao et al. 2024",
    )
    value: Literal["trunk", "helpfulness", "safety"] = setting(
        "trunk",
        "what learns the values: a head on the policy's trunk, as in lm-human-preferences, or a "
        "model of its own that starts from that reward model, as in Stiennon et al. 2020",
    )
    reference: Path | None = setting(
        None, "pi_0, the chat model that divergence is measured from; the policy when not given"
    )
    learning_rate: float = setting(1e-6, "constant learning rate; section 3.2.3", NOT_NEGATIVE)
    adam_beta1: float = setting(0.9, "AdamW beta 1; section 3.2.3", BELOW_1)
    adam_beta2: float = setting(0.95, "AdamW beta 2; section 3.2.3", BELOW_1)
    adam_eps: float = setting(1e-5, "AdamW epsilon; section 3.2.3", POSITIVE)
    weight_decay: float = setting(0.1, "AdamW weight decay; section 3.2.3", NOT_NEGATIVE)
    max_grad_norm: float = setting(
        1.0, "global gradient norm is clipped here; section 3.2.3", POSITIVE
    )
    cliprange: float = setting(0.2, "PPO clip of the probability ratio; section 3.2.3", POSITIVE)
    kl_coef: float = setting(
        0.01, "beta; 0.01 for 7B and 13B, 0.005 above, section 3.2.3", NOT_NEGATIVE
    )
    kl: Literal["token", "sequence"] = setting(
        "token",
        "where the penalty stands: on each token, as in lm-human-preferences, or all of it on the "
        "last, as equation 4 reads; the same for rloo and grpo, whose rewards are of answers",
    )
    kl_budget: float | None = setting(
        None,
        "nats per answer; a policy that validation finds further from pi_0 is not kept, and the "
        "run ends; our choice",
        POSITIVE,
    )
    gamma: float = setting(1.0, "discount per token; lm-human-preferences", SHARE)
    lam: float = setting(0.95, "lambda of generalised advantages; lm-human-preferences", SHARE)
    vf_coef: float = setting(0.1, "weight of the value loss; lm-human-preferences", NOT_NEGATIVE)
    cliprange_value: float = setting(
        0.2, "clip of the value change, a large one is none; lm-human-preferences", POSITIVE
    )
    entropy_coef: float = setting(
        0.0, "weight of the entropy bonus per token; none in section 3.2.3", NOT_NEGATIVE
    )
    whiten_scores: bool = setting(
        True,
        "whiten combined scores over the batch of all ranks, population variance + 1e-8; "
        "section 3.2.3, variance as in lm-human-preferences",
    )
    whiten_rewards: bool = setting(
        False, "also whiten token rewards, mean kept; on in lm-human-preferences, off by choice"
    )
    whiten_advantages: bool = setting(
        True, "whiten the advantages of gae; lm-human-preferences. Those of rloo and grpo never are"
    )
    temperature: float = setting(
        1.0, "temperature of rollouts and of log-probs; our choice", POSITIVE
    )
    truncated: Literal["penalise", "mask", "keep"] = setting(
        "penalise", "answers cut at the limit: lower score, no gradient, or as any other"
    )
    truncated_penalty: float = setting(
        1.0,
        "taken off a truncated answer's combined logit when penalised; our choice",
        NOT_NEGATIVE,
    )
    reuse_logprobs: bool = setting(
        True,
        "take the log-probabilities of drawing where those of a sample of rows, computed again "
        "each iteration, are within 1e-4; our choice",
    )
    tokens_per_minibatch: int = setting(
        2048, "distinct tokens put through a model at once, at least a row's; our choice",
        AT_LEAST_1,
    )  # fmt: skip
    validate_every: int = setting(10, "iterations between validations; our choice", AT_LEAST_1)
    validation_prompts: int = setting(
        512, "validation prompts used at most; our choice", AT_LEAST_1
    )
    patience: int = setting(
        5, "validations without a better one before it stops; our choice", AT_LEAST_1
    )
    checkpoint_every: int = setting(
        1, "iterations between resumable checkpoints; our choice", AT_LEAST_1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("minibatch", "answers_per_prompt"):
            if self.batch % getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, allowed are divisors of batch {self.batch}"
                )
        if self.advantage != "gae":
            self._refuse_what_only_values_need()

    def _refuse_what_only_values_need(self) -> None:
        """Of rloo and grpo, which compare whole answers to the same prompt."""
        if self.answers_per_prompt < 2:
            raise ValueError(
                f"advantage is {self.advantage!r}, which compares the answers to a prompt, and "
                "answers_per_prompt is 1, allowed are 2 or more"
            )
        unused: dict[str, Any] = {"value": "trunk", "gamma": 1.0, "whiten_rewards": False}
        for name, allowed in unused.items():
            if getattr(self, name) != allowed:
                raise ValueError(
                    f"advantage is {self.advantage!r}, which has one reward for an answer and no "
                    f"values, and {name} is {getattr(self, name)!r}: leave it at {allowed!r}"
                )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ServedPolicy, Inputs):
    """Judge a new chat model against an old one on test prompts, from several sides."""

    against: Path = setting(REQUIRED, "folder of the old chat model")
    split: PromptSplit = setting(PromptSplit.TEST, "prompts that are used")
    further_prompts: tuple[Path, ...] = setting(
        (), "more prompts files of which the split counts too, borderline ones say"
    )
    temperature: float = setting(
        1.0, "sampling temperature; 1 keeps the KL estimate unbiased", NOT_NEGATIVE
    )
    top_p: float = setting(1.0, "nucleus; 1 keeps the KL estimate unbiased", POSITIVE_SHARE)
    shown: int = setting(
        12, "sample texts that are copied into result.json; our choice", NOT_NEGATIVE
    )
    independent: Path | None = setting(
        None, "folder of a reward model trained only on imported data; section 3.4.1"
    )
    diversity_prompts: int = setting(
        20, "prompts on which diversity is measured, 0 for none; figure 21", NOT_NEGATIVE
    )
    diversity_samples: int = setting(
        10, "answers to each of them; 25 in figure 21, 10 by choice", AT_LEAST_2
    )
    refusals: Literal["rules", "judge"] = setting(
        "rules", "who says whether an answer refuses: rules on its text, or the judge"
    )
    judge_address: str | None = setting(
        None, "base URL of a chat model that compares old and new answers; key: JUDGE_API_KEY"
    )
    judge_model: str = setting("", "name of the model served there")
    judge_prompts: int = setting(
        200, "prompts at most about which the judge is asked, twice each", AT_LEAST_1
    )
    tasks: tuple[Path, ...] = setting(
        (), "task files of options whose accuracy before and after is compared"
    )
    task_chat: bool = setting(
        True, "put a task's query through the chat template, as --apply_chat_template does"
    )
    resamples: int = setting(2000, "bootstrap draws; our choice", AT_LEAST_1)
    gate: dict[str, Any] = setting({}, "thresholds of the release gate, a JSON object")

    def __post_init__(self) -> None:
        super().__post_init__()
        from_mapping(GateConfig, self.gate)
        refuse_one_name_for_two(self)
        refuse_half_a_judge(self.judge_address, self.judge_model)
        if self.refusals == "judge" and self.judge_address is None:
            raise ValueError("refusals is 'judge', which needs a judge_address")


@dataclass(frozen=True, kw_only=True)
class RoundConfig(Inputs):
    """A whole round: stages one after the other, and the evaluation of the new chat model."""

    stages: tuple[str, ...] = setting(
        ("rejection", "ppo", "evaluate"),
        "which stages the round has, in this order: sft temperature rejection dpo ppo evaluate",
    )
    sft: dict[str, Any] = setting({}, "settings of rlhf_loop.sft, a JSON object")
    temperature: dict[str, Any] = setting({}, "settings of rlhf_loop.temperature, a JSON object")
    rejection: dict[str, Any] = setting({}, "settings of rlhf_loop.rejection, a JSON object")
    dpo: dict[str, Any] = setting({}, "settings of rlhf_loop.dpo, a JSON object")
    ppo: dict[str, Any] = setting({}, "settings of rlhf_loop.ppo, a JSON object")
    evaluate: dict[str, Any] = setting({}, "settings of rlhf_loop.evaluate, a JSON object")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd_stages()
        for stage in self.stages:
            settings = self.settings_of(stage, self.policy, self.out)
            from_mapping(STAGE_CONFIGS[stage], settings)

    def _refuse_odd_stages(self) -> None:
        ordered = [stage for stage in STAGE_CONFIGS if stage in self.stages]
        if list(self.stages) != ordered or self.stages[-1:] != ("evaluate",):
            raise ValueError(
                f"stages is {' '.join(self.stages) or 'empty'}, allowed are some of "
                f"{' '.join(STAGE_CONFIGS)}, each once, in this order, evaluate among them"
            )
        if not TRAINING_STAGES & set(self.stages):
            raise ValueError(
                f"stages is {' '.join(self.stages)}, which trains nothing: one of "
                f"{', '.join(s for s in STAGE_CONFIGS if s in TRAINING_STAGES)} is needed"
            )
        if "temperature" in self.stages and "rejection" not in self.stages:
            raise ValueError("stages has temperature without rejection, which alone draws at it")

    def settings_of(self, stage: str, policy: Path, out: Path) -> dict[str, Any]:
        """All settings of one stage that starts from the chat model ``policy``.

        Raises ValueError for a stage that is none.
        """
        if stage not in STAGE_CONFIGS:
            raise ValueError(f"stage is {stage!r}, allowed are {', '.join(STAGE_CONFIGS)}")
        own: dict[str, Any] = getattr(self, stage)
        if stage == "sft":
            return {"model": policy, "seed": self.seed, **own, "out": out}
        if stage == "dpo":
            return {"seed": self.seed, **own, "policy": policy, "out": out}
        shared = {name: getattr(self, name) for name in Inputs.__dataclass_fields__}
        if stage == "evaluate":
            shared["against"] = self.policy
        if stage == "temperature" and "samples" in self.rejection:
            shared["samples"] = self.rejection["samples"]
        return {**shared, **own, "policy": policy, "out": out}


STAGE_CONFIGS: dict[str, type[Settings]] = {
    "sft": SFTConfig,
    "temperature": TemperatureConfig,
    "rejection": RejectionConfig,
    "dpo": DPOConfig,
    "ppo": PPOConfig,
    "evaluate": EvaluateConfig,
}
TRAINING_STAGES = {"sft", "rejection", "dpo", "ppo"}


# --- safety, Ghost Attention, the release --------------------------------------------------------


def refuse_half_a_judge(address: str | None, model: str) -> None:
    """Raises ValueError where an address comes without a model, or the other way round."""
    if (address is None) != (not model):
        raise ValueError("a judge needs both: judge_address and judge_model")


@dataclass(frozen=True, kw_only=True)
class GateConfig(Settings):
    """When the release gate speaks against a new chat model. Falls and rises count only where they
    are also more than chance."""

    gain_beyond_chance: bool = setting(
        True, "the combined score must rise by more than chance; our choice"
    )
    helpfulness_fall: float = setting(
        0.0, "fall of the helpfulness score that is allowed, raw score; our choice", NOT_NEGATIVE
    )
    safety_fall: float = setting(
        0.0, "fall of the safety score that is allowed, raw score; our choice", NOT_NEGATIVE
    )
    refusal_rise: float = setting(
        0.02, "rise of refusals of prompts that deserve an answer, share; our choice", SHARE
    )
    self_bleu_rise: float = setting(0.1, "rise of Self-BLEU that is allowed; our choice", SHARE)
    length_ratio_most: float = setting(
        2.0, "mean length after over mean length before, at most; our choice", POSITIVE
    )
    kl_most: float | None = setting(None, "nats from the old model at most; no limit", POSITIVE)
    independent_fall: float = setting(
        0.0, "fall of the independent reward model's score, raw score; our choice", NOT_NEGATIVE
    )
    judge_win_rate_least: float = setting(
        0.5, "win rate under the judge that may not be missed beyond chance, ties half", SHARE
    )
    task_figure: Literal["acc", "acc_norm"] = setting("acc", "which accuracy of a task counts")
    task_fall: float = setting(0.02, "fall of a task's accuracy, share; our choice", SHARE)


@dataclass(frozen=True, kw_only=True)
class GhostAttentionConfig(ServedPolicy):
    """Make dialogues that teach a model to keep an instruction of the first turn (section 3.3)."""

    prompts: Path = setting(REQUIRED, "prompts file; the user messages of its split are asked")
    policy: Path = setting(REQUIRED, "folder of the latest chat model, which answers every turn")
    out: Path = setting(REQUIRED, "run folder to write dialogues.jsonl into; resumes")
    split: PromptSplit = setting(PromptSplit.TRAIN, "prompts that are used")
    constraints: Path | None = setting(
        None, "JSON file of constraints; the shipped ones when not given"
    )
    dialogues: int = setting(512, "dialogues that are begun; our choice", AT_LEAST_1)
    shortest_turns: int = setting(2, "user messages of a dialogue, at least", AT_LEAST_2)
    longest_turns: int = setting(6, "user messages of a dialogue, at most; our choice", AT_LEAST_2)
    most_constraints: int = setting(
        2, "constraints that one instruction joins, at most; our choice", AT_LEAST_1
    )
    terse_share: float = setting(0.5, "share of instructions as key: value; section 3.3", SHARE)
    lists_drawn: int = setting(
        0, "lists of values asked of the chat model for each constraint that says how; 3.3",
        NOT_NEGATIVE,
    )  # fmt: skip
    only_obeying: bool = setting(
        True, "leave out dialogues whose last answer fails a check; our choice"
    )
    temperature: float = setting(1.0, "sampling temperature; our choice", NOT_NEGATIVE)
    top_p: float = setting(1.0, "nucleus of the samples; our choice", POSITIVE_SHARE)
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed of instructions, dialogues and answers; our choice")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest_turns > self.longest_turns:
            raise ValueError(
                f"shortest_turns is {self.shortest_turns}, allowed are up to longest_turns "
                f"{self.longest_turns}"
            )


@dataclass(frozen=True, kw_only=True)
class InstructionKeepingConfig(ServedPolicy):
    """Measure in how many dialogues an instruction of the first turn still holds (table 30)."""

    prompts: Path = setting(REQUIRED, "prompts file; the user messages of its split are asked")
    policy: Path = setting(REQUIRED, "folder of the chat model that is measured")
    out: Path = setting(REQUIRED, "run folder to write; resumes")
    against: Path | None = setting(None, "folder of a chat model to compare with")
    split: PromptSplit = setting(PromptSplit.TEST, "prompts that are used")
    constraints: Path | None = setting(
        None, "JSON file of constraints; the shipped ones when not given"
    )
    turns: tuple[int, ...] = setting((2, 4, 6, 20), "turns that are judged; table 30", AT_LEAST_1)
    dialogues: int = setting(100, "dialogues; our choice", AT_LEAST_1)
    terse_share: float = setting(0.5, "share of instructions as key: value; section 3.3", SHARE)
    temperature: float = setting(0.0, "sampling temperature; our choice", NOT_NEGATIVE)
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed of instructions, dialogues and answers; our choice")
    resamples: int = setting(2000, "bootstrap draws of dialogues; our choice", AT_LEAST_1)
    judge_address: str | None = setting(
        None, "base URL of a chat model that judges constraints without a rule; key: JUDGE_API_KEY"
    )
    judge_model: str = setting("", "name of the model served there")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against is not None:
            refuse_one_name_for_two(self)
        refuse_half_a_judge(self.judge_address, self.judge_model)


@dataclass(frozen=True, kw_only=True)
class ContextDistillationConfig(ServedPolicy):
    """Answer adversarial prompts behind a safety preprompt and keep what the safety reward model
    scores higher than the answer without it (section 4.2.4)."""

    prompts: Path = setting(REQUIRED, "prompts file; its safety prompts of the split are answered")
    policy: Path = setting(REQUIRED, "folder of the chat model that answers")
    safety: Path = setting(REQUIRED, "folder of the safety reward model")
    out: Path = setting(REQUIRED, "run folder to write distilled.jsonl into; resumes")
    split: PromptSplit = setting(PromptSplit.TRAIN, "prompts that are used")
    templates: Path | None = setting(
        None, "JSON file of preprompts; the shipped ones when not given"
    )
    answer_templates: bool = setting(
        True, "add the answer template of the prompt's risk category; section 4.2.4"
    )
    preprompt_as: Literal["system", "user"] = setting(
        "system", "where the preprompt stands: system message, or before the first user message"
    )
    temperature: float = setting(1.0, "sampling temperature; our choice", NOT_NEGATIVE)
    top_p: float = setting(1.0, "nucleus of the samples; our choice", POSITIVE_SHARE)
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    chunk_prompts: int = setting(
        256, "prompts answered, scored and stored together; resume unit", AT_LEAST_1
    )
    seed: int = setting(0, "seed of preprompts and answers; our choice")


@dataclass(frozen=True, kw_only=True)
class TaskAccuracyConfig(Compute):
    """Accuracy on task files by the log-probability of options, of one chat model or of two."""

    model: Path = setting(REQUIRED, "folder of the chat model that is measured")
    tasks: tuple[Path, ...] = setting(REQUIRED, "task files, JSON lines of options")
    out: Path = setting(REQUIRED, "run folder to write; resumes")
    against: Path | None = setting(None, "folder of the chat model before, to compare with")
    task_chat: bool = setting(
        False, "put a task's query through the chat template, as --apply_chat_template does"
    )
    most: int | None = setting(None, "documents of each task at most, the first ones", AT_LEAST_1)
    resamples: int = setting(2000, "bootstrap draws of documents; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed of the bootstrap; our choice")


COMMAND_CONFIGS: dict[str, type[Settings]] = {
    **STAGE_CONFIGS,
    "sampling": SamplingConfig,
    "ghost_attention": GhostAttentionConfig,
    "context_distillation": ContextDistillationConfig,
    "instruction_keeping": InstructionKeepingConfig,
    "task_accuracy": TaskAccuracyConfig,
}


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Settings):
    """Run a finished round, or one of its stages, again and compare what comes out bit for bit."""

    run: Path = setting(REQUIRED, "folder of the round or of the stage, as it was left")
    out: Path = setting(REQUIRED, "folder to run it again in; started again it goes on")
    stages: tuple[str, ...] = setting((), "which of the round's stages; all when not given")
