"""The policy that PPO trains, what it is compared with and judged by, and one update of it.

A batch's answers go through the models as prefix trees, each distinct token once; reference
log-probabilities and values are computed once for a batch. Behind a launcher every rank answers its
own part of the prompts; what all have found is put together, so that whitening and advantages are
of the whole batch on each, and every minibatch is divided again. B answers, N tokens in a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reward import fsdp, ranks
from reward.minibatches import minibatches
from reward.model import (
    kept_activations,
    load_reward_model,
    recompute_activations,
    score_states,
)
from reward.optimiser import build_optimiser, clip_gradients, refuse_not_finite
from reward.trunk import Tails, own_attention, share_prefixes, shares_prefixes, states_at
from rlhf_loop.config import PPOConfig
from rlhf_loop.engines import Here
from rlhf_loop.learning.figures import (
    MEANS,
    OF_RECOMPUTED,
    VALUE_MEANS,
    StepFigures,
    policy_figures,
    value_figures,
)
from rlhf_loop.learning.likelihood import (
    Policy,
    answer_logprobs,
    entropies,
    next_token_logits,
    refuse_other_heads,
    spread_out,
    vocabulary_chunks,
)
from rlhf_loop.learning.losses import policy_loss, value_loss
from rlhf_loop.learning.served import serve_weights
from rlhf_loop.policy import (
    Answer,
    Drawing,
    ValueHead,
    chunks,
    load_chat_model,
    prompt_tokens,
    refuse_other_words,
    row_seed,
)
from rlhf_loop.prompts import Prompt
from rlhf_loop.rollout import (
    RewardModels,
    Rollout,
    Scores,
    Targets,
    begin_rollout,
    of_all_ranks,
    penalised_scores,
    sample_and_score,
)
from rlhf_loop.serving import Address

REUSABLE = 1e-4  # largest error, nats, at which the log-probabilities of drawing are taken
CHECKED_SHARE, CHECKED_LEAST = 16, 4  # of the answers one in 16 is computed again, at least 4


class Actor(Policy):
    """The policy with, where values are learnt on its trunk, a value head."""

    def __init__(self, model: Any, has_values: bool, dtype: str) -> None:
        super().__init__(model, dtype)
        hidden = model.config.get_text_config().hidden_size
        self.value_head = ValueHead(hidden).to(model.device) if has_values else None


class Part(NamedTuple):
    """Answers that go through a model together."""

    rows: list[int]
    tails: Tails


class Learner:
    """The policy and its optimiser, the values, the reference, and the reward models."""

    def __init__(self, config: PPOConfig, device: torch.device) -> None:
        self.config, self.device, self.dtype = config, device, config.train_dtype
        model, self.tokenizer = _load_policy(config.policy, device)
        on_trunk = config.advantage == "gae" and config.value == "trunk"
        self.actor = Actor(model, on_trunk, self.dtype)
        self.writer = fsdp.empty_copy(self.actor)
        self.critic = _load_critic(config, self.tokenizer, device)
        self.valuer = fsdp.empty_copy(self.critic) if self.critic else None
        self.reference, other = _load_policy(config.reference or config.policy, device)
        if config.reference is not None:
            refuse_other_words(self.tokenizer, other, str(config.reference))
        self.reference.requires_grad_(False)
        self._reference_rows = fsdp.put_away(self.reference)
        self.rewards = RewardModels(config.helpfulness, config.safety, config.threshold, config)
        if config.recompute_activations:
            for trained in filter(None, (self.actor.model, self.critic)):
                recompute_activations(trained)
        fsdp.divide_weights(self.actor, [self.actor], device, self.dtype)
        if self.critic is not None:
            fsdp.place(self.critic, device, self.dtype)
        self.optimiser = build_optimiser(self.learnt(), config)
        self.drawing = Drawing(config.max_new_tokens, config.temperature)
        self._served: Address | None = None  # which serves the weights as they are

    def learnt(self) -> torch.nn.ModuleDict:
        """What learns, and so belongs into a checkpoint."""
        return torch.nn.ModuleDict(
            {"actor": self.actor, **({"critic": self.critic} if self.critic else {})}
        )

    @contextmanager
    def whole_policy(self) -> Iterator[Any]:
        """The policy's model with all of its weights, to draw from or to be saved."""
        with fsdp.gathered(self.writer, self.actor.parameters()):
            yield self.writer.model

    # --- a batch of answers ------------------------------------------------------------------

    def collect(self, prompts: Sequence[Prompt], iteration: int) -> Rollout:
        """Answers of the policy as it is now to this iteration's prompts, all ranks' together."""
        seeds = [row_seed(self.config.seed, "ppo", iteration, i) for i in range(len(prompts))]
        order = batch_order(len(prompts), self.config, iteration, 0)
        checked = max(len(order) // CHECKED_SHARE, CHECKED_LEAST)
        valued = self.config.advantage == "gae"
        return self._collect(prompts, seeds, order[:checked], valued, iteration - 1)

    def _collect(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        checked: Sequence[int],
        valued: bool,
        learnt_iterations: int,
    ) -> Rollout:
        own = self._own(range(len(prompts)))
        asked, own_seeds = [prompts[i] for i in own], [seeds[i] for i in own]
        there, chosen = None, set(checked)
        if self.config.address is not None:  # meanwhile no rank keeps the whole policy
            there = self._drawn_there(asked, own_seeds, learnt_iterations)
        with self.whole_policy() as model:
            answers, scores = there or self._drawn_here(model, asked, own_seeds)
            queries = [prompt_tokens(self.tokenizer, prompt.messages) for prompt in asked]
            rollout = begin_rollout(asked, queries, answers, scores, self.device)
            drawn = [answer.logprobs for answer in answers]
            sample = [place for place, i in enumerate(own) if i in chosen]
            with fsdp.as_divided(self.writer, self.dtype):
                rollout = self._recall(rollout, drawn, sample, valued)
        self._compare(rollout)
        if valued and self.critic is not None:
            whole = fsdp.gathered(self.valuer, self.critic.parameters())
            with whole, fsdp.as_divided(self.valuer, self.dtype):
                self._estimate(rollout)
        return of_all_ranks(rollout, own, len(prompts))

    def _drawn_here(
        self, model: Any, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> tuple[list[Answer], Scores]:
        engine = Here(model, self.tokenizer, self.config.generation_rows)
        with own_attention(model), kept_activations(model):
            answers, _, scores = sample_and_score(
                engine, self.rewards, prompts, seeds, self.drawing
            )
        return answers, scores

    def _drawn_there(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], learnt_iterations: int
    ) -> tuple[list[Answer], Scores]:
        if self._served is None:
            with self.whole_policy() as model, own_attention(model), kept_activations(model):
                self._served = serve_weights(self.config, model, self.tokenizer, learnt_iterations)
        answers, _, scores = sample_and_score(
            self._served, self.rewards, prompts, seeds, self.drawing
        )
        return answers, scores

    @torch.no_grad()
    def _recall(
        self,
        rollout: Rollout,
        drawn: Sequence[list[float] | None],
        sample: Sequence[int],
        valued: bool,
    ) -> Rollout:
        """Fill in the policy's log-probabilities, those of drawing where they can be taken, and
        the values where its trunk carries them."""
        reuse = self._take_drawn(rollout, drawn, sample)
        head = self.writer.value_head if valued else None
        if reuse and head is None:
            return self._told(rollout, sample)
        for part in self._parts(range(len(rollout.responses)), rollout):
            states = self.writer(part.tails)
            if not reuse:
                self._fill_logprobs(rollout.logprobs, rollout, part, self.writer.model, states)
            if head is not None:
                rollout.fill(rollout.values, part.rows, head(states))
        return self._told(rollout, sample if reuse else range(len(rollout.responses)))

    def _told(self, rollout: Rollout, rows: Sequence[int]) -> Rollout:
        """The rollout that says of these rows that their log-probabilities were recomputed."""
        recomputed = torch.zeros_like(rollout.finished)
        recomputed[list(rows)] = True
        return rollout._replace(recomputed=recomputed)

    def _take_drawn(
        self, rollout: Rollout, drawn: Sequence[list[float] | None], sample: Sequence[int]
    ) -> bool:
        """Take the log-probabilities of drawing if those of the ``sample``, computed again, are the
        same to REUSABLE on all ranks; the sample's stay as computed."""
        known = self.config.reuse_logprobs and all(row is not None for row in drawn)
        error = 0.0 if known else math.inf
        if known:
            every = [value for row in drawn if row is not None for value in row]
            flat = torch.tensor(every, device=self.device)
            rollout.fill(rollout.logprobs, range(len(drawn)), flat)
            before = rollout.flat(rollout.logprobs, sample)
            for part in self._parts(sample, rollout):
                states = self.writer(part.tails)
                self._fill_logprobs(rollout.logprobs, rollout, part, self.writer.model, states)
            apart = (rollout.flat(rollout.logprobs, sample) - before).abs()
            error = apart.max().item() if len(apart) else 0.0
        return ranks.largest(error) <= REUSABLE

    @torch.no_grad()
    def _compare(self, rollout: Rollout) -> None:
        """Fill in the reference's log-probabilities."""
        whole = fsdp.gathered(self.reference, self._reference_rows)
        with whole, fsdp.as_divided(self.reference, self.dtype):
            for part in self._parts(range(len(rollout.responses)), rollout):
                states = states_at(self.reference, part.tails, self.dtype)
                self._fill_logprobs(rollout.ref_logprobs, rollout, part, self.reference, states)

    @torch.no_grad()
    def _estimate(self, rollout: Rollout) -> None:
        """Fill in the values of a model of their own."""
        for part in self._parts(range(len(rollout.responses)), rollout):
            values = score_states(self.valuer, states_at(self.valuer, part.tails, self.dtype))
            rollout.fill(rollout.values, part.rows, values)

    def _fill_logprobs(
        self, field: Tensor, rollout: Rollout, part: Part, model: Any, states: Tensor
    ) -> None:
        tokens = self._tokens(rollout, part.rows)
        found = answer_logprobs(model, states, tokens, self.config.temperature)
        rollout.fill(field, part.rows, found)

    def _tokens(self, rollout: Rollout, rows: Sequence[int]) -> Tensor:
        """(N,) the response tokens of these rows."""
        return torch.tensor([t for i in rows for t in rollout.responses[i]], device=self.device)

    def _parts(self, rows: Sequence[int], rollout: Rollout) -> list[Part]:
        """These rows, as many together as ``tokens_per_minibatch`` allows.

        A response's last token is no input: nothing after it is asked for.
        """
        inputs = [[*rollout.queries[i], *rollout.responses[i][:-1]] for i in rows]
        shared = shares_prefixes(self.writer.model)
        found = []
        for places, _ in minibatches(
            [[row] for row in inputs], self.config.tokens_per_minibatch, shared
        ):
            counts = [len(rollout.responses[rows[i]]) for i in places]
            tails = Tails([inputs[i] for i in places], counts, self.device)
            found.append(Part([rows[i] for i in places], tails))
        return found

    def _own(self, rows: Sequence[int]) -> list[int]:
        """Those of the answers that are this rank's, the answers to a prompt together."""
        prompts = {
            prompt: n for n, prompt in enumerate(dict.fromkeys(self._prompt(i) for i in rows))
        }
        return [i for i in rows if prompts[self._prompt(i)] % ranks.count() == ranks.rank()]

    def _prompt(self, row: int) -> int:
        return row // self.config.answers_per_prompt

    # --- learning ----------------------------------------------------------------------------

    def update(self, rollout: Rollout, targets: Targets, iteration: int) -> dict[str, float]:
        """One gradient step per minibatch; returns the means of the steps' figures.

        ``ppo/ratio/first_error`` is the first step's alone, of recomputed answers: before any
        update every ratio is 1. It is left out where that step had none.
        """
        self._served = None
        steps = [
            self._step(rollout, targets, rows)
            for epoch in range(self.config.epochs)
            for rows in minibatch_rows(len(rollout.responses), self.config, iteration, epoch)
        ]
        first = steps[0].get(OF_RECOMPUTED)
        taken = [step for step in steps if step]
        names = [name for name in taken[0] if name != OF_RECOMPUTED]
        figures = {name: sum(step[name] for step in taken) / len(taken) for name in names}
        return figures if first is None else {**figures, "ppo/ratio/first_error": first}

    def _step(self, rollout: Rollout, targets: Targets, rows: Sequence[int]) -> dict[str, float]:
        """One gradient step on a minibatch, a part of it through the model at a time.

        The losses are means over the minibatch's tokens, however it is cut into parts and over
        ranks. A minibatch of which nothing counts is none, and has no figures.
        """
        counted = [i for i in rows if bool(targets.counted[i])]
        tokens = sum(len(rollout.responses[i]) for i in counted)
        if not tokens:
            return {}
        figures, parts = StepFigures(), self._parts(self._own(counted), rollout)
        for part in parts:
            self._learn_policy(part, rollout, targets, tokens, figures)
        fsdp.keep_step(self.actor, self._idle_actor)
        if self.critic is not None:
            for part in parts:
                self._learn_values(part, rollout, targets, tokens, figures)
            fsdp.keep_step(self.critic, self._idle_critic)
        norms = self._apply()
        names = MEANS + (VALUE_MEANS if self.config.advantage == "gae" else ())
        return {**figures.whole(names), **norms}

    def _apply(self) -> dict[str, float]:
        """Clip the gradients, a model's own each, and take the step; returns the norms before.

        Raises ValueError where one is not finite: the weights stay as they were.
        """
        models = {"ppo/grad_norm": self.actor, "ppo/val/grad_norm": self.critic}
        norms = {
            name: clip_gradients(model, self.config)
            for name, model in models.items()
            if model is not None
        }
        refuse_not_finite("before a gradient step", **norms)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)  # drawing and scoring have their memory
        return norms

    def _learn_policy(
        self, part: Part, rollout: Rollout, targets: Targets, tokens: int, figures: StepFigures
    ) -> None:
        """Add a part's gradient, of the policy and of the values on its trunk.

        Head and losses go a chunk of the vocabulary's logits at a time, forth and back, as if the
        states were given; then the states' gradient goes back through the trunk.
        """
        states = self.actor(part.tails)  # (N, H)
        given = states.detach().requires_grad_()
        asked = self._tokens(rollout, part.rows)
        rows = torch.zeros_like(rollout.mask) | rollout.recomputed[:, None]
        fields = (rollout.logprobs, targets.advantages, rows, rollout.values, targets.returns)
        columns = [rollout.flat(field, part.rows) for field in fields]  # (N,) each
        for some in vocabulary_chunks(self.actor.model, len(asked)):
            old, advantages, recomputed, old_values, returns = (c[some] for c in columns)
            share = len(old) / tokens
            logprobs, entropy = self._distribution(given[some], asked[some])
            everywhere = torch.ones_like(recomputed)
            loss = policy_loss(logprobs, old, advantages, everywhere, self.config.cliprange)
            figures.add(share, {"ppo/loss/policy": loss})
            figures.add(share, policy_figures(logprobs, old, entropy.detach(), self.config))
            figures.compare(((logprobs.detach() - old).exp() - 1).abs(), recomputed)
            loss = loss - self.config.entropy_coef * entropy.mean()
            if self.actor.value_head is not None:
                values = self.actor.value_head(given[some])
                loss = loss + self._value_loss(values, old_values, returns, share, figures)
            (share * loss).backward()  # type: ignore[no-untyped-call]
        states.backward(given.grad)

    def _distribution(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) log-probabilities of the tokens and (N,) entropies."""
        logits = next_token_logits(self.actor.model, states, self.config.temperature)
        logprobs, spread = spread_out(logits, tokens)
        with torch.set_grad_enabled(self.config.entropy_coef > 0):
            return logprobs, entropies(spread)

    def _learn_values(
        self, part: Part, rollout: Rollout, targets: Targets, tokens: int, figures: StepFigures
    ) -> None:
        """Add a part's gradient of the values of a model of their own."""
        states = states_at(self.critic, part.tails, self.dtype)
        values = score_states(self.critic, states)  # (N,)
        old = rollout.flat(rollout.values, part.rows)
        returns = rollout.flat(targets.returns, part.rows)
        share = len(values) / tokens
        (share * self._value_loss(values, old, returns, share, figures)).backward()  # type: ignore[no-untyped-call]

    def _value_loss(
        self, values: Tensor, old: Tensor, returns: Tensor, share: float, figures: StepFigures
    ) -> Tensor:
        everywhere = torch.ones_like(old, dtype=torch.bool)
        loss = value_loss(values, old, returns, everywhere, self.config.cliprange_value)
        figures.add(share, {"ppo/loss/value": loss})
        figures.add(share, value_figures(values, old, self.config))
        return self.config.vf_coef * loss

    def _idle_actor(self) -> None:
        """A pass that changes nothing, of all that another rank's pass goes through."""
        states = self.actor(Tails([[0]], [1], self.device))
        loss = next_token_logits(self.actor.model, states).sum()
        if self.actor.value_head is not None:
            loss = loss + self.actor.value_head(states).sum()
        (0 * loss).backward()  # type: ignore[no-untyped-call]

    def _idle_critic(self) -> None:
        states = states_at(self.critic, Tails([[0]], [1], self.device), self.dtype)
        (0 * score_states(self.critic, states).sum()).backward()  # type: ignore[no-untyped-call]

    # --- held-out prompts --------------------------------------------------------------------

    def validate(self, prompts: Sequence[Prompt], iteration: int) -> dict[str, float]:
        """Mean scores and divergence on validation prompts after so many iterations, always with
        the same random numbers; ``eval/scores`` are those that are learnt from, the penalty for
        truncation taken off."""
        seeds = [row_seed(self.config.seed, "validation", prompt.id) for prompt in prompts]
        found = self._collect(prompts, seeds, range(CHECKED_LEAST), False, iteration)
        return {
            "eval/scores": penalised_scores(found, self.config).mean().item(),
            "eval/helpfulness": found.helpfulness.mean().item(),
            "eval/safety": found.safety.mean().item(),
            "eval/kl": (found.logprobs - found.ref_logprobs).sum(dim=1).mean().item(),
            "eval/length_tokens": found.mask.sum(dim=1).float().mean().item(),
            "eval/truncated": (~found.finished).float().mean().item(),
        }


