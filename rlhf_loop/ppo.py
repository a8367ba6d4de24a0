"""PPO against two reward models: ``python -m rlhf_loop.ppo`` (Llama 2, section 3.2.3).

Each iteration: answer a batch of train prompts; score the answers with both reward models and
combine them; whiten; take the KL penalty off; estimate advantages; one gradient step per minibatch.
The policy with the best mean score on validation prompts is kept, among those within the budget of
divergence where there is one.

Every random choice derives from the seed and the iteration's number, so a run that was killed
repeats what was lost exactly. Behind torchrun several processes train one policy. Left out on
purpose: an adaptive KL coefficient, other estimates of the divergence in the reward (their means
have other gradients), and dropout (the first ratio of an iteration must be 1).
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reward import ranks
from reward.command import command
from reward.run_folder import RunFolder, replace_folder
from reward.training_state import load_state, save_state
from rlhf_loop.config import PPOConfig, inputs_of
from rlhf_loop.learning.figures import rollout_figures
from rlhf_loop.learning.learner import Learner
from rlhf_loop.learning.losses import policy_loss, value_loss
from rlhf_loop.learning.served import remove_served
from rlhf_loop.policy import save_chat_model
from rlhf_loop.prompts import Prompt, PromptSplit, fixed_prompts, learnt_prompts
from rlhf_loop.rollout import learning_targets
from rlhf_loop.room import refuse_without_room

__all__ = ["Learner", "batch_prompts", "main", "policy_loss", "train", "value_loss"]


@dataclass
class Standing:
    """How far a run is, and which policy was best so far."""

    iteration: int = 0
    best_iteration: int = 0
    best_before: int = 0
    """The best iteration until then, which the checkpoint before may name."""
    best_score: float = float("-inf")
    validations_since_best: int = 0
    over_budget: bool = False

    def why_stopped(self, config: PPOConfig) -> str | None:
        """What has ended the run, if anything."""
        if self.over_budget:
            return "kl_budget"
        if self.validations_since_best >= config.patience:
            return "patience"
        return "iterations" if self.iteration >= config.iterations else None


def train(config: PPOConfig) -> dict[str, Any]:
    """Run PPO to its end, from the last checkpoint if there is one; returns the run's result.

    Raises ValueError where the prompts file has no train or no validation prompts, one of them
    leaves no room for an answer, or settings and models do not go together; RunFolderBusy when
    another process runs in the same folder.
    """
    return ranks.once(config.out, config, config.device, partial(_train, config))


def _train(config: PPOConfig, run: RunFolder, device: torch.device) -> dict[str, Any]:
    run.write_provenance(inputs_of(config))
    prompts = _prompts(config, PromptSplit.TRAIN)
    held = _prompts(config, PromptSplit.VALIDATION)
    validation = fixed_prompts(held, config.validation_prompts)
    _refuse_idle_ranks(config, validation)
    refuse_without_room(
        [*prompts, *validation],
        config.max_new_tokens,
        filter(None, [config.policy, config.reference]),
        [config.helpfulness, config.safety],
    )
    learner = Learner(config, device)
    standing = _resume(run, learner)
    if standing is None:
        standing = Standing()
        _judge(run, learner, validation, standing, {})
        _save(run, learner, standing)
    while not standing.why_stopped(config):
        standing.iteration += 1
        figures = _iterate(learner, prompts, standing.iteration)
        if _validates(standing.iteration, config):
            _judge(run, learner, validation, standing, figures)
        else:
            run.log_metrics(standing.iteration, config.iterations, **figures)
        is_best = standing.best_iteration == standing.iteration
        if is_best or standing.iteration % config.checkpoint_every == 0:
            _save(run, learner, standing)
    return _finish(run, learner, standing)


def _prompts(config: PPOConfig, split: PromptSplit) -> list[Prompt]:
    held_out = config.held_out if split is PromptSplit.TRAIN else ()
    prompts = learnt_prompts(config.prompts, split, held_out)
    if not prompts:
        raise ValueError(f"{config.prompts} has no {split} prompts, and PPO needs one or more")
    return prompts


def _refuse_idle_ranks(config: PPOConfig, validation: Sequence[Prompt]) -> None:
    """Every rank has a prompt to answer at least."""
    together = config.answers_per_prompt
    fewest = min(config.batch // together, -(-len(validation) // together))
    if fewest < ranks.count():
        raise ValueError(
            f"{ranks.count()} processes were launched, and there are {fewest} prompts to answer in "
            "a batch or a validation, allowed are as many or more"
        )


def batch_prompts(prompts: Sequence[Prompt], batch: int, iteration: int, seed: int) -> list[Prompt]:
    """The prompts of one iteration (from 1): the next ones of an endless run of shuffled passes."""
    orders: dict[int, list[Prompt]] = {}
    chosen = []
    for number in range((iteration - 1) * batch, iteration * batch):
        epoch, place = divmod(number, len(prompts))
        if epoch not in orders:
            orders[epoch] = random.Random(f"{seed} {epoch}").sample(prompts, len(prompts))
        chosen.append(orders[epoch][place])
    return chosen


def _iterate(learner: Learner, prompts: Sequence[Prompt], iteration: int) -> dict[str, float]:
    config, started = learner.config, time.monotonic()
    together = config.answers_per_prompt
    batch = batch_prompts(prompts, config.batch // together, iteration, config.seed)
    rollout = learner.collect([prompt for prompt in batch for _ in range(together)], iteration)
    collected = time.monotonic()
    targets = learning_targets(rollout, config)
    updated = learner.update(rollout, targets, iteration)
    return {
        **rollout_figures(rollout, targets, config),
        **updated,
        "lr": config.learning_rate,
        "seconds/rollout": round(collected - started, 3),
        "seconds/update": round(time.monotonic() - collected, 3),
    }


def _validates(iteration: int, config: PPOConfig) -> bool:
    return iteration % config.validate_every == 0 or iteration == config.iterations


def _judge(
    run: RunFolder,
    learner: Learner,
    prompts: Sequence[Prompt],
    standing: Standing,
    figures: dict[str, float],
) -> None:
    """Validate, log, and keep the policy beside the best one before where it is the best so far:
    only a checkpoint says which of them is meant, so that result and model agree after any kill.

    One beyond the budget of divergence is never the best, and ends the run. Raises ValueError where
    the first one is, before any step.
    """
    found = learner.validate(prompts, standing.iteration)
    config, budget = learner.config, learner.config.kl_budget
    standing.over_budget = budget is not None and found["eval/kl"] > budget
    if standing.over_budget and standing.iteration == 0:
        raise ValueError(
            f"before any step the policy is further from {config.reference} than kl_budget "
            f"{budget} allows"
        )
    run.log_metrics(standing.iteration, config.iterations, **figures, **found)
    if found["eval/scores"] > standing.best_score and not standing.over_budget:
        standing.best_before, standing.best_iteration = standing.best_iteration, standing.iteration
        standing.best_score, standing.validations_since_best = found["eval/scores"], 0
        with learner.whole_policy() as policy:
            if ranks.is_first():
                kept = _best(run, standing.iteration)
                replace_folder(kept, partial(save_chat_model, policy, learner.tokenizer))
        ranks.wait()
    else:
        standing.validations_since_best += 1


def _best(run: RunFolder, iteration: int) -> Path:
    return run.path / "best" / str(iteration)


def _save(run: RunFolder, learner: Learner, standing: Standing) -> None:
    """A checkpoint; of the policies in ``best/`` those stay that it or the one before names."""
    learnt, position = learner.learnt(), asdict(standing)
    run.save_checkpoint(
        ranks.together(lambda folder: save_state(folder, learnt, learner.optimiser, position))
    )
    if ranks.is_first():
        named = {_best(run, n) for n in (standing.best_iteration, standing.best_before)}
        for folder in set((run.path / "best").glob("*")) - named:
            shutil.rmtree(folder)


def _resume(run: RunFolder, learner: Learner) -> Standing | None:
    """Where the last checkpoint stood, its weights put back; None where there is none."""
    checkpoint = ranks.first_then_all(run.resumable_checkpoint)
    if checkpoint is None:
        run.rewind_metrics(-1)
        return None
    standing = Standing(**load_state(checkpoint, learner.learnt(), learner.optimiser))
    run.rewind_metrics(standing.iteration)
    return standing


def _finish(run: RunFolder, learner: Learner, standing: Standing) -> dict[str, Any]:
    """The best policy becomes ``model/``; returns the result, which is written last."""
    if ranks.is_first():
        best = _best(run, standing.best_iteration)
        if best.exists():  # a run killed right here had moved it already
            shutil.rmtree(run.model, ignore_errors=True)
            best.rename(run.model)
        shutil.rmtree(best.parent, ignore_errors=True)
        remove_served(run.path)
    stopped_by = standing.why_stopped(learner.config)
    return {
        "model": "model",
        "iterations": standing.iteration,
        "best_iteration": standing.best_iteration,
        "eval/scores": standing.best_score,
        "stopped_early": standing.iteration < learner.config.iterations,
        "stopped_by": stopped_by,
        "ranks": ranks.count(),
    }


def _run(config: PPOConfig) -> str:
    with ranks.explaining(config.out, config):
        result = train(config)
    if not result:
        return ""  # another rank's to tell
    return f"best after iteration {result['best_iteration']}, score {result['eval/scores']:.3f}"


main = command(PPOConfig, "rlhf_loop.ppo", _run, has_ranks=True)


if __name__ == "__main__":
    main()
