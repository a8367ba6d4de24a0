"""PPO against two reward models: ``python -m rlhf_loop.ppo`` (Llama 2, section 3.2.3).

Each iteration: answer a batch of train prompts; score the answers with both reward models and
combine them; whiten; take the KL penalty off token by token; estimate advantages; one gradient step
per minibatch. The policy with the best mean score on validation prompts is kept.

Every random choice derives from the seed and the iteration's number, so a run that was killed
repeats what was lost exactly. Left out on purpose: an adaptive KL coefficient and an entropy bonus
(the paper has neither), a separate value network (the value head sits on the policy, as in
lm-human-preferences), and dropout (the first ratio of an iteration must be 1).
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward.run_folder import RunFolder, RunFolderBusy, replace_folder, whole_folder
from reward.settings import parse, to_mapping
from reward.training_state import load_state, save_state
from rlhf_loop.advantages import masked_mean
from rlhf_loop.config import PPOConfig
from rlhf_loop.figures import STEP_FIGURES, rollout_figures, step_figures
from rlhf_loop.policy import (
    Drawing,
    ValueHead,
    chunks,
    load_chat_model,
    optimizer_groups,
    response_logits,
    response_logprobs,
    row_seed,
    save_chat_model,
)
from rlhf_loop.prompts import Prompt, PromptSplit, read_prompts
from rlhf_loop.rollout import (
    RewardModels,
    Rollout,
    Targets,
    collect,
    learning_targets,
    sample_and_score,
    take,
)

# --- the losses --------------------------------------------------------------------------------


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float
) -> Tensor:
    """The clipped surrogate of PPO (Schulman et al. 2017, equation 7), to be minimised.

    All (B, T); ``old_logprobs`` are those of the policy that wrote the tokens, mask True where a
    token counts. Returns the mean over those tokens, ().
    """
    ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()  # (B, T)
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * clipped), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float
) -> Tensor:
    """Half the larger of the squared errors of the value and of the clipped value.

    All (B, T), mask True where a token counts. The clipped value lies within ``cliprange_value`` of
    the value at rollout (lm-human-preferences). Returns the mean over those tokens, ().
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    squares = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)  # (B, T)
    return 0.5 * masked_mean(squares, mask)


# --- learning ------------------------------------------------------------------------------------


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


