"""The PPO run: its first ratio, its targets, and that a killed run ends like a whole one."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reward.run_folder import RunFolder, RunFolderBusy
from reward.settings import to_flags, to_mapping
from rlhf_loop import ppo
from rlhf_loop.advantages import combine_scores
from rlhf_loop.config import Inputs, PPOConfig
from rlhf_loop.learning.figures import rollout_figures
from rlhf_loop.ppo import Learner, batch_prompts, train
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.rollout import learning_targets
from tests.rlhf_loop.conftest import make_prompt
from tests.tiny_models import tiny_chat_model

CPU = torch.device("cpu")


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return PPOConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", device="cpu",
        max_new_tokens=12, iterations=4, batch=12, minibatch=4, learning_rate=2e-3,
        validate_every=2, tokens_per_minibatch=100,
    )  # fmt: skip


def test_the_defaults_are_the_paper_s(config):
    paper = PPOConfig(**{name: getattr(config, name) for name in Inputs.__dataclass_fields__})
    assert paper.batch // paper.minibatch * paper.epochs == 8  # gradient steps per iteration
    assert (paper.cliprange, paper.kl_coef, paper.learning_rate) == (0.2, 0.01, 1e-6)
    assert (paper.adam_beta1, paper.adam_beta2, paper.adam_epsilon) == (0.9, 0.95, 1e-5)
    assert (paper.weight_decay, paper.max_grad_norm, paper.threshold) == (0.1, 1.0, 0.15)
    assert paper.whiten_scores is True


@pytest.fixture
def learner(config):
    return Learner(config, CPU)


def collected(learner):
    prompts = list(read_prompts(learner.config.prompts, PromptSplit.TRAIN))
    return learner.collect(batch_prompts(prompts, learner.config.batch, 1, 0), 1)


@pytest.mark.parametrize("reuse", [True, False])
def test_the_first_ratio_is_one_and_the_first_divergence_zero(config, reuse):
    learner = Learner(replace(config, reuse_logprobs=reuse), CPU)
    rollout = collected(learner)
    # Drawing's own differ from a later pass by rounding; two passes of the trainer by nothing.
    apart = (rollout.logprobs - rollout.ref_logprobs).abs().max().item()
    assert apart < 1e-5 if reuse else apart == 0.0
    assert bool((rollout.logprobs[rollout.mask] < 0).all())
    targets = learning_targets(rollout, learner.config)
    figures = learner.update(rollout, targets, 1)
    assert figures["ppo/ratio/first_error"] < 1e-5
    # The later minibatches meet a changed policy.
    assert figures["ppo/policy/approxkl"] > 1e-8
    assert figures["ppo/ratio/error"] > 1e-4


@pytest.mark.parametrize("value", ["trunk", "safety"])
def test_no_gradient_is_kept_while_answers_are_drawn(config, value):
    learner = Learner(replace(config, value=value), CPU)
    rollout = collected(learner)
    learner.update(rollout, learning_targets(rollout, learner.config), 1)
    assert [p.grad for p in learner.learnt().parameters() if p.grad is not None] == []


@pytest.mark.parametrize("value", ["trunk", "safety"])
def test_the_same_in_bfloat16(config, value):
    """Policy, reference and update round alike; what lies in store and what is stored of them does
    not round. By a policy in float32 the largest ratio would be some 5e-4 off."""
    config = replace(config, reuse_logprobs=False, value=value)
    exact = collected(Learner(config, CPU))
    learner = Learner(replace(config, train_dtype="bfloat16"), CPU)
    rollout = collected(learner)
    assert rollout.responses == exact.responses  # drawn with the weights as they lie in store
    assert 1e-4 < (rollout.logprobs - exact.logprobs).abs().max().item() < 1e-2
    assert torch.equal(rollout.ref_logprobs, rollout.logprobs)
    if value == "safety":
        assert 1e-4 < (rollout.values - exact.values).abs().max().item() < 0.1
    figures = learner.update(rollout, learning_targets(rollout, learner.config), 1)
    assert figures["ppo/ratio/first_error"] < 1e-4
    kept = [*learner.learnt().parameters()]
    kept += [v for s in learner.optimiser.state.values() for v in s.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


@pytest.mark.parametrize(("train_dtype", "shares"), [("float32", False), ("bfloat16", True)])
def test_activations_computed_again_change_nothing(config, monkeypatch, train_dtype, shares):
    """Not the answers either: a model whose rows are drawn apart keeps keys and values in a cache,
    which layers that compute again would not be given."""
    if not shares:
        monkeypatch.setattr("rlhf_loop.drawing.answers.shares_prompts", lambda model: False)
    seen = []
    for again in (False, True):
        learner = Learner(
            replace(config, value="safety", train_dtype=train_dtype, recompute_activations=again),
            CPU,
        )
        rollout, runs = collected(learner), []
        for model in (learner.actor.model, learner.critic):
            first = model.base_model.layers[0].mlp
            first.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        learner.update(rollout, learning_targets(rollout, learner.config), 1)
        weights = torch.cat([p.detach().flatten() for p in learner.learnt().parameters()])
        seen.append((rollout.responses, len(runs), weights))
    (answers, once, expected), (others, twice, found) = seen
    assert others == answers
    assert twice == 2 * once
    assert torch.equal(found, expected)


def test_a_first_ratio_that_nothing_measured_is_no_figure(config):
    """Where none of the first minibatch's answers was computed again it is left out, never 0."""
    learner = Learner(config, CPU)
    rollout = collected(learner)
    rollout = rollout._replace(recomputed=torch.zeros(12, dtype=torch.bool))
    figures = learner.update(rollout, learning_targets(rollout, learner.config), 1)
    assert "ppo/ratio/first_error" not in figures
    assert figures["ppo/ratio/error"] > 1e-4