# --- orders --------------------------------------------------------------------------------------


def batch_order(count: int, config: PPOConfig, iteration: int, epoch: int) -> list[int]:
    """The batch's answers as one epoch learns from them, those to a prompt together."""
    seed = row_seed(config.seed, "minibatches", iteration, epoch)
    together = config.answers_per_prompt
    drawn = torch.randperm(count // together, generator=torch.Generator().manual_seed(seed))
    return [prompt * together + i for prompt in drawn.tolist() for i in range(together)]


def minibatch_rows(
    count: int, config: PPOConfig, iteration: int, epoch: int
) -> Iterator[list[int]]:
    """The answers of each gradient step of one epoch."""
    order = batch_order(count, config, iteration, epoch)
    return (order[part] for part in chunks(count, config.minibatch))


# --- what is loaded ------------------------------------------------------------------------------


def _load_policy(folder: Any, device: torch.device) -> tuple[Any, Any]:
    """A chat model whose minibatches share prefixes where they can, and its tokenizer."""
    model, tokenizer = load_chat_model(folder, str(device))
    why = share_prefixes(model)
    if why:
        print(f"{folder}: rows do not share their prefixes, {why}.", flush=True)
    refuse_other_heads(model, device)
    return model, tokenizer


def _load_critic(config: PPOConfig, tokenizer: Any, device: torch.device) -> Any:
    """The model of its own that learns values, where there is one: a copy of a reward model."""
    if config.advantage != "gae" or config.value == "trunk":
        return None
    folder = config.helpfulness if config.value == "helpfulness" else config.safety
    model, other = load_reward_model(folder)
    refuse_other_words(tokenizer, other, f"{folder}, which values start from,")
    return model.to(device)
