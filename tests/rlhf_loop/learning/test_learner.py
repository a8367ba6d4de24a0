"""One batch and one update: what the learner computes is what plain padded rows give."""

from dataclasses import replace

import pytest
import torch

from reward.model import load_reward_model
from reward.trunk import right_pad
from rlhf_loop.advantages import masked_mean
from rlhf_loop.config import PPOConfig
from rlhf_loop.learning import learner as learning
from rlhf_loop.learning.learner import Learner, batch_order, minibatch_rows
from rlhf_loop.learning.losses import policy_loss, value_loss
from rlhf_loop.policy import (
    left_pad,
    load_chat_model,
    save_chat_model,
)
from rlhf_loop.ppo import batch_prompts
from rlhf_loop.prompts import PromptSplit, read_prompts
from rlhf_loop.rollout import learning_targets
from tests.rlhf_loop.plain_rows import response_logits, response_logprobs
from tests.tiny_models import CONFIGS, tiny_chat_model

CPU = torch.device("cpu")


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return PPOConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", device="cpu",
        max_new_tokens=12, iterations=4, batch=12, minibatch=4, learning_rate=2e-3,
        tokens_per_minibatch=100,
    )  # fmt: skip


def collected(learner, iteration=1):
    config = learner.config
    prompts = list(read_prompts(config.prompts, PromptSplit.TRAIN))
    asked = batch_prompts(prompts, config.batch // config.answers_per_prompt, iteration, 0)
    return learner.collect([p for p in asked for _ in range(config.answers_per_prompt)], iteration)


def padded(rollout):
    query, query_mask = left_pad(rollout.queries, 0)
    response, _ = right_pad(rollout.responses, 0)
    return query, query_mask, response, rollout.mask


def plain(rollout, model, temperature=1.0):
    """(B, T) log-probabilities and (B, T, H) states by padded rows."""
    rows = padded(rollout)
    with learning.own_attention(model):
        logits, hidden = response_logits(model, *rows)
    logprobs = response_logprobs(logits, rows[2], temperature).masked_fill(~rollout.mask, 0.0)
    return logprobs, hidden


# --- a batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_it_works(config, architecture, tmp_path):
    """Log-probabilities and values of every family are those of plain rows."""
    folder = tiny_chat_model(tmp_path / "chat", architecture, seed=3)
    learner = Learner(replace(config, policy=folder, temperature=0.8), CPU)
    assert learning.shares_prefixes(learner.actor.model)  # or plain rows would be held to plain
    torch.nn.init.normal_(learner.actor.value_head.weight)
    rollout = collected(learner)
    with torch.no_grad():
        logprobs, hidden = plain(rollout, learner.actor.model, 0.8)
        values = learner.actor.value_head(hidden).masked_fill(~rollout.mask, 0.0)
    torch.testing.assert_close(rollout.logprobs, logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(rollout.ref_logprobs, logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(rollout.values, values, atol=1e-5, rtol=1e-5)
    assert bool((rollout.logprobs[rollout.mask] < 0).all())
    assert rollout.values[rollout.mask].std() > 0.1


def test_values_of_a_model_of_their_own_start_as_the_reward_model_s(config):
    learner = Learner(replace(config, value="safety"), CPU)
    rollout = collected(learner)
    model, _ = load_reward_model(config.safety)
    for row, (query, response) in enumerate(zip(rollout.queries, rollout.responses, strict=True)):
        states = [[*query, *response[:n]] for n in range(len(response))]
        expected = torch.stack([learning.score_states(model, last_state(model, s)) for s in states])
        found = rollout.values[row][rollout.mask[row]]
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


def last_state(model, row):
    return model.base_model(torch.tensor([row]), attention_mask=None, use_cache=False,
                            layout=learning.Tails([row], [1], CPU).layout,
                            ).last_hidden_state[0, -1]  # fmt: skip


def test_another_reference_is_what_divergence_is_measured_from(config, tmp_path):
    other = tiny_chat_model(tmp_path / "other", seed=9)
    learner = Learner(replace(config, reference=other), CPU)
    rollout = collected(learner)
    expected, _ = plain(rollout, learner.reference)
    torch.testing.assert_close(rollout.ref_logprobs, expected.detach(), atol=1e-5, rtol=0)
    assert (rollout.logprobs - rollout.ref_logprobs).abs().max() > 0.1


@pytest.mark.parametrize("chosen", ["value", "reference"])
def test_a_model_with_other_words_is_refused(config, tmp_path, chosen):
    policy, tokenizer = load_chat_model(config.policy, "cpu")
    tokenizer.add_tokens(["kettles"])
    save_chat_model(policy, tokenizer, tmp_path / "other")
    more = {"value": "safety"} if chosen == "value" else {"reference": config.policy}
    with pytest.raises(ValueError, match=r"has the id None for 'kettles', and the policy has 320"):
        Learner(replace(config, policy=tmp_path / "other", **more), CPU)


# --- the log-probabilities of drawing ------------------------------------------------------------


def with_drawn(monkeypatch, error=0.0):
    """Let every answer carry log-probabilities, as the engine's do, with so much error."""
    sample = learning.sample_and_score

    def told(engine, rewards, prompts, *rest):
        answers, texts, scores = sample(engine, rewards, prompts, *rest)
        queries = [learning.prompt_tokens(engine.tokenizer, p.messages) for p in prompts]
        rows = [answer.tokens for answer in answers]
        response, mask = right_pad(rows, 0)
        with torch.no_grad():
            logits, _ = response_logits(engine.model, *left_pad(queries, 0), response, mask)
        logprobs = response_logprobs(logits, response) + error
        drawn = [
            Told(answer, row[: len(answer.tokens)].tolist())
            for answer, row in zip(answers, logprobs, strict=True)
        ]
        return drawn, texts, scores

    monkeypatch.setattr(learning, "sample_and_score", told)


class Told:
    def __init__(self, answer, logprobs):
        self.tokens, self.finished, self.logprobs = answer.tokens, answer.finished, logprobs


@pytest.mark.parametrize("chosen", [{}, {"value": "safety"}])
def test_log_probabilities_of_drawing_are_taken_where_they_are_right(config, monkeypatch, chosen):
    expected = collected(Learner(config, CPU))
    with_drawn(monkeypatch)
    learner = Learner(replace(config, **chosen), CPU)
    passes = []
    policy = learner.actor.model.base_model
    policy.register_forward_pre_hook(lambda m, a, k: passes.append("layout" in k), with_kwargs=True)
    rollout = collected(learner)
    assert int(rollout.recomputed.sum()) == 4  # the sample
    rows = batch_order(12, config, 1, 0)[:4]
    assert bool(rollout.recomputed[rows].all())
    torch.testing.assert_close(rollout.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    figures = learner.update(rollout, learning_targets(rollout, learner.config), 1)
    assert figures["ppo/ratio/first_error"] < 1e-5


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_wrong_log_probabilities_of_drawing_are_not_taken(config, monkeypatch, error):
    expected = collected(Learner(config, CPU))
    with_drawn(monkeypatch, error)
    rollout = collected(Learner(config, CPU))
    assert bool(rollout.recomputed.all())
    torch.testing.assert_close(rollout.logprobs, expected.logprobs, atol=1e-6, rtol=0)


def test_they_are_not_taken_where_that_is_not_wanted(config, monkeypatch):
    with_drawn(monkeypatch)
    rollout = collected(Learner(replace(config, reuse_logprobs=False), CPU))
    assert bool(rollout.recomputed.all())


# --- a step --------------------------------------------------------------------------------------


def gradients_of(learner, rollout, targets):
    """Those of one step on the whole batch, before clipping."""
    found = {}
    named = dict(learner.learnt().named_parameters())
    learner.optimiser.step = lambda: found.update({n: p.grad.clone() for n, p in named.items()})
    learner._step(rollout, targets, range(len(rollout.responses)))
    return found


@pytest.mark.parametrize("chosen", [{}, {"value": "helpfulness"}, {"entropy_coef": 0.3}])
def test_gradients_are_those_of_plain_rows(config, chosen):
    """A second derivation: padded rows, losses over (B, T), one backward pass."""
    config = replace(config, temperature=0.7, max_grad_norm=1e9, **chosen)
    learner = Learner(config, CPU)
    if learner.actor.value_head is not None:
        torch.nn.init.normal_(learner.actor.value_head.weight, std=0.1)
    rollout = collected(learner)
    numbers = torch.Generator().manual_seed(0)
    off = 0.3 * torch.randn(rollout.mask.shape, generator=numbers)  # as later steps find it
    rollout = rollout._replace(logprobs=(rollout.logprobs + off).masked_fill(~rollout.mask, 0))
    targets = learning_targets(rollout, config)
    found = gradients_of(learner, rollout, targets)

    rows, mask = padded(rollout), rollout.mask
    with learning.own_attention(learner.actor.model):
        logits, hidden = response_logits(learner.actor.model, *rows)
    spread = (logits / 0.7).log_softmax(-1)
    logprobs = response_logprobs(logits, rows[2], 0.7)
    loss = policy_loss(logprobs, rollout.logprobs, targets.advantages, mask, 0.2)
    loss = loss - config.entropy_coef * masked_mean(-(spread.exp() * spread).sum(-1), mask)
    if learner.critic is None:
        values = learner.actor.value_head(hidden)
    else:
        attention = torch.cat([rows[1], mask], dim=1)
        with learning.own_attention(learner.critic):
            states = learner.critic.base_model(
                torch.cat([rows[0], rows[2]], dim=1), attention_mask=attention.long(),
                position_ids=(attention.long().cumsum(1) - 1).clamp(min=0), use_cache=False,
            ).last_hidden_state[:, rows[0].shape[1] - 1 : -1]  # fmt: skip
        values = learner.critic.score(states).squeeze(-1)
    loss = loss + config.vf_coef * value_loss(values, rollout.values, targets.returns, mask, 0.2)
    loss.backward()
    for name, parameter in learner.learnt().named_parameters():
        apart = (found[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert apart < 1e-4, name


def test_masked_answers_do_not_go_through_the_model(config):
    learner = Learner(replace(config, truncated="mask"), CPU)
    rollout = collected(learner)._replace(finished=torch.arange(12) % 3 != 0)
    targets = learning_targets(rollout, learner.config)
    seen = []
    learner.actor.register_forward_pre_hook(lambda _, args: seen.append(len(args[0].rows)))
    figures = learner._step(rollout, targets, range(12))
    assert sum(seen) == 8
    assert figures["ppo/ratio/recomputed_error"] < 1e-5
    assert learner._step(rollout, targets, [0, 3]) == {}


def test_no_logits_of_the_whole_batch_are_held(config, monkeypatch):
    """The largest piece of logits is what LOGITS_AT_ONCE allows."""
    monkeypatch.setattr("rlhf_loop.learning.likelihood.LOGITS_AT_ONCE", 20 * 320)
    sizes = []
    logits_of = learning.next_token_logits

    def noted(*args):
        logits = logits_of(*args)
        sizes.append(len(logits))
        return logits

    monkeypatch.setattr(learning, "next_token_logits", noted)
    learner = Learner(replace(config, tokens_per_minibatch=10**6), CPU)
    rollout = collected(learner)
    learner._step(rollout, learning_targets(rollout, config), range(12))
    assert max(sizes) == 20
    assert sum(sizes) == int(rollout.mask.sum())


def test_a_gradient_that_is_not_finite_changes_nothing(config):
    learner = Learner(config, CPU)
    rollout = collected(learner)
    targets = learning_targets(rollout, config)
    before = [p.clone() for p in learner.learnt().parameters()]
    broken = targets._replace(advantages=targets.advantages * float("inf"))
    with pytest.raises(ValueError, match=r"norm is .* allowed are finite numbers"):
        learner.update(rollout, broken, 1)
    for old, new in zip(before, learner.learnt().parameters(), strict=True):
        assert torch.equal(old, new)


# --- orders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "minibatch", "together"), [(12, 4, 1), (12, 4, 2), (18, 6, 9)])
def test_every_answer_is_learnt_from_once_an_epoch(config, batch, minibatch, together):
    chosen = replace(config, batch=batch, minibatch=minibatch, answers_per_prompt=together)
    for epoch in range(2):
        steps = list(minibatch_rows(batch, chosen, 1, epoch))
        assert [len(step) for step in steps] == [minibatch] * (batch // minibatch)
        order = [row for step in steps for row in step]
        assert sorted(order) == list(range(batch))
        assert [row // together for row in order[::together]] == [
            row // together for row in order[together - 1 :: together]
        ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("prompts", "together"), [(17, 1), (17, 3), (4, 2)])
def test_what_a_division_leaves_over_is_somebody_s(config, monkeypatch, ranks, prompts, together):
    rows = range(prompts * together)
    learner = object.__new__(Learner)
    learner.config = replace(config, batch=12, answers_per_prompt=1)
    object.__setattr__(learner.config, "answers_per_prompt", together)
    monkeypatch.setattr(learning.ranks, "count", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(learning.ranks, "rank", lambda rank=rank: rank)
        parts.append(learner._own(rows))
    assert sorted(row for part in parts for row in part) == list(rows)
    homes = [{row // together for row in part} for part in parts]
    assert sum(map(len, homes)) == prompts
    assert max(map(len, homes)) - min(map(len, homes)) <= 1