class Learner:
    """The policy with its value head and optimiser, the policy it started from, and the judges."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.policy, self.tokenizer = load_chat_model(config.policy, config.device)
        self.reference, _ = load_chat_model(config.policy, config.device)
        self.reference.requires_grad_(False)
        hidden = self.policy.config.get_text_config().hidden_size
        self.value_head = ValueHead(hidden).to(self.policy.device)
        self.rewards = RewardModels(config.helpfulness, config.safety, config.threshold, config)
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(self.policy, config.weight_decay)
            + optimizer_groups(self.value_head, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
        )
        self.drawing = Drawing(config.max_new_tokens, config.temperature)

    def collect(self, prompts: Sequence[Prompt], iteration: int) -> Rollout:
        """Answers of the policy as it is now to this iteration's prompts."""
        seeds = [row_seed(self.config.seed, "ppo", iteration, i) for i in range(len(prompts))]
        return collect(
            self.policy, self.reference, self.value_head, self.tokenizer, self.rewards,
            prompts, seeds, self.drawing, self.config,
        )  # fmt: skip

    def update(self, rollout: Rollout, targets: Targets, iteration: int) -> dict[str, float]:
        """One gradient step per minibatch; returns the means of the steps' figures."""
        steps = []
        for rows in self._minibatches(len(rollout.scores), iteration):
            steps.append(self._step(rollout, targets, rows.to(rollout.mask.device)))
        figures = {name: sum(s[name] for s in steps) / len(steps) for name in steps[0]}
        return {**figures, "ppo/ratio/first_error": steps[0]["ppo/ratio/error"]}

    def _minibatches(self, count: int, iteration: int) -> Iterator[Tensor]:
        for epoch in range(self.config.epochs):
            seed = row_seed(self.config.seed, "minibatches", iteration, epoch)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
            yield from (order[part] for part in chunks(count, self.config.minibatch))

    def _step(self, rollout: Rollout, targets: Targets, rows: Tensor) -> dict[str, float]:
        """One gradient step on a minibatch, a part of it through the model at a time.

        The losses are means over the minibatch's tokens, however it is cut into parts.
        """
        tokens = int(targets.mask[rows].sum())
        if tokens == 0:
            return {name: 1.0 if name == "ppo/ratio" else 0.0 for name in STEP_FIGURES}
        self.optimizer.zero_grad(set_to_none=True)
        figures = dict.fromkeys(STEP_FIGURES, 0.0)
        for part in chunks(len(rows), self.config.forward_rows):
            share = int(targets.mask[rows[part]].sum()) / tokens
            loss, found = self._losses(rollout, targets, rows[part])
            (share * loss).backward()  # type: ignore[no-untyped-call]
            for name, value in found.items():
                figures[name] += share * value
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return {**figures, "ppo/grad_norm": float(norm)}

    def _losses(
        self, rollout: Rollout, targets: Targets, rows: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        config, batch = self.config, take(rollout, rows)
        width = batch.mask.shape[1]
        advantages, returns, mask = (field[rows, :width] for field in targets[:3])
        logits, hidden = response_logits(
            self.policy, batch.query, batch.query_mask, batch.response, batch.mask
        )
        logprobs = response_logprobs(logits, batch.response, config.temperature)  # (B, T)
        values = self.value_head(hidden)  # (B, T)
        policy = policy_loss(logprobs, batch.logprobs, advantages, mask, config.cliprange)
        value = value_loss(values, batch.values, returns, mask, config.cliprange_value)
        with torch.no_grad():
            figures = step_figures(batch, logits, logprobs, values, mask, config)
        figures |= {"ppo/loss/policy": policy.item(), "ppo/loss/value": value.item()}
        return policy + config.vf_coef * value, figures

    def validate(self, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Mean scores on validation prompts, always with the same random numbers."""
        seeds = [row_seed(self.config.seed, "validation", prompt.id) for prompt in prompts]
        _, _, scores = sample_and_score(
            self.policy, self.tokenizer, self.rewards, prompts, seeds, self.drawing, self.config
        )
        return {
            "eval/scores": scores.combined.mean().item(),
            "eval/helpfulness": scores.helpfulness.mean().item(),
            "eval/safety": scores.safety.mean().item(),
        }

    def learnt(self) -> torch.nn.ModuleDict:
        """What learns, and so belongs into a checkpoint."""
        return torch.nn.ModuleDict({"policy": self.policy, "value_head": self.value_head})


# --- the run -------------------------------------------------------------------------------------


@dataclass
class Standing:
    """How far a run is, and which policy was best so far."""

    iteration: int = 0
    best_iteration: int = 0
    best_score: float = float("-inf")
    validations_since_best: int = 0


def train(config: PPOConfig) -> dict[str, Any]:
    """Run PPO to its end, from the last checkpoint if there is one; returns the run's result.

    Raises ValueError where the prompts file has no train or no validation prompts, RunFolderBusy
    when another process runs in the same folder.
    """
    run = RunFolder(config.out)
    with run.locked():
        run.write_config(to_mapping(config))
        finished = run.result()
        if finished is not None:
            return finished
        train_prompts = _prompts(config, PromptSplit.TRAIN)
        validation = _prompts(config, PromptSplit.VALIDATION)[: config.validation_prompts]
        learner = Learner(config)
        standing = _resume(run, learner)
        if standing is None:
            standing = Standing()
            _judge(run, learner, validation, standing, {})
            _save(run, learner, standing)
        while standing.iteration < config.iterations and not _has_stopped(standing, config):
            standing.iteration += 1
            figures = _iterate(learner, train_prompts, standing.iteration)
            if _validates(standing.iteration, config):
                _judge(run, learner, validation, standing, figures)
            else:
                run.log_metrics(standing.iteration, config.iterations, **figures)
            if standing.iteration % config.checkpoint_every == 0:
                _save(run, learner, standing)
        return _finish(run, learner, standing)


def _prompts(config: PPOConfig, split: PromptSplit) -> list[Prompt]:
    prompts = list(read_prompts(config.prompts, split))
    if not prompts:
        raise ValueError(f"{config.prompts} has no {split} prompts, and PPO needs one or more")
    return prompts


def _iterate(learner: Learner, prompts: Sequence[Prompt], iteration: int) -> dict[str, float]:
    config, started = learner.config, time.monotonic()
    batch = batch_prompts(prompts, config.batch, iteration, config.seed)
    rollout = learner.collect(batch, iteration)
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


def _has_stopped(standing: Standing, config: PPOConfig) -> bool:
    return standing.validations_since_best >= config.patience


def _judge(
    run: RunFolder,
    learner: Learner,
    prompts: Sequence[Prompt],
    standing: Standing,
    figures: dict[str, float],
) -> None:
    """Validate, log, and keep the policy in ``best/`` where it is the best so far."""
    found = learner.validate(prompts)
    run.log_metrics(standing.iteration, learner.config.iterations, **figures, **found)
    if found["eval/scores"] > standing.best_score:
        standing.best_score, standing.best_iteration = found["eval/scores"], standing.iteration
        standing.validations_since_best = 0
        replace_folder(
            _best(run), lambda folder: save_chat_model(learner.policy, learner.tokenizer, folder)
        )
    else:
        standing.validations_since_best += 1


def _best(run: RunFolder) -> Path:
    return run.path / "best"


def _save(run: RunFolder, learner: Learner, standing: Standing) -> None:
    learnt, position = learner.learnt(), asdict(standing)
    run.save_checkpoint(lambda folder: save_state(folder, learnt, learner.optimizer, position))


def _resume(run: RunFolder, learner: Learner) -> Standing | None:
    """Where the last checkpoint stood, its weights put back; None where there is none."""
    checkpoint = run.resumable_checkpoint()
    if checkpoint is None:
        run.rewind_metrics(-1)
        return None
    standing = Standing(**load_state(checkpoint, learner.learnt(), learner.optimizer))
    run.rewind_metrics(standing.iteration)
    return standing


def _finish(run: RunFolder, learner: Learner, standing: Standing) -> dict[str, Any]:
    """``best/`` becomes ``model/``, and the result is written last."""
    best = whole_folder(_best(run))
    if best is not None:  # None: a run killed right here had moved it already
        shutil.rmtree(run.model, ignore_errors=True)
        best.rename(run.model)
    run.write_result(
        {
            "model": "model",
            "iterations": standing.iteration,
            "best_iteration": standing.best_iteration,
            "eval/scores": standing.best_score,
            "stopped_early": standing.iteration < learner.config.iterations,
        }
    )
    return run.result() or {}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(PPOConfig, "rlhf_loop.ppo", argv)
    try:
        result = train(config)
    except (ValueError, OSError, RunFolderBusy) as error:
        sys.exit(str(error))
    print(f"best after iteration {result['best_iteration']}, score {result['eval/scores']:.3f}")


if __name__ == "__main__":
    main()
