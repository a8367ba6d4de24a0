"""AdamW as everything here is trained with it: what it decays, its rate, its clipped steps."""

from __future__ import annotations

import math
from typing import Any

import torch

from reward import fsdp
from reward.config import AdamW


def build_optimiser(module: torch.nn.Module, config: AdamW) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves vectors (norms, biases) alone."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
    )


def cosine_share(progress: float, final: float) -> float:
    """From 1 at ``progress`` 0 along half a cosine to ``final`` at 1."""
    return final + (1 - final) / 2 * (1 + math.cos(math.pi * progress))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the steps from now on, of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def clip_gradients(module: torch.nn.Module, config: AdamW) -> float:
    """Scale a model's gradients down to the longest norm allowed; returns the norm before, that of
    all ranks' parts together."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
    return float(fsdp.whole(norm).item())


def refuse_not_finite(when: str, **figures: float) -> None:
    """Raises ValueError where a step's figure is not finite: called before the step is taken, it
    keeps the weights as they were."""
    if not all(map(math.isfinite, figures.values())):
        said = " and ".join(f"{name} is {value}" for name, value in figures.items())
        raise ValueError(
            f"{said} {when}, allowed are finite numbers; the weights were left as they were"
        )
