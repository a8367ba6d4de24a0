"""The settings of every command of the round: one frozen dataclass each. Standard library only.

The paper is Llama 2 (Touvron et al. 2023); where it gives no number the source named is the public
code of its ancestor, lm-human-preferences (Ziegler et al. 2019), or "our choice". The defaults are
the paper's sizes; a small model wants a smaller batch and a larger learning rate.
"""

from rlhf_loop.config.common import Inputs, Scoring, ServedPolicy, Training, inputs_of
from rlhf_loop.config.dialogues import ContextDistillationConfig, GhostAttentionConfig
from rlhf_loop.config.evaluation import (
    EvaluateConfig,
    GateConfig,
    InstructionKeepingConfig,
    Measure,
    TaskAccuracyConfig,
)
from rlhf_loop.config.ppo import PPOConfig
from rlhf_loop.config.round import (
    COMMAND_CONFIGS,
    DATA_FILES,
    RANKED_STAGES,
    STAGE_CONFIGS,
    TRAINING_STAGES,
    ReplayConfig,
    RoundConfig,
)
from rlhf_loop.config.sampling import RejectionConfig, SamplingConfig, TemperatureConfig
from rlhf_loop.config.tuning import (
    DPOConfig,
    FineTuning,
    LearntAnswers,
    Optimisation,
    SFTConfig,
)

__all__ = [
    "COMMAND_CONFIGS",
    "DATA_FILES",
    "RANKED_STAGES",
    "STAGE_CONFIGS",
    "TRAINING_STAGES",
    "ContextDistillationConfig",
    "DPOConfig",
    "EvaluateConfig",
    "FineTuning",
    "GateConfig",
    "GhostAttentionConfig",
    "Inputs",
    "InstructionKeepingConfig",
    "LearntAnswers",
    "Measure",
    "Optimisation",
    "PPOConfig",
    "RejectionConfig",
    "ReplayConfig",
    "RoundConfig",
    "SFTConfig",
    "SamplingConfig",
    "Scoring",
    "ServedPolicy",
    "TaskAccuracyConfig",
    "TemperatureConfig",
    "Training",
    "inputs_of",
]
