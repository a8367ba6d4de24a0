"""Settings of what draws many answers: batches, sweeps, rejection. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reward.settings import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    REQUIRED,
    Needs,
    setting,
)
from rlhf_loop.config.common import Inputs, Scoring, ServedPolicy, refuse_one_name_for_two
from rlhf_loop.config.tuning import FineTuning
from rlhf_loop.prompts import PromptSplit


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(ServedPolicy):
    """Answer every prompt with every model: what fills a batch of comparisons."""

    prompts: Path = setting(REQUIRED, "prompts file, JSON lines")
    out: Path = setting(REQUIRED, "run folder to write responses.jsonl into; resumes")
    model: tuple[Path, ...] = setting(REQUIRED, "folders of the chat models that answer")
    temperature: tuple[float, ...] = setting(
        (1.0,), "sampling temperature, one for all models or one each; 0 is greedy", NOT_NEGATIVE
    )
    top_p: float = setting(
        1.0, "nucleus: smallest set of tokens with this probability", POSITIVE_SHARE
    )
    max_new_tokens: int = setting(512, "longest answer, tokens; our choice", AT_LEAST_1)
    seed: int = setting(0, "seed; every answer's own seed derives from it; our choice")
    split: PromptSplit | None = setting(None, "only prompts of this split; all when not given")
    chunk_prompts: int = setting(
        256, "prompts answered and stored together; resume unit", AT_LEAST_1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError("model is empty, allowed are folders, one or more")
        if len(self.temperature) not in (1, len(self.model)):
            raise ValueError(
                f"temperature has {len(self.temperature)} values, allowed are 1 or one for each "
                f"of the {len(self.model)} models"
            )
        if len(set(self.model)) > 1:
            refuse_one_name_for_two(self)


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig(ServedPolicy, Scoring, Inputs):
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
class RejectionConfig(FineTuning, ServedPolicy, Scoring, Inputs):
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
        (),
        "selected.jsonl of all earlier rounds, scored again by today's reward models",
        needs=Needs("pool=true", lambda config: config.pool),
    )
    sft_data: tuple[Path, ...] | None = setting(
        None,
        "JSON lines of demonstrations, fine-tuned on beside the selected answers, the last answer "
        "of a dialogue unless its line says all; section 3.2.3",
    )
    start: Path | None = setting(
        None, "folder of the model that is fine-tuned, the policy when not given; section 3.2.3 "
        "begins each version at the base model"
    )  # fmt: skip
