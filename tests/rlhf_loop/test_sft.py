import json
from dataclasses import replace

import pytest
import torch

from reward.preferences import Message
from reward.run_folder import RunFolder
from rlhf_loop.config import SFTConfig
from rlhf_loop.policy import load_chat_model
from rlhf_loop.sft import (
    IGNORED,
    AnswerRow,
    answer_loss,
    answer_row,
    batch_logits,
    learning_rate,
    packed_batch,
    padded_batch,
    train,
)
from tests.tiny_models import CONFIGS, tiny_chat_model

DIALOGUE = [
    Message("user", "How long?"), Message("assistant", "Two years."),
    Message("user", "Why?"), Message("assistant", "By law."),
]  # fmt: skip


def test_the_loss_is_the_mean_over_answer_tokens():
    """Two packed samples with the negative log-likelihoods 2, 1, 3 | .5, .5, 1 | 4 | .25, .75."""
    nll = torch.tensor([2, 1, 3, 0.5, 0.5, 1, 4, 0.25, 0.75], dtype=torch.float64)
    mask = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    # Two tokens, of which token 0 has the wanted likelihood; position t predicts label t + 1.
    chance = (-nll).exp()
    logits = torch.stack([chance.log(), (1 - chance).log()], dim=-1)[None]
    logits = torch.cat([logits, torch.zeros(1, 1, 2)], dim=1)
    labels = torch.cat([torch.tensor([IGNORED]), torch.where(mask, 0, IGNORED)])[None]
    assert answer_loss(logits, labels, int(mask.sum())).item() == pytest.approx(0.6, abs=1e-6)
    everything = torch.zeros(1, 10, dtype=torch.long)
    assert answer_loss(logits, everything, 9).item() == pytest.approx(1.444444, abs=1e-6)


def test_only_the_last_answer_is_learnt(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    row = answer_row(tokenizer, DIALOGUE)
    assert tokenizer.decode(row.tokens[row.answer_start :]) == "By law.<|end|>"
    assert tokenizer.decode(row.tokens[: row.answer_start]).endswith("Why?<|end|><|assistant|>")


def test_what_follows_the_end_token_is_cut_off(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    row = answer_row(tokenizer, DIALOGUE, frozenset({tokenizer.eos_token_id}))
    assert tokenizer.decode(row.tokens[row.answer_start :]) == "By law.<|end|>"


def test_a_template_that_rewrites_the_prompt_is_refused(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ValueError, match="writes a prompt differently"):
        answer_row(tokenizer, DIALOGUE)


def test_a_dialogue_without_an_answer_is_refused(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    with pytest.raises(ValueError, match="allowed is an assistant's answer"):
        answer_row(tokenizer, DIALOGUE[:3])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_packed_rows_have_the_loss_and_gradient_of_single_ones(architecture, tmp_path):
    model, tokenizer = load_chat_model(tiny_chat_model(tmp_path, architecture), "cpu")
    texts = ["Yes.", "Two years from the day.", "No, never open it.", "Maybe."]
    rows = [
        answer_row(tokenizer, [Message("user", "How?" * i), Message("assistant", text)])
        for i, text in enumerate(texts, start=1)
    ]
    count = sum(len(row.tokens) - row.answer_start for row in rows)
    batches = [padded_batch([row], 0) for row in rows]
    expected = sum(answer_loss(batch_logits(model, b), b.labels, count) for b in batches)
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    longest = max(len(row.tokens) for row in rows)
    for batch in (padded_batch(rows, 0), packed_batch(rows, 2 * longest, 0)):
        model.zero_grad()
        loss = answer_loss(batch_logits(model, batch), batch.labels, count)
        loss.backward()
        torch.testing.assert_close(loss, expected)
        for found, wanted in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(found.grad, wanted, rtol=1e-4, atol=1e-6)  # float32 sums
    assert len(batch.tokens) < len(rows)


def test_no_row_is_packed_beyond_the_longest():
    rows = [AnswerRow([1] * n, 1) for n in (5, 4, 3, 2)]
    batch = packed_batch(rows, 7, pad_id=0)
    assert (batch.tokens == 1).sum(dim=1).tolist() == [7, 7]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 0, 1, 2]]


def test_the_learning_rate_is_a_cosine_after_warm_up(tmp_path):
    config = SFTConfig(data=tmp_path, model=tmp_path, out=tmp_path, learning_rate=2.0)
    assert [learning_rate(step, 4, config) for step in (0, 2)] == pytest.approx([2.0, 1.0])
    warm = SFTConfig(data=tmp_path, model=tmp_path, out=tmp_path, warmup_steps=2, learning_rate=2.0)
    assert [learning_rate(step, 4, warm) for step in range(3)] == pytest.approx([1.0, 2.0, 2.0])


def test_fine_tuning_lowers_the_loss(chat_model, tmp_path):
    data = tmp_path / "data.jsonl"
    asked = {"role": "user", "content": "Hi"}
    texts = ["Good day."] * 8 + ["long " * 200]
    lines = [{"messages": [asked, {"role": "assistant", "content": text}]} for text in texts]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = SFTConfig(
        data=data, model=chat_model, out=tmp_path / "run", epochs=6, batch=4,
        learning_rate=3e-3, max_length=64, forward_rows=3,
    )  # fmt: skip
    result = train(config)
    losses = [line["sft/loss"] for line in RunFolder(config.out).metrics()]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]
    assert (result["rows"], result["too_long"]) == (8, 1)
    assert train(config) == result  # a finished run does nothing
    load_chat_model(config.out / "model", "cpu")


@pytest.fixture
def config(chat_model, tmp_path):
    data = tmp_path / "data.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]}
        for text in ("Good day.", "Two years.", "No.", "By law, since you ask.")
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SFTConfig(
        data=data, model=chat_model, out=tmp_path / "run", epochs=4, batch=2, learning_rate=3e-3,
        checkpoint_every=2,
    )  # fmt: skip


class Stopped(Exception):
    pass


def stopped_after(step, config, monkeypatch):
    """Fine-tune until that step is done."""
    log_metrics = RunFolder.log_metrics

    def stop(run, now, *args, **figures):
        log_metrics(run, now, *args, **figures)
        if now == step:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop)
        with pytest.raises(Stopped):
            train(config)
    return RunFolder(config.out)


def test_a_stopped_run_ends_like_an_uninterrupted_one(config, monkeypatch, tmp_path):
    run = stopped_after(5, config, monkeypatch)
    names = {file.name for file in run.resumable_checkpoint().iterdir()}
    assert names == {
        "weights.safetensors", "optimiser.safetensors", "position.json", "sha256.json"
    }  # fmt: skip
    whole = replace(config, out=tmp_path / "whole")
    assert train(config) == train(whole)
    weights = [(path / "model/model.safetensors").read_bytes() for path in (config.out, whole.out)]
    assert weights[0] == weights[1]
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))


def test_a_damaged_checkpoint_is_refused(config, monkeypatch):
    run = stopped_after(5, config, monkeypatch)
    file = run.checkpoint / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged: it is not what was"):
        train(config)
