"""Settings of PPO. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reward.config import AdamW
from reward.settings import AT_LEAST_1, HOW, NOT_NEGATIVE, POSITIVE, SHARE, Needs, setting
from rlhf_loop.config.common import Inputs, Learning, Scoring, ServedPolicy, Training

VALUES = Needs("advantage=gae, which alone learns values", lambda config: config.advantage == "gae")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(AdamW, Training, Learning, ServedPolicy, Scoring, Inputs):
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
    lam: float = setting(
        0.95, "lambda of generalised advantages; lm-human-preferences", SHARE, VALUES
    )
    vf_coef: float = setting(
        0.1, "weight of the value loss; lm-human-preferences", NOT_NEGATIVE, VALUES
    )
    cliprange_value: float = setting(
        0.2, "clip of the value change, a large one is none; lm-human-preferences", POSITIVE, VALUES
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
        True,
        "whiten the advantages of gae; lm-human-preferences. Those of rloo and grpo never are",
        needs=VALUES,
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
        Needs("truncated=penalise", lambda config: config.truncated == "penalise"),
    )
    reuse_logprobs: bool = setting(
        True,
        "take the log-probabilities of drawing where those of a sample of rows, computed again "
        "each iteration, are within 1e-4; our choice",
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "type the reward models compute in; policy, values and reference have train_dtype; our "
        "choice",
    )
    tokens_per_minibatch: int = setting(
        2048, "distinct tokens put through a model at once, at least a row's; our choice",
        AT_LEAST_1, how=HOW,
    )  # fmt: skip
    validate_every: int = setting(10, "iterations between validations; our choice", AT_LEAST_1)
    validation_prompts: int = setting(
        512, "validation prompts used at most, the same in every round; our choice", AT_LEAST_1
    )
    patience: int = setting(
        5, "validations without a better one before it stops; our choice", AT_LEAST_1
    )
    checkpoint_every: int = setting(
        1, "iterations between resumable checkpoints; our choice", AT_LEAST_1, how=HOW
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("minibatch", "answers_per_prompt"):
            if self.batch % getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, allowed are divisors of batch {self.batch}"
                )
        if self.address is not None and self.hand_over is None:
            raise ValueError(
                f"address is {self.address!r}, and PPO's policy is another one in each iteration: "
                "hand_over is needed, a command that makes the address serve it"
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
