"""Optimiser steps that resume: what fine-tuning on answers and DPO have in common.

Behind a launcher several ranks take the steps together (docs/launching.md), each with its own part
of every batch. AdamW, warm-up, clipping, a line of figures for each step, and checkpoints from
which the finished weights come out bit for bit as if nobody had stopped the run. Every step's data
follows from the seed, and nothing else is random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from reward import fsdp, ranks
from reward.model import recompute_activations
from reward.optimiser import (
    build_optimiser,
    clip_gradients,
    cosine_share,
    refuse_not_finite,
    set_rate,
)
from reward.run_folder import RunFolder, replace_folder
from reward.training_state import load_state, save_state
from rlhf_loop.config import Optimisation, Training
from rlhf_loop.learning.likelihood import Reading, reading
from rlhf_loop.policy import save_chat_model

Batch = TypeVar("Batch")


def learning_rate(step: int, steps: int, config: Optimisation) -> float:
    """The learning rate of step 0 … steps - 1: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * cosine_share(progress, config.final_learning_rate_share)


@contextmanager
def divided(model: Any, device: torch.device, config: Training) -> Iterator[Reading]:
    """The model read in the best way it can be, its weights divided among the ranks.

    Raises ValueError for several ranks, or bfloat16, and a model whose head cannot be read alone,
    and for one that cannot compute its activations again where it shall.
    """
    with reading(model, config.train_dtype) as read:
        if read.way == "whole" and ranks.count() > 1:
            raise ValueError(
                f"{type(model).__name__} makes its logits in a way that is not known here; "
                "one process can train it, several cannot"
            )
        if config.recompute_activations:
            recompute_activations(model)
        fsdp.divide_weights(read.policy, [read.policy], device, config.train_dtype)
        yield read


def leave_model(model: Any, tokenizer: Any, run: RunFolder) -> None:
    """Save what was learnt as the run's ``model/``, all ranks' parts put together."""
    state = fsdp.whole_state(model) if ranks.count() > 1 else None
    if ranks.is_first():
        save = partial(save_chat_model, model, tokenizer, state=state)
        replace_folder(run.model, save)


def optimise(
    model: Any,
    config: Optimisation,
    batches: Sequence[Batch],
    gradients: Callable[[Batch], dict[str, float]],
    run: RunFolder,
    first_step: int = 0,
) -> dict[str, float]:
    """One optimiser step for each batch, from the run's last checkpoint on if there is one.

    ``gradients`` adds a batch's gradients to the model's and returns its figures. ``first_step`` is
    added to the steps that are logged. Returns the last step's figures. Raises ValueError for a
    gradient that is not finite.
    """
    optimiser = build_optimiser(model, config)
    if config.warmup_steps > len(batches):
        highest = learning_rate(len(batches) - 1, len(batches), config)
        print(
            f"warmup_steps is {config.warmup_steps} and there are {len(batches)} steps: the "
            f"learning rate comes to {highest:.3g} of {config.learning_rate:.3g}.",
            flush=True,
        )
    done, figures = _resume(run, model, optimiser), dict[str, float]()
    run.rewind_metrics(first_step + done)
    for number, batch in enumerate(batches[done:], start=done):
        rate = learning_rate(number, len(batches), config)
        set_rate(optimiser, rate)
        figures = gradients(batch)
        norm = clip_gradients(model, config)
        refuse_not_finite(f"at step {number + 1}", gradient_norm=norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        figures |= {"grad_norm": norm, "lr": rate}
        run.log_metrics(first_step + number + 1, first_step + len(batches), **figures)
        # After the last step the model itself is saved; a checkpoint would only lose its figures.
        if (number + 1) % config.checkpoint_every_steps == 0 and number + 1 < len(batches):
            state = partial(save_state, model=model, optimiser=optimiser)
            run.save_checkpoint(ranks.together(partial(state, position={"step": number + 1})))
    return figures


def _resume(run: RunFolder, model: Any, optimiser: torch.optim.Optimizer) -> int:
    checkpoint = ranks.first_then_all(run.resumable_checkpoint)
    if checkpoint is None:
        return 0
    step = int(load_state(checkpoint, model, optimiser)["step"])
    print(f"Resuming after step {step}.", flush=True)
    return step
