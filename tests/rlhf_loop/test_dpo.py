"""DPO: its loss against worked values and a second derivation, and its run."""

import json
import math
from dataclasses import replace

import pytest
import torch

from reward.lines import write_records
from reward.preferences import Message, write_pairs
from reward.run_folder import RunFolder
from reward.settings import to_flags, to_mapping
from rlhf_loop.config import DPOConfig
from rlhf_loop.dpo import (
    _gradients,
    answer_pairs,
    dpo_loss,
    main,
    summary,
    train,
    with_reference,
)
from rlhf_loop.learning.likelihood import reading
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from tests.reward.pairs import pair, pairs
from tests.rlhf_loop.conftest import read_lines
from tests.tiny_models import CONFIGS, other_words, tiny_chat_model


@pytest.fixture
def config(chat_model, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", pairs(12))
    return DPOConfig(
        pairs=(tmp_path / "pairs.jsonl",), policy=chat_model, out=tmp_path / "run", device="cpu",
        batch=5, epochs=3, learning_rate=3e-3, warmup_steps=1, checkpoint_every_steps=2,
        tokens_per_minibatch=90,
    )  # fmt: skip


def changed(config, **changes):
    return replace(config, **changes)


def test_it_works(config):
    result = train(config)
    lines = RunFolder(config.out).metrics()
    assert [line["step"] for line in lines] == list(range(1, 10))  # 5 + 5 + 2 pairs, three times
    assert [line["dpo/pairs"] for line in lines[:3]] == [5, 5, 2]
    # The policy begins as its reference: no answer is rewarded yet.
    assert lines[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["dpo/margin"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["dpo/loss"] < lines[0]["dpo/loss"]
    assert lines[-1]["dpo/margin"] > 0.05
    assert (result["pairs"], result["too_long"], result["steps"]) == (12, 0, 9)
    assert train(config) == result  # a finished run does nothing
    load_chat_model(config.out / "model", "cpu")


# --- the loss ------------------------------------------------------------------------------------


def test_worked_values():
    """h = beta ((w - w_ref) - (l - l_ref)), by hand: -12 + 14 = 2, -9 + 8 = -1, so 0.1 · 3 = 0.3;
    the reverse; and no difference."""
    losses = dpo_loss(
        torch.tensor([-12.0, -9.0, -3.0]), torch.tensor([-9.0, -12.0, -4.0]),
        torch.tensor([-14.0, -8.0, -2.0]), torch.tensor([-8.0, -14.0, -3.0]), beta=0.1,
    )  # fmt: skip
    assert losses.tolist() == pytest.approx([0.554355, 0.854355, 0.693147], abs=1e-6)


def test_smoothing_mixes_both_ways_round():
    logps = [torch.tensor([value]) for value in (-12.0, -9.0, -14.0, -8.0)]
    smoothed = dpo_loss(*logps, beta=0.1, smoothing=0.25)
    assert smoothed.item() == pytest.approx(0.75 * 0.554355 + 0.25 * 0.854355, abs=1e-6)


def test_extreme_margins_are_finite():
    far = [torch.tensor([value], requires_grad=True) for value in (-1e4, 1e4, 0.0, 0.0)]
    loss = dpo_loss(*far, beta=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert far[0].grad.item() == pytest.approx(-1.0)


def test_the_gradient_is_the_one_of_the_paper():
    """Section 4: -beta sigmoid(reward of rejected - reward of chosen) · (grad w - grad l)."""
    values = torch.tensor(
        [[-3.0, -7.0], [-5.0, -6.0], [-4.0, -6.5], [-4.5, -6.0]], dtype=torch.float64
    )
    chosen, rejected, ref_chosen, ref_rejected = values
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.3).sum().backward()
    for i in range(2):
        reward = [0.3 * (float(values[j, i]) - float(values[j + 2, i])) for j in range(2)]
        wrong = 1 / (1 + math.exp(-(reward[1] - reward[0])))
        assert chosen.grad[i].item() == pytest.approx(-0.3 * wrong, abs=1e-12)
        assert rejected.grad[i].item() == pytest.approx(0.3 * wrong, abs=1e-12)


def answer_logprob(model, tokenizer, messages, text):
    """Straight from the definition: the whole dialogue alone, its answer's tokens summed."""
    prompt = tokenizer.apply_chat_template(
        [m._asdict() for m in messages], add_generation_prompt=True, return_dict=False
    )
    full = tokenizer.apply_chat_template(
        [*(m._asdict() for m in messages), {"role": "assistant", "content": text}],
        return_dict=False,
    )
    logits = model(input_ids=torch.tensor([full])).logits[0].double()
    total = 0.0
    for place in range(len(prompt), len(full)):
        exponents = [math.exp(x) for x in logits[place - 1].tolist()]
        total += math.log(exponents[full[place]] / math.fsum(exponents))
    return total


@torch.no_grad()
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_run_s_first_loss_is_that_of_two_models_read_one_by_one(architecture, tmp_path):
    """A policy that is not its reference; sums of token log-probabilities by hand."""
    policy_folder = tiny_chat_model(tmp_path / "policy", architecture, seed=0)
    reference_folder = tiny_chat_model(tmp_path / "reference", architecture, seed=1)
    judged = pairs(4)
    write_pairs(tmp_path / "pairs.jsonl", judged)
    config = DPOConfig(
        pairs=(tmp_path / "pairs.jsonl",), policy=policy_folder, reference=reference_folder,
        out=tmp_path / "run", device="cpu", beta=0.5, batch=4, tokens_per_minibatch=70,
    )  # fmt: skip
    with torch.enable_grad():
        train(config)
    models = [load_chat_model(folder, "cpu") for folder in (policy_folder, reference_folder)]
    expected = []
    for one in judged:
        (chosen, ref_chosen), (rejected, ref_rejected) = (
            [answer_logprob(*model, one.prompt, text) for model in models]
            for text in (one.chosen, one.rejected)
        )
        margin = 0.5 * ((chosen - ref_chosen) - (rejected - ref_rejected))
        expected.append(math.log1p(math.exp(-margin)))
    first = RunFolder(config.out).metrics()[0]
    assert first["dpo/loss"] == pytest.approx(sum(expected) / 4, abs=1e-5)


# --- pairs through the model ---------------------------------------------------------------------


def test_the_two_answers_share_their_prompt(chat_model, config):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    question = Message("user", "How long is the warranty of my kettle, if it ever breaks?")
    judged = [pair(1, prompt=(question,), chosen="Two years.", rejected="No.")]
    (found,) = answer_pairs(tokenizer, judged, frozenset({tokenizer.eos_token_id}))
    shared = 0
    while found.chosen.tokens[shared] == found.rejected.tokens[shared]:
        shared += 1
    with reading(model) as read:
        figures = _gradients(read, [found], changed(config, tokens_per_minibatch=4096))
    both = len(found.chosen.inputs) + len(found.rejected.inputs)
    assert figures["dpo/computed_tokens"] == both - shared
    wanted = [found.chosen.tokens[place] for place in found.chosen.wanted]
    assert tokenizer.decode(wanted) == "Two years.<|end|>"  # 1.3: its end token is learnt


def test_the_step_does_not_depend_on_how_it_is_cut(chat_model, config):
    """1.14"""
    model, tokenizer = load_chat_model(chat_model, "cpu")
    found = [
        one._replace(ref_chosen=-20.0, ref_rejected=-21.0 + i)
        for i, one in enumerate(answer_pairs(tokenizer, pairs(7), frozenset()))
    ]
    seen = []
    for tokens in (1, 100, 10_000):
        model.zero_grad()
        with reading(model) as read:
            figures = _gradients(read, found, changed(config, tokens_per_minibatch=tokens))
        seen.append((figures["dpo/loss"], [p.grad.clone() for p in model.parameters()]))
    for loss, gradient in seen[1:]:
        assert loss == pytest.approx(seen[0][0], abs=1e-6)
        for ours, theirs in zip(gradient, seen[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # float32 sums


def test_the_reference_is_computed_once(config, monkeypatch):
    train(config)
    stored = read_lines(config.out / "reference.jsonl")
    assert len(stored) == 12
    _, tokenizer = load_chat_model(config.policy, "cpu")
    every = answer_pairs(tokenizer, pairs(12), frozenset())
    monkeypatch.setattr("rlhf_loop.dpo._reference", None)  # a call would be a TypeError
    found = with_reference(config, RunFolder(config.out), every, None, tokenizer)
    assert [one.ref_chosen for one in found] == [line["chosen"] for line in stored]


def test_a_reference_of_other_tokens_is_refused(config, tmp_path):
    """Its log-probabilities would be those of other words."""
    reference = other_words(tiny_chat_model(tmp_path / "reference"))
    with pytest.raises(ValueError, match=r"reference has the id \d+ for '.*', and the policy has"):
        train(changed(config, reference=reference))
    assert not (config.out / "reference.jsonl").exists()


# --- what is trained on --------------------------------------------------------------------------


def test_only_pairs_of_the_criterion_and_none_twice(config, tmp_path):
    both = [*pairs(6), *pairs(4, "safety", first=50)]
    for name in ("old.jsonl", "new.jsonl"):
        write_pairs(tmp_path / name, both)
    files = (tmp_path / "old.jsonl", tmp_path / "new.jsonl")
    assert train(changed(config, pairs=files, epochs=1))["pairs"] == 10
    safety = changed(config, pairs=files, epochs=1, criterion="safety", out=tmp_path / "safety")
    assert train(safety)["pairs"] == 4


def test_a_pair_of_two_files_is_learnt_as_the_later_one_judges_it(config, tmp_path):
    """A snapshot with further verdicts may choose the other answer."""
    every = pairs(3)
    turned = replace(every[1], chosen=every[1].rejected, rejected=every[1].chosen)
    files = (tmp_path / "old.jsonl", tmp_path / "new.jsonl")
    write_pairs(files[0], every)
    write_pairs(files[1], [turned])
    assert train(changed(config, pairs=files, epochs=1))["pairs"] == 3
    both = read_lines(config.out / "reference.jsonl")
    write_pairs(files[0], [every[0], turned, every[2]])
    train(changed(config, pairs=files[:1], epochs=1, out=tmp_path / "one"))
    assert read_lines(tmp_path / "one" / "reference.jsonl") == both


@pytest.mark.parametrize("other", [
    pair(1, chosen="Two."), pair(1, rejected="Two."), pair(1, prompt=(Message("user", "Two?"),)),
    pair(1, criterion="safety"),
])  # fmt: skip
def test_an_id_of_two_different_pairs_is_refused(config, tmp_path, other):
    """In two files, and in one: the first pair was silently dropped."""
    files = (tmp_path / "harmless.jsonl", tmp_path / "helpful.jsonl")
    for file, stored in zip(files, (pair(1), other), strict=True):
        write_pairs(file, [pair(0), stored])
    sentence = f"pair '{other.id}' stands in {files[0]} and in {files[1]} with another prompt"
    with pytest.raises(ValueError, match=sentence):
        train(changed(config, pairs=files))
    write_pairs(files[0], [pair(1), other])
    with pytest.raises(
        ValueError, match=f"pair '{other.id}' stands in {files[0]} and in {files[0]}"
    ):
        train(changed(config, pairs=files[:1], out=tmp_path / "one"))


def test_over_long_pairs_are_left_out_and_counted(config, tmp_path):
    longer = [*pairs(5), pair(90, chosen="long " * 100)]
    write_pairs(tmp_path / "pairs.jsonl", longer)
    result = train(changed(config, max_tokens=60, epochs=1))
    assert (result["pairs"], result["too_long"]) == (5, 1)
    with pytest.raises(
        ValueError, match="all 6 pairs are longer than the 5 tokens that max_tokens"
    ):
        train(changed(config, max_tokens=5, out=tmp_path / "other"))


def test_no_pair_is_longer_than_a_model_s_context(config, tmp_path):
    """The policy's, 256 tokens, or the reference's."""
    texts = {90: "long " * 25, 91: "long " * 100}  # some 115 and 415 tokens
    longer = [*pairs(5), *(pair(number, chosen=text) for number, text in texts.items())]
    write_pairs(tmp_path / "pairs.jsonl", longer)
    result = train(changed(config, epochs=1))
    assert (result["pairs"], result["too_long"]) == (6, 1)
    reference = tiny_chat_model(tmp_path / "reference")
    kept = json.loads((reference / "config.json").read_text())
    (reference / "config.json").write_text(json.dumps(kept | {"max_position_embeddings": 64}))
    result = train(changed(config, epochs=1, reference=reference, out=tmp_path / "shorter"))
    assert (result["pairs"], result["too_long"]) == (5, 2)


def test_pairs_of_held_out_prompts_are_left_out_and_counted(config, tmp_path):
    every = pairs(4)
    held_out = Prompt("p", "other", every[0].prompt, False, None, PromptSplit.VALIDATION)
    write_pairs(config.pairs[0], every)
    write_prompts(tmp_path / "prompts.jsonl", [held_out, replace(held_out, id="q", root="r")])
    with_prompts = changed(config, prompts=tmp_path / "prompts.jsonl", epochs=1)
    result = train(with_prompts)
    assert (result["pairs"], result["held_out"]) == (3, 1)
    assert summary(result).endswith(", 1 pairs of held-out prompts were left out")
    learnt = {line["id"] for line in read_lines(config.out / "reference.jsonl")}
    assert learnt == {it.id for it in every[1:]}
    by_another = changed(with_prompts, prompts=None, held_out=(with_prompts.prompts,))
    assert train(changed(by_another, out=tmp_path / "further"))["held_out"] == 1
    write_pairs(config.pairs[0], every[:1])
    with pytest.raises(ValueError, match="no pair to learn from, 1 pairs of held-out prompts were"):
        train(changed(with_prompts, out=tmp_path / "none"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"chosen": "Same.", "rejected": "Same."}, "has two identical answers"),
        ({"rejected": " "}, "has an empty answer"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_are_refused(config, fields, sentence):
    write_pairs(config.pairs[0], [pair(1, **fields)])
    with pytest.raises(SystemExit, match=sentence):
        main(to_flags(to_mapping(config)))


def test_no_pair_of_the_criterion_is_refused(config):
    with pytest.raises(ValueError, match=r"pairs.jsonl: no safety pair to learn from"):
        train(changed(config, criterion="safety"))


# --- stopped and gone on with --------------------------------------------------------------------


class Stopped(Exception):
    pass


def test_what_is_stored_is_of_the_reference_that_was_begun_with(config, monkeypatch, tmp_path):
    """Killed before its first step a run goes on with the reference whose lines it holds."""

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("rlhf_loop.dpo.divided", stop)
        with pytest.raises(Stopped):
            train(config)
    stored = read_lines(config.out / "reference.jsonl")
    other = changed(config, reference=tiny_chat_model(tmp_path / "other", seed=5))
    with pytest.raises(ValueError, match=r"was started with reference=None, not '.*/other'"):
        train(other)
    train(config)
    assert read_lines(config.out / "reference.jsonl") == stored


def test_log_probabilities_of_other_pairs_are_refused(config):
    _, tokenizer = load_chat_model(config.policy, "cpu")
    found = answer_pairs(tokenizer, pairs(2), frozenset())
    lines = [{"id": one.id, "chosen": -1.0, "rejected": -2.0} for one in reversed(found)]
    config.out.mkdir()
    write_records(config.out / "reference.jsonl", lines)
    with pytest.raises(ValueError, match=r"reference.jsonl is of other pairs than those that are"):
        with_reference(config, RunFolder(config.out), found, None, tokenizer)


@pytest.mark.parametrize("last", [5, 9])
def test_a_stopped_run_ends_like_an_uninterrupted_one(config, monkeypatch, tmp_path, last):
    log_metrics = RunFolder.log_metrics

    def stop(run, now, *args, **figures):
        log_metrics(run, now, *args, **figures)
        if now == last:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop)
        with pytest.raises(Stopped):
            train(config)
    whole = changed(config, out=tmp_path / "whole")
    assert train(config) == train(whole)
    for name in ("model/model.safetensors", "reference.jsonl"):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (config.out / "metrics.jsonl").open()]
    assert steps == list(range(1, 10))


def test_a_warm_up_longer_than_the_run_is_said(config, capsys):
    train(changed(config, warmup_steps=150))
    assert (
        "warmup_steps is 150 and there are 9 steps: the learning rate comes to 0.00018 of 0.003."
        in capsys.readouterr().out
    )
    train(changed(config, out=config.out.with_name("warm"), warmup_steps=9))
    assert "warmup_steps" not in capsys.readouterr().out