def test_the_first_ratio_is_one_at_any_temperature(config):
    """Answers are drawn, and their probabilities taken, at the same one."""
    learner = Learner(replace(config, temperature=0.6), CPU)
    rollout = collected(learner)
    figures = learner.update(rollout, learning_targets(rollout, learner.config), 1)
    assert figures["ppo/ratio/first_error"] < 1e-5


def gradient_step(config, rollout, targets):
    """The weights after one gradient step on the whole batch."""
    learner = Learner(replace(config, minibatch=config.batch), CPU)
    learner.update(rollout, targets, 1)
    return torch.cat([p.detach().flatten() for p in learner.learnt().parameters()])


def test_the_step_does_not_depend_on_how_a_minibatch_is_cut(config, learner, monkeypatch):
    rollout = of_unlike_lengths(collected(learner))
    targets = learning_targets(rollout, config)
    sgd_like = replace(
        config, adam_epsilon=1.0
    )  # AdamW's own 1e-5 makes rounding as large as a step
    whole = gradient_step(replace(sgd_like, tokens_per_minibatch=10**6), rollout, targets)
    for tokens in (1, 100):
        some = gradient_step(replace(sgd_like, tokens_per_minibatch=tokens), rollout, targets)
        torch.testing.assert_close(some, whole, rtol=0, atol=1e-7)
    monkeypatch.setattr(
        "rlhf_loop.learning.likelihood.LOGITS_AT_ONCE", 16 * 320
    )  # 16 tokens' at a time
    chunked = gradient_step(replace(sgd_like, tokens_per_minibatch=10**6), rollout, targets)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-7)


def of_unlike_lengths(rollout):
    """Were they alike, shares of rows would pass for shares of tokens."""
    lengths = range(1, 13)
    mask = rollout.mask & (torch.arange(12) < torch.tensor(lengths)[:, None])
    responses = [tokens[:n] for tokens, n in zip(rollout.responses, lengths, strict=True)]
    return rollout._replace(mask=mask, responses=responses)


