"""Settings of a round and of its replay; commands by their settings. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from reward.settings import HOW, REQUIRED, Settings, from_mapping, setting
from rlhf_loop.config.common import Inputs, Learning
from rlhf_loop.config.dialogues import ContextDistillationConfig, GhostAttentionConfig
from rlhf_loop.config.evaluation import EvaluateConfig, InstructionKeepingConfig, TaskAccuracyConfig
from rlhf_loop.config.ppo import PPOConfig
from rlhf_loop.config.sampling import RejectionConfig, SamplingConfig, TemperatureConfig
from rlhf_loop.config.tuning import DPOConfig, SFTConfig
from rlhf_loop.prompts import PromptSplit


@dataclass(frozen=True, kw_only=True)
class RoundConfig(Inputs, Learning):
    """A whole round: stages one after the other, and the evaluation of the new chat model.

    The settings of a stage are held to by its own folder, once the stage has begun.
    """

    stages: tuple[str, ...] = setting(
        ("temperature", "rejection", "ppo", "evaluate"),
        "which stages the round has, in this order: sft temperature ghost_attention "
        "context_distillation rejection dpo ppo instruction_keeping evaluate",
    )
    launcher: str | None = setting(
        None,
        "takes the place of python before the stages that several processes share, sft temperature "
        "rejection dpo ppo: torchrun --standalone --nproc-per-node 8; docs/launching.md",
        how=HOW,
    )
    sft: dict[str, Any] = setting({}, "settings of rlhf_loop.sft, a JSON object", how=HOW)
    temperature: dict[str, Any] = setting(
        {}, "settings of rlhf_loop.temperature, a JSON object", how=HOW
    )
    ghost_attention: dict[str, Any] = setting(
        {}, "settings of rlhf_loop.ghost_attention, a JSON object", how=HOW
    )
    context_distillation: dict[str, Any] = setting(
        {}, "settings of rlhf_loop.context_distillation, a JSON object", how=HOW
    )
    rejection: dict[str, Any] = setting(
        {}, "settings of rlhf_loop.rejection, a JSON object", how=HOW
    )
    dpo: dict[str, Any] = setting({}, "settings of rlhf_loop.dpo, a JSON object", how=HOW)
    ppo: dict[str, Any] = setting({}, "settings of rlhf_loop.ppo, a JSON object", how=HOW)
    instruction_keeping: dict[str, Any] = setting(
        {}, "settings of rlhf_loop.instruction_keeping, a JSON object", how=HOW
    )
    evaluate: dict[str, Any] = setting({}, "settings of rlhf_loop.evaluate, a JSON object", how=HOW)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_odd_stages()
        self._refuse_own_files()
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
        if "temperature" in self.stages and "temperature" in self.rejection:
            raise ValueError(
                f"rejection names temperature {self.rejection['temperature']!r}, which the stage "
                "temperature is to pick: leave it out, or name stages without temperature"
            )
        for stage in [stage for stage in self.stages if stage in DATA_FILES]:
            if "rejection" not in self.stages:
                raise ValueError(
                    f"stages has {stage} without rejection, which alone learns from what it builds"
                )
            split = getattr(self, stage).get("split", PromptSplit.TRAIN)
            if split != PromptSplit.TRAIN:
                raise ValueError(
                    f"split of {stage} is {split!r}, allowed is {PromptSplit.TRAIN}: rejection "
                    "learns from what it builds"
                )

    def _refuse_own_files(self) -> None:
        """All stages know the same train and test dialogues, or one would learn what another one
        tests."""
        for stage, name in product(self.stages, ("prompts", "held_out")):
            own: dict[str, Any] = getattr(self, stage)
            if name in own:
                raise ValueError(
                    f"{name} of {stage} is {own[name]!r}, allowed is the round's own {name} for "
                    "all of its stages: name it there"
                )

    def _held_out(self) -> tuple[Path, ...]:
        """The files beside its prompts from which no stage learns."""
        evaluation = self.settings_of("evaluate", self.policy, self.out)
        return self.held_out + from_mapping(EvaluateConfig, evaluation).further_prompts

    def settings_of(self, stage: str, policy: Path, out: Path) -> dict[str, Any]:
        """All settings of one stage that starts from the chat model ``policy``.

        Raises ValueError for a stage that is none.
        """
        if stage not in STAGE_CONFIGS:
            raise ValueError(f"stage is {stage!r}, allowed are {', '.join(STAGE_CONFIGS)}")
        own: dict[str, Any] = getattr(self, stage)
        if stage == "sft":
            given = {"prompts": self.prompts, "held_out": self._held_out(), "out": out}
            return {"seed": self.seed, "model": policy, **own, **given}
        if stage == "dpo":
            given = {"prompts": self.prompts, "held_out": self._held_out(), "out": out}
            return {"seed": self.seed, **own, **given, "policy": policy}
        known = STAGE_CONFIGS[stage].__dataclass_fields__
        shared = {
            name: getattr(self, name) for name in Inputs.__dataclass_fields__ if name in known
        }
        if "held_out" in known:
            shared["held_out"] = self._held_out()
        if "against" in known:
            shared["against"] = self.policy
        if stage == "temperature":
            drawn = from_mapping(RejectionConfig, self.settings_of("rejection", policy, out))
            shared |= {name: getattr(drawn, name) for name in SWEPT_AS_DRAWN}
        return {**shared, **own, "policy": policy, "out": out}


STAGE_CONFIGS: dict[str, type[Settings]] = {
    "sft": SFTConfig,
    "temperature": TemperatureConfig,
    "ghost_attention": GhostAttentionConfig,
    "context_distillation": ContextDistillationConfig,
    "rejection": RejectionConfig,
    "dpo": DPOConfig,
    "ppo": PPOConfig,
    "instruction_keeping": InstructionKeepingConfig,
    "evaluate": EvaluateConfig,
}
TRAINING_STAGES = {"sft", "rejection", "dpo", "ppo"}
DATA_FILES = {
    "ghost_attention": "dialogues.jsonl",
    "context_distillation": "distilled.jsonl",
}
"""The stages that build data, each with the file of it that it leaves. Rejection sampling learns
from them: builders answer with the model that it draws from, which is the latest (section 3.3)."""
SWEPT_AS_DRAWN = ("samples", "top_p", "max_new_tokens", "threshold")
"""What a sweep has from rejection sampling, which draws at the temperature that it picks."""
RANKED_STAGES = TRAINING_STAGES | {"temperature"}
"""Those whose work several processes can share."""
COMMAND_CONFIGS: dict[str, type[Settings]] = {
    **STAGE_CONFIGS,
    "sampling": SamplingConfig,
    "task_accuracy": TaskAccuracyConfig,
}


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Settings):
    """Run a finished round, or one of its stages, again and compare what comes out bit for bit."""

    run: Path = setting(REQUIRED, "folder of the round or of the stage, as it was left")
    out: Path = setting(REQUIRED, "folder to run it again in; started again it goes on")
    stages: tuple[str, ...] = setting((), "which of the round's stages; all when not given")
