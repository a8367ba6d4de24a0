"""Faults of other reward-model trainers (docs/pitfalls.md) that no other file here looks for."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from reward import train as training
from reward.config import TrainConfig
from reward.data import load_pairs, mix, refuse_leak, tokenise
from reward.loss import centring_loss, ranking_loss, safety_auxiliary_loss
from reward.measures.report import full_report
from reward.model import save_reward_model, score_rows, start_from_chat_model
from reward.objective import auxiliary_weight
from reward.optimiser import build_optimiser
from reward.preferences import Criterion, Message, SafetyLabel, dialogue_root, write_pairs
from reward.score import Scorer, score_pairs, score_tokens
from reward.train import optimiser_step, step_pairs, train
from rlhf_loop.config import Scoring
from rlhf_loop.prompts import Prompt, PromptSplit
from rlhf_loop.rollout import RewardModels
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def started(chat):
    return start_from_chat_model(chat, seed=0)


@pytest.fixture
def config(tmp_path, chat) -> TrainConfig:
    write_pairs(tmp_path / "pairs.jsonl", pairs(16))
    return TrainConfig(
        pairs=tmp_path / "pairs.jsonl", model=chat, out=tmp_path / "run", criterion="helpfulness",
        learning_rate=3e-3, pairs_per_step=3, device="cpu",
    )  # fmt: skip


def random_rows(count: int, seed: int = 0) -> list[list[int]]:
    """Rows of unlike lengths, some of them beginning alike, that end in the end token."""
    numbers = random.Random(seed)
    stems = [[numbers.randrange(5, 300) for _ in range(20)] for _ in range(count // 10 + 1)]
    return [
        [*numbers.choice(stems), *numbers.choices(range(5, 300), k=numbers.randrange(30)), 1]
        for _ in range(count)
    ]


# --- 1.2 what stands beside a row --------------------------------------------------------------


def test_a_score_depends_on_its_row_alone(started):
    """Not on the minibatch's size, the rows' order, nor on who shares a beginning with it."""
    model, _ = started
    rows = random_rows(60)
    with torch.no_grad():
        alone = torch.cat([score_rows(model, [row]) for row in rows])
    for seed, tokens in enumerate((1, 60, 100, 300, 10_000)):
        order = random.Random(seed).sample(range(60), 60)
        scores = score_tokens(model, [rows[i] for i in order], tokens)
        torch.testing.assert_close(scores, alone[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_padding_changes_no_score_of_an_exported_model(started, tmp_path, side, multiple):
    model, tokenizer = started
    save_reward_model(model, tokenizer, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = random_rows(12)
    batch = tokenizer.pad(
        {"input_ids": rows}, return_tensors="pt", padding_side=side, pad_to_multiple_of=multiple
    )
    assert batch["input_ids"].shape[1] % multiple == 0
    with torch.no_grad():
        scores = theirs(**batch).logits.squeeze(-1)
    torch.testing.assert_close(scores, score_tokens(model, rows, 150), rtol=0, atol=1e-5)


# --- 1.4 a head that is not saved, or not trained ----------------------------------------------


def test_a_fresh_process_gives_the_scores_of_the_trained_model(config, tmp_path, monkeypatch):
    """Bit for bit those before it was saved, whatever random numbers the process begins with."""
    chats = [[*item.prompt, Message("assistant", item.chosen)] for item in pairs(8)]
    before: dict[str, object] = {}
    save = training.save_reward_model

    def scored(model, tokenizer, folder, state):
        rows = [training.tokenise(tokenizer, [item])[0].chosen for item in pairs(8)]
        before["scores"] = score_tokens(model, rows, 16_384).tolist()
        before["head"] = model.score.weight.detach().clone()
        save(model, tokenizer, folder, state)

    monkeypatch.setattr(training, "save_reward_model", scored)
    result = train(config)
    assert result["steps"] >= 5
    start, _ = start_from_chat_model(config.model, config.seed)
    assert not torch.equal(before["head"], start.score.weight)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"messages": [m._asdict() for m in chat]}) for chat in chats]
    source.write_text("\n".join(lines))
    code = "import torch, sys; torch.manual_seed(99); from reward.score import main; main()"
    words = ["--model", config.out / "model", "--input", source, "--output", target]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, cwd=ROOT)
    after = [json.loads(line)["score"] for line in target.read_text().splitlines()]
    assert after == before["scores"]


# --- 1.5 how large first scores are ------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 512])
def test_first_scores_are_of_the_size_of_one(tmp_path, monkeypatch, width):
    """A head √H times too small would pass on a tiny model and not on a wide one."""
    monkeypatch.setitem(tiny_chat_model.__globals__["SHAPE"], "hidden_size", width)
    chat = tiny_chat_model(tmp_path)
    rows = random_rows(20)
    scores = []
    for seed in range(12):
        model, _ = start_from_chat_model(chat, seed)
        scores.append(score_tokens(model, rows, 700))
    assert 0.5 < torch.cat(scores).std().item() < 2


# --- 1.6 the head's precision ------------------------------------------------------------------


def test_a_trunk_in_bfloat16_keeps_scores_apart_and_in_order(started):
    model, _ = started
    rows = random_rows(1000)
    exact, rounded = (score_tokens(model, rows, 4_000, d) for d in ("float32", "bfloat16"))
    assert rounded.unique().numel() > 0.99 * exact.unique().numel()
    assert rounded.unique().numel() > 0.99 * len({tuple(row) for row in rows})
    ranks = torch.stack([scores.argsort().argsort().double() for scores in (exact, rounded)])
    assert torch.corrcoef(ranks)[0, 1] > 0.999


# --- 1.7 the losses' gradients -----------------------------------------------------------------


def test_gradients_of_the_losses_are_their_finite_differences():
    torch.manual_seed(0)
    chosen, rejected = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    margin, weight = torch.rand(2, 5, dtype=torch.float64)
    target = torch.tensor([1, 0.9, 0.5, 1, 0.7], dtype=torch.float64)
    safe, other = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 1, 0]], dtype=torch.bool)
    known = torch.tensor([1, 1, 1, 0, 1], dtype=torch.bool)
    for loss in (
        lambda c, r: ranking_loss(c, r, margin, weight, target),
        centring_loss,
        lambda c, r: safety_auxiliary_loss(c, r, safe, other, known),
    ):
        assert torch.autograd.gradcheck(loss, (chosen, rejected))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_of_extreme_scores_are_finite(size):
    chosen = torch.tensor([size], requires_grad=True)
    rejected = torch.tensor([-size], requires_grad=True)
    one = torch.ones(1)
    yes = one.bool()
    loss = ranking_loss(chosen, rejected, one, one, 0.9 * one)
    loss = loss + safety_auxiliary_loss(chosen, rejected, yes, ~yes, yes)
    loss.backward()
    assert loss.isfinite()
    assert chosen.grad.isfinite()
    assert rejected.grad.isfinite()


# --- 1.8 what safety pulls at ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "signs"),
    [
        (SafetyLabel.BOTH_SAFE, (1, 1)),
        (SafetyLabel.BOTH_UNSAFE, (-1, -1)),
        (SafetyLabel.CHOSEN_SAFE, (1, -1)),
    ],
)
def test_trained_safety_scores_have_the_signs_of_their_labels(config, chat, label, signs):
    """And the chosen one is still the higher one."""
    model, tokenizer = start_from_chat_model(chat, 0)
    items = [replace(item, safety=label) for item in pairs(8, "safety")]
    rows = tokenise(tokenizer, items)
    config = replace(config, criterion=Criterion.SAFETY, margin="none", schedule="constant")
    optimiser = build_optimiser(model, config)
    for step in range(1, 151):
        optimiser_step(model, optimiser, rows, config, step, 150)
    for scored in score_pairs(model, rows, 500):
        assert (math.copysign(1, scored.chosen), math.copysign(1, scored.rejected)) == signs
        assert scored.chosen > scored.rejected


def test_a_criterion_given_as_a_word_has_its_auxiliary_loss_too(config):
    """Settings made in Python may hold the word; it once switched the loss off in silence."""
    safety = replace(config, criterion="safety", auxiliary_weight=0.5)
    assert auxiliary_weight(safety) == auxiliary_weight(replace(safety, criterion=Criterion.SAFETY))
    assert auxiliary_weight(safety) == 0.5
    every = [pair(n, id=f"h{n}") for n in range(8)] + [pair(n, "safety") for n in range(18)]
    assert mix(every, "helpfulness", "published", 0) == mix(
        every, Criterion.HELPFULNESS, "published", 0
    )


def test_swapped_answers_turn_both_losses_round():
    scores = torch.tensor([0.3]), torch.tensor([0.3])
    safe, known = torch.tensor([True]), torch.tensor([True])

    def gradients(loss):
        leaves = [s.clone().requires_grad_() for s in scores]
        loss(*leaves).backward()
        return [leaf.grad.item() for leaf in leaves]

    zero = torch.zeros(1)
    chosen, rejected = gradients(lambda c, r: ranking_loss(c, r, zero))
    assert gradients(lambda c, r: ranking_loss(r, c, zero)) == [rejected, chosen]
    assert chosen < 0 < rejected
    one, other = gradients(lambda c, r: safety_auxiliary_loss(c, r, safe, ~safe, known))
    assert gradients(lambda c, r: safety_auxiliary_loss(c, r, ~safe, safe, known)) == [other, one]
    assert one < 0 < other


# --- 1.9 figures -------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 100, 150, 10_000])
def test_accuracy_is_that_of_the_flat_list(started, tokens):
    """Of 17 pairs, which no minibatch divides."""
    model, tokenizer = started
    rows = tokenise(tokenizer, pairs(17))
    with torch.no_grad():
        flat = [(score_rows(model, [r.chosen]), score_rows(model, [r.rejected])) for r in rows]
    right = sum((c > r).item() for c, r in flat)
    figures = full_report(score_pairs(model, rows, tokens))
    assert 0 < right < 17
    assert figures["accuracy"] == right / 17
    assert figures["count"] == sum(g["count"] for g in figures["by_strength"].values()) == 17


def test_a_retyped_prompt_is_still_a_leak(tmp_path):
    shouted = (Message("user", "  QUESTION 3   please Please please"),)
    held = pair(3, prompt=shouted, root=dialogue_root(shouted))
    write_pairs(tmp_path / "a.jsonl", [pair(3)])
    write_pairs(tmp_path / "b.jsonl", [held])
    with pytest.raises(ValueError, match="stand in the pairs and in the holdout"):
        refuse_leak(load_pairs(tmp_path / "a.jsonl"), load_pairs(tmp_path / "b.jsonl"))


# --- 1.16 the same messages are the same tokens everywhere --------------------------------------


def test_training_scoring_and_the_loop_see_the_same_tokens(started, tmp_path, monkeypatch):
    model, tokenizer = started
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        save_reward_model(model, tokenizer, folder)
    items, seen = pairs(6), []
    score = Scorer.score_tokens
    monkeypatch.setattr(Scorer, "score_tokens", lambda s, r: seen.append(list(r)) or score(s, r))
    prompts = [
        Prompt(p.id, p.root, p.prompt, False, None, PromptSplit.TRAIN) for p in items
    ]  # fmt: skip
    texts = [item.chosen for item in items]
    apart = RewardModels(one, other, 0.15, Scoring(device="cpu")).score(prompts, texts)
    trained = [row.chosen for row in tokenise(tokenizer, items)]
    assert seen == [trained, trained]
    at_once = RewardModels(one, one, 0.15, Scoring(device="cpu")).score(prompts, texts)
    assert seen == [trained] * 3  # one folder for both is asked once
    for both, single in zip(apart, at_once, strict=True):
        assert torch.equal(both, single)


# --- 1.19 what is left over --------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [1, 4, 16, 17, 100])
def test_every_pair_is_trained_on_once_an_epoch(config, started, per_step):
    _, tokenizer = started
    rows = tokenise(tokenizer, pairs(17))
    steps = list(step_pairs(rows, replace(config, pairs_per_step=per_step, epochs=2)))
    half = len(steps) // 2
    for epoch in (steps[:half], steps[half:]):
        used = Counter(row.pair.id for step in epoch for row in step)
        assert used == Counter(f"pair-{n}" for n in range(17))


def test_a_step_counts_its_left_over_minibatch_as_it_is(config, started):
    """17 pairs in minibatches that do not divide them: each counts one seventeenth."""
    losses = []
    for tokens in (120, 100_000):
        model, tokenizer = start_from_chat_model(config.model, 0)
        rows = tokenise(tokenizer, pairs(17))
        cut = replace(config, tokens_per_minibatch=tokens)
        figures = optimiser_step(model, build_optimiser(model, cut), rows, cut, 1, 9)
        losses.append((figures["loss"], figures["gradient_norm"], figures["accuracy"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
