"""What the settings of several commands have in common. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from reward.addresses import refuse_odd_address
from reward.settings import (
    AT_LEAST_1,
    HOW,
    INSIDE_0_1,
    POSITIVE,
    REQUIRED,
    How,
    Needs,
    Settings,
    setting,
)

MOVED = How(lambda was, now: None not in (was.get("address"), now.get("address")))
"""A server may move; answers that are drawn here, by other random numbers, are others."""
AN_ADDRESS = Needs("an address", lambda config: config.address is not None)

NO_ADDRESS = Needs("no address beside it", lambda config: config.address is None)


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
class Learning(Settings):
    """What is never learnt from, beside what a command's own prompts file holds out."""

    held_out: tuple[Path, ...] = setting(
        (),
        "further prompts files whose validation and test dialogues are never learnt from; in a "
        "round those of its evaluation's further_prompts too",
    )


@dataclass(frozen=True, kw_only=True)
class Compute(Settings):
    """Where models compute."""

    device: str = setting("auto", "auto (a GPU where there is one), cpu, cuda, cuda:1, …", how=HOW)


@dataclass(frozen=True, kw_only=True)
class Passes(Compute):
    """How much of what is learnt from or scored goes through a model at once."""

    tokens_per_minibatch: int = setting(
        4096, "distinct tokens put through a model at once; changes no result", AT_LEAST_1, how=HOW
    )


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """How chat models that are trained compute."""

    train_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "type the trunks of trained models and of their reference compute in; weights, moments, "
        "heads, log-probabilities and losses are float32",
    )
    recompute_activations: bool = setting(
        False, "activation checkpointing: less memory for a third more work; our choice", how=HOW
    )


@dataclass(frozen=True, kw_only=True)
class Inference(Compute):
    """What models that are not trained compute in."""

    dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        "type of weights that only answer or only score, never of trained ones; our choice",
    )


@dataclass(frozen=True, kw_only=True)
class Scoring(Inference, Passes):
    """How models score."""


@dataclass(frozen=True, kw_only=True)
class ServedPolicy(Inference):
    """How a policy answers: in this process, or at an OpenAI-compatible server that is given its
    folder (docs/engines.md)."""

    generation_rows: int = setting(
        256, "answers generated side by side here, rows; our choice", AT_LEAST_1, NO_ADDRESS, HOW
    )
    address: str | None = setting(
        None,
        "base URL of an OpenAI-compatible server that draws; drawn here when not given",
        how=MOVED,
    )
    timeout_seconds: float = setting(
        120.0, "longest wait for one answer from the address, s", POSITIVE, AN_ADDRESS, HOW
    )
    parallel_requests: int = setting(
        8, "answers asked for at the same time at the address", AT_LEAST_1, AN_ADDRESS, HOW
    )
    served_model: str | None = setting(
        None, "model name to ask for at the address; the policy's folder when not given", how=HOW
    )
    hand_over: str | None = setting(
        None,
        "command that makes the address serve a policy, {folder} stands for its folder",
        how=HOW,
    )
    weights_tolerance: float = setting(
        0.03,
        "largest mean difference of a token's log-probability at the address, nats: other weights "
        "are refused; bfloat16 makes 0.004, a stage of PPO 0.06 and more, our measurement",
        POSITIVE,
        AN_ADDRESS,
        HOW,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None:
            refuse_odd_address("address", self.address, "SAMPLER_API_KEY")
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


def refuse_odd_judge(address: str | None, model: str) -> None:
    """Raises ValueError where an address comes without a model, or the other way round, and for one
    that is none or holds a key."""
    if address is not None:
        refuse_odd_address("judge_address", address, "JUDGE_API_KEY")
    if (address is None) != (not model):
        raise ValueError("a judge needs both: judge_address and judge_model")