def test_scores_are_whitened_and_land_on_last_tokens(config, learner):
    rollout = collected(learner)
    targets = learning_targets(rollout, replace(config, truncated="keep"))
    scores = targets.rewards.sum(dim=1)  # the first divergence is 0
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert scores.var(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    order = rollout.scores.argsort()
    assert torch.equal(scores[order], scores.sort().values)


def test_a_masked_truncated_answer_counts_nowhere(config, learner):
    rollout = collected(learner)
    rollout = rollout._replace(finished=torch.arange(12) % 3 != 0)
    masked = replace(config, truncated="mask")
    targets = learning_targets(rollout, masked)
    assert not bool(targets.mask[~rollout.finished].any())
    extreme = rollout.scores.masked_fill(~rollout.finished, 1e6)
    again = learning_targets(rollout._replace(scores=extreme), masked)
    kept = targets.mask
    torch.testing.assert_close(again.advantages[kept], targets.advantages[kept])
    with pytest.raises(ValueError, match="every answer was cut at max_new_tokens 12"):
        learning_targets(rollout._replace(finished=torch.zeros(12, dtype=torch.bool)), masked)


def test_a_penalised_truncated_answer_scores_less(config, learner):
    rollout = collected(learner)
    rollout = rollout._replace(
        finished=torch.arange(12) != 3, scores=torch.zeros(12), is_safety=torch.zeros(12).bool()
    )
    plain = replace(config, whiten_scores=False, truncated_penalty=2.5)
    rewards = learning_targets(rollout, plain).rewards.sum(dim=1)
    expected = [-2.5 if i == 3 else 0.0 for i in range(12)]
    assert rewards.tolist() == pytest.approx(expected, abs=1e-6)  # the divergence is rounding


def test_every_prompt_is_used_before_one_comes_again(prompts):
    known = list(read_prompts(prompts, PromptSplit.TRAIN))
    seen = [p.id for i in (1, 2, 3, 4) for p in batch_prompts(known, 6, i, seed=3)]
    assert len(known) == 8
    assert all(sorted(seen[s : s + 8]) == sorted(p.id for p in known) for s in (0, 8, 16))
    assert seen[:8] != seen[8:16]


def test_it_trains_and_keeps_the_best_policy(config):
    result = train(config)
    metrics = RunFolder(config.out).metrics()
    judged = {line["step"]: line["eval/scores"] for line in metrics if "eval/scores" in line}
    assert [line["step"] for line in metrics] == [0, 1, 2, 3, 4]
    assert sorted(judged) == [0, 2, 4]
    assert result["eval/scores"] == max(judged.values()) == judged[result["best_iteration"]]
    best = Learner(replace(config, policy=config.out / "model"), CPU)
    prompts = list(read_prompts(config.prompts, PromptSplit.VALIDATION))
    assert best.validate(prompts, 0)["eval/scores"] == pytest.approx(
        result["eval/scores"], abs=1e-4
    )
    for line in metrics[1:]:
        assert line["ppo/ratio/first_error"] < 1e-5
        assert {"objective/kl", "objective/scores", "ppo/policy/clipfrac", "lr"} <= line.keys()
    assert train(config) == result  # a finished run does nothing


def test_validation_prompts_are_of_every_kind(config, tmp_path, monkeypatch):
    """Where there are more than are used, in a file that is sorted by kind."""
    numbered = sorted(range(100, 160), key=lambda number: number % 3 == 0)
    held = [replace(make_prompt(i), split=PromptSplit.VALIDATION) for i in numbered]
    file = tmp_path / "sorted.jsonl"
    write_prompts(file, [*read_prompts(config.prompts, PromptSplit.TRAIN), *held])
    asked = []
    validate = Learner.validate
    monkeypatch.setattr(Learner, "validate", lambda *a: (asked.append(a[1]), validate(*a))[1])
    train(replace(config, prompts=file, validation_prompts=12, iterations=1))
    assert {(len(prompts), len({p.is_safety for p in prompts})) for prompts in asked} == {(12, 2)}


def test_it_stops_early_without_a_better_validation(config):
    result = train(replace(config, learning_rate=0.0, iterations=50, validate_every=1, patience=3))
    assert (result["iterations"], result["best_iteration"]) == (3, 0)
    assert result["stopped_early"] is True


def test_the_best_policy_is_chosen_by_the_scores_that_are_learnt_from(config):
    """Answers that were cut cost the chosen policy what they cost in training."""
    short = replace(config, max_new_tokens=2, truncated_penalty=5.0)
    prompts = list(read_prompts(config.prompts, PromptSplit.VALIDATION))
    kept = Learner(replace(short, truncated="keep", truncated_penalty=1.0), CPU).validate(
        prompts, 0
    )
    found = Learner(short, CPU).validate(prompts, 0)
    assert found["eval/truncated"] == kept["eval/truncated"] > 0.5
    lost = 5.0 * found["eval/truncated"]
    assert found["eval/scores"] == pytest.approx(kept["eval/scores"] - lost, abs=1e-5)


def test_a_new_best_policy_is_a_checkpoint_too(config, monkeypatch):
    """So that a run that goes on never has a best policy of steps it has not taken again."""
    saved, save = [], ppo._save
    monkeypatch.setattr(
        ppo, "_save", lambda run, *rest: (saved.append(rest[1].iteration), save(run, *rest))
    )
    result = train(replace(config, checkpoint_every=100, learning_rate=2e-2, validate_every=1))
    judged = [line["eval/scores"] for line in RunFolder(config.out).metrics()]
    bests = [i for i, score in enumerate(judged) if score > max(judged[:i], default=-math.inf)]
    assert saved == bests
    assert saved[-1] == result["best_iteration"] > 0


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("again", "kept"), [(-1.0, 0), (0.5, 1)])
def test_the_model_is_the_one_that_the_result_names(config, monkeypatch, again, kept):
    """Killed between a new best policy and its checkpoint: validated again on a GPU it may score
    otherwise, and whichever is the best then is left and named."""
    config = replace(config, iterations=1, validate_every=1, learning_rate=1e-2)
    validate, scores = Learner.validate, iter([0.0, 1.0, again])
    monkeypatch.setattr(
        Learner, "validate", lambda *a: {**validate(*a), "eval/scores": next(scores)}
    )

    def stop(run, learner, standing, save=ppo._save):
        if standing.iteration:
            raise Stopped
        save(run, learner, standing)

    with monkeypatch.context() as patch:
        patch.setattr(ppo, "_save", stop)
        with pytest.raises(Stopped):
            train(config)
    result = train(config)
    assert (result["best_iteration"], result["eval/scores"]) == (kept, max(again, 0.0))
    left, began = (
        load_file(folder / "model.safetensors") for folder in (config.out / "model", config.policy)
    )
    changed = [name for name, weights in left.items() if not torch.equal(weights, began[name])]
    assert bool(changed) is (kept == 1)
    assert not (config.out / "best").exists()


