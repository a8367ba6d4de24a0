"""PPO whose answers are drawn at an address, from a server that draws with what it was handed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reward.run_folder import RunFolder
from rlhf_loop.config import PPOConfig
from rlhf_loop.learning import learner as learning
from rlhf_loop.learning.learner import Learner
from rlhf_loop.ppo import batch_prompts, train
from rlhf_loop.prompts import PromptSplit, read_prompts
from rlhf_loop.replay import differences
from rlhf_loop.rollout import learning_targets
from rlhf_loop.serving import SamplerRefused
from tests.reward.chat_server import chat_server
from tests.rlhf_loop.drawing_server import LastHanded

CPU = torch.device("cpu")


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return PPOConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", device="cpu",
        max_new_tokens=10, iterations=3, batch=12, minibatch=6, learning_rate=2e-3,
        validate_every=2, tokens_per_minibatch=100,
    )  # fmt: skip


@contextmanager
def at_address(config, engine):
    """The settings with the address of a server that this engine draws for."""
    with chat_server(engine) as server:
        yield replace(config, address=server.address, hand_over=engine.hand_over)


def collected(learner, iteration=1):
    prompts = list(read_prompts(learner.config.prompts, PromptSplit.TRAIN))
    return learner.collect(batch_prompts(prompts, 12, iteration, 0), iteration)


@pytest.mark.parametrize("reuse", [True, False])
def test_it_works(config, tmp_path, reuse):
    """Before and after an update: the tokens that are drawn here, and the first ratio is 1."""
    config = replace(config, reuse_logprobs=reuse)
    here = Learner(config, CPU)
    with at_address(config, LastHanded(tmp_path / "note")) as served:
        there = Learner(served, CPU)
        for iteration in (1, 2):
            rollout, expected = collected(there, iteration), collected(here, iteration)
            assert rollout.responses == expected.responses
            torch.testing.assert_close(rollout.logprobs, expected.logprobs, atol=1e-5, rtol=0)
            assert int(rollout.recomputed.sum()) == (4 if reuse else 12)
            figures = there.update(rollout, learning_targets(rollout, config), iteration)
            assert figures["ppo/ratio/first_error"] < 1e-5
            assert figures["ppo/policy/approxkl"] > 1e-8
            here.learnt().load_state_dict(there.learnt().state_dict())


def test_a_server_that_keeps_the_old_weights_is_refused_and_the_run_goes_on(config, tmp_path):
    """In the second iteration; once it takes new ones the run ends like one that draws here."""
    # Nothing but tokens comes from there, and an iteration moves less than rounding is allowed to.
    config = replace(config, reuse_logprobs=False, learning_rate=1e-4)
    train(replace(config, out=tmp_path / "here"))
    engine, folder, beside = LastHanded(tmp_path / "note", most=1), config.out / "served", []

    def answer(request):
        beside.append(len(list(folder.iterdir())))
        return engine(request)

    answer.hand_over = engine.hand_over
    with at_address(config, answer) as served:
        with pytest.raises(
            SamplerRefused, match=rf"not serve {folder}/1-\w+: .* what it served before"
        ):
            train(served)
        assert [line["step"] for line in RunFolder(config.out).metrics()] == [0, 1]
        engine.most = 1_000
        train(served)
    assert list(differences(tmp_path / "here", config.out)) == []
    after = [int(Path(handed).name.partition("-")[0]) for handed in engine.folders]
    assert after == [0, 1, 2, 3]  # the weights after each iteration, once
    assert set(beside) == {1}


def test_no_rank_keeps_the_whole_policy_while_the_address_draws(config, tmp_path, monkeypatch):
    whole, during = [], []
    gathers, draws = Learner.whole_policy, learning.sample_and_score

    @contextmanager
    def gathering(learner):
        whole.append(learner)
        with gathers(learner) as model:
            yield model
        whole.pop()

    monkeypatch.setattr(Learner, "whole_policy", gathering)
    monkeypatch.setattr(
        learning, "sample_and_score", lambda *a: during.append(len(whole)) or draws(*a)
    )
    with at_address(config, LastHanded(tmp_path / "note")) as served:
        collected(Learner(served, CPU))
    collected(Learner(config, CPU))
    assert during == [0, 1]


def test_an_address_that_gives_no_token_ids_is_refused(config, tmp_path):
    engine = LastHanded(tmp_path / "note", token_ids=None)
    refused = "does not answer by token ids, and what is learnt from are the very tokens"
    with at_address(config, engine) as served, pytest.raises(SamplerRefused, match=refused):
        train(served)


def test_an_address_without_log_probabilities_has_them_computed_here(config, tmp_path):
    with at_address(config, LastHanded(tmp_path / "note", logprobs=None)) as served:
        rollout = collected(Learner(served, CPU))
    assert bool(rollout.recomputed.all())
    expected = collected(Learner(replace(config, reuse_logprobs=False), CPU))
    assert rollout.responses == expected.responses
    assert torch.equal(rollout.logprobs, expected.logprobs)
