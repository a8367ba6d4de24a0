"""Settings of what writes dialogues to fine-tune on. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward.settings import (
    AT_LEAST_1,
    AT_LEAST_2,
    NOT_NEGATIVE,
    POSITIVE_SHARE,
    REQUIRED,
    SHARE,
    setting,
)
from rlhf_loop.config.common import Learning, Scoring, ServedPolicy
from rlhf_loop.prompts import PromptSplit


@dataclass(frozen=True, kw_only=True)
class GhostAttentionConfig(ServedPolicy, Learning):
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
    temperature: float = setting(
        1.0,
        "sampling temperature; where it is 0 lists of values are drawn at 1, or all would be the "
        "same; our choice",
        NOT_NEGATIVE,
    )
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
class ContextDistillationConfig(ServedPolicy, Scoring, Learning):
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