def test_the_checkpoint_before_has_its_best_policy_too(config, monkeypatch):
    """One may go on from it where the last one is damaged."""
    validate, scores = Learner.validate, iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(
        Learner, "validate", lambda *a: {**validate(*a), "eval/scores": next(scores)}
    )
    stood, save = [], ppo._save

    def look(run, *rest):
        save(run, *rest)
        stood.append(sorted(folder.name for folder in (run.path / "best").iterdir()))

    monkeypatch.setattr(ppo, "_save", look)
    train(replace(config, iterations=3, validate_every=1))
    assert stood == [["0"], ["0", "1"], ["1", "2"], ["2", "3"]]


def test_a_policy_beyond_the_budget_of_divergence_is_not_kept(config):
    """Whatever its scores: the one from before is, and the run ends."""
    far = replace(
        config, kl_budget=0.5, learning_rate=2e-2, iterations=20, validate_every=1, patience=50
    )
    result = train(far)
    judged = [line for line in RunFolder(config.out).metrics() if "eval/kl" in line]
    assert judged[-1]["eval/kl"] > 0.5
    assert all(line["eval/kl"] <= 0.5 for line in judged[:-1])
    assert result["stopped_by"] == "kl_budget"
    assert result["best_iteration"] < result["iterations"] == judged[-1]["step"] < 20


def test_a_budget_that_is_spent_from_the_start_is_refused(config, tmp_path):
    """Before anything is made: the same folder serves what was put right."""
    other = tiny_chat_model(tmp_path / "other", seed=9)
    spent = replace(config, reference=other, kl_budget=1e-6, seed=3, iterations=1)
    with pytest.raises(ValueError, match="before any step the policy is further from"):
        train(spent)
    assert RunFolder(config.out).metrics() == []
    assert train(replace(spent, kl_budget=100.0))["iterations"] == 1


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_answers_to_a_prompt_are_compared_with_each_other(config, advantage):
    chosen = replace(config, advantage=advantage, answers_per_prompt=3, iterations=2)
    result = train(chosen)
    assert result["stopped_by"] == "iterations"
    line = RunFolder(config.out).metrics()[1]
    assert line["ppo/ratio/first_error"] < 1e-5
    assert not [name for name in line if name.startswith("ppo/val/") or name == "ppo/loss/value"]
    learner = Learner(chosen, CPU)
    assert learner.critic is learner.actor.value_head is None
    prompts = list(read_prompts(config.prompts, PromptSplit.TRAIN))[:4]
    rollout = learner.collect([p for p in prompts for _ in range(3)], 1)
    targets = learning_targets(rollout, chosen)
    assert all(rollout.queries[3 * i] == rollout.queries[3 * i + 2] for i in range(4))
    for row, mask in zip(targets.advantages, rollout.mask, strict=True):
        assert row[mask].std(correction=0) < 1e-6  # one advantage for the whole answer
    answers = (targets.advantages.sum(dim=1) / rollout.mask.sum(dim=1)).view(4, 3)
    torch.testing.assert_close(answers.sum(dim=1), torch.zeros(4), atol=1e-4, rtol=0)
    assert answers.abs().max() > 0.01


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"minibatch": 5}, "minibatch is 5, allowed are divisors of batch 12"),
        ({"answers_per_prompt": 5}, "answers_per_prompt is 5, allowed are divisors of batch 12"),
        ({"advantage": "rloo"}, "answers_per_prompt is 1, allowed are 2 or more"),
        ({"advantage": "grpo", "answers_per_prompt": 2, "value": "safety"},
         "value is 'safety': leave it at 'trunk'"),
        ({"advantage": "rloo", "answers_per_prompt": 2, "gamma": 0.9},
         "gamma is 0.9: leave it at 1.0"),
        ({"advantage": "rloo", "answers_per_prompt": 2, "whiten_rewards": True},
         "whiten_rewards is True: leave it at False"),
        ({"kl_budget": 0.0}, "kl_budget is 0.0, allowed is above 0"),
        ({"address": "http://x"}, "address is 'http://x', .* in each iteration: hand_over is need"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(config, chosen, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(config, **chosen)


def test_one_reward_model_for_both_decides_as_helpfulness_above_the_gate(config, learner):
    rollout = collected(learner)
    both = torch.linspace(-5, 5, 12)
    rollout = rollout._replace(
        helpfulness=both, safety=both, scores=both, is_safety=torch.zeros(12, dtype=torch.bool)
    )
    figures = rollout_figures(rollout, learning_targets(rollout, config), config)
    assert figures["objective/by_gate"] == pytest.approx(4 / 12)  # of -5 … 5 those under -1.73
    assert figures["objective/by_helpfulness"] == pytest.approx(8 / 12)


def test_the_figures_say_which_model_decided(config, learner):
    rollout = collected(learner)._replace(
        helpfulness=torch.ones(12), safety=torch.linspace(-5, 5, 12),
        is_safety=torch.arange(12) % 4 == 0,
    )  # fmt: skip
    scores = combine_scores(rollout.helpfulness, rollout.safety, rollout.is_safety)
    rollout = rollout._replace(scores=scores)
    targets = learning_targets(rollout, replace(config, truncated="keep"))
    figures = rollout_figures(rollout, targets, config)
    assert figures["objective/by_tag"] == pytest.approx(3 / 12)
    assert figures["objective/by_gate"] == pytest.approx(3 / 12)  # of -5 … -1.8 all but the tagged
    assert figures["objective/by_helpfulness"] == pytest.approx(6 / 12)
    parts = {"tag": [-5, -5 + 40 / 11, -5 + 80 / 11], "gate": [-45 / 11, -35 / 11, -25 / 11]}
    for name, expected in {**parts, "helpfulness": [1.0]}.items():
        mean = sum(expected) / len(expected)
        assert figures[f"objective/scores_by_{name}"] == pytest.approx(mean)
    assert figures["whiten/mean"] == pytest.approx(scores.mean().item())
    assert figures["whiten/deviation"] == pytest.approx(scores.std(correction=0).item())
    missed = (targets.returns - rollout.values)[rollout.mask]
    assert figures["ppo/val/error"] == pytest.approx((missed**2).mean().item())


def test_a_model_that_decided_nothing_has_no_mean_score(config, learner):
    rollout = collected(learner)._replace(is_safety=torch.ones(12, dtype=torch.bool))
    figures = rollout_figures(rollout, learning_targets(rollout, config), config)
    named = {name for name in figures if name.startswith("objective/scores_by_")}
    assert named == {"objective/scores_by_tag"}


class LetterCounter:
    """A judge that likes letters, in place of a reward model."""

    def __init__(self, *_):
        pass

    def __call__(self, conversations):
        texts = [conversation[-1].content for conversation in conversations]
        return torch.tensor([sum(c.isascii() and c.isalpha() for c in t) / 12 for t in texts])


def test_it_learns_what_the_judges_like(config, monkeypatch):
    monkeypatch.setattr("rlhf_loop.rollout.Scorer", LetterCounter)
    longer = replace(
        config, iterations=20, batch=64, minibatch=16, validate_every=5, learning_rate=5e-3,
        truncated="keep",
    )  # fmt: skip
    result = train(longer)
    metrics = RunFolder(config.out).metrics()
    assert result["eval/scores"] > metrics[0]["eval/scores"] + 0.2
    assert metrics[-1]["objective/kl"] > 0


def test_prompts_without_a_validation_split_are_refused(config, tmp_path):
    only = tmp_path / "train.jsonl"
    write_prompts(only, read_prompts(config.prompts, PromptSplit.TRAIN))
    with pytest.raises(ValueError, match="has no validation prompts"):
        train(replace(config, prompts=only))


def run_as_child(config):
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_loop.ppo", *to_flags(to_mapping(config))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_step(run, step, process):
    while not any(line["step"] >= step for line in run.metrics()):
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.01)


def test_a_killed_run_ends_like_an_uninterrupted_one(config, tmp_path):
    config = replace(config, iterations=12)  # so many still to come when it is stopped
    whole = replace(config, out=tmp_path / "whole")
    first = run_as_child(config)
    run = RunFolder(config.out)
    wait_for_step(run, 3, first)
    first.send_signal(signal.SIGSTOP)  # or it would end while the other waits for the folder
    with pytest.raises(RunFolderBusy):
        train(config)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    first.stdout.close()
    assert run.result() is None
    resumed, uninterrupted = train(config), train(whole)
    assert resumed == uninterrupted
    weights = [(path / "model/model.safetensors").read_bytes() for path in (config.out, whole.out)]
    assert weights[0] == weights[1]
    figures = [_without_times(RunFolder(path).metrics()) for path in (config.out, whole.out)]
    assert figures[0] == figures[1]


def _without_times(lines):
    return [
        {name: value for name, value in line.items() if not name.startswith(("time", "seconds"))}
        for line in lines
    ]
