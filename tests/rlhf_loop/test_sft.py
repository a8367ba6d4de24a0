import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from reward.preferences import MalformedLine, Message
from reward.run_folder import RunFolder
from rlhf_loop.config import LearntAnswers, SFTConfig
from rlhf_loop.learning.likelihood import TokenRow, reading, token_logprobs
from rlhf_loop.learning.steps import divided, learning_rate
from rlhf_loop.policy import load_chat_model
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from rlhf_loop.sft import (
    AnswerRow,
    _gradients,
    answer_loss,
    answer_row,
    joined,
    main,
    pack,
    read_answers,
    step_rows,
    token_weights,
    train,
)
from tests.tiny_models import CONFIGS, tiny_chat_model

DIALOGUE = [
    Message("user", "How long?"), Message("assistant", "Two years."),
    Message("user", "Why?"), Message("assistant", "By law."),
]  # fmt: skip


def test_the_loss_is_the_mean_over_answer_tokens():
    """Llama 2, section 3.1, where prompts have no loss: two packed samples with the negative
    log-likelihoods 2, 1, 3 | .5, .5, 1 | 4 | .25, .75, of which the second and the last part are
    answers."""
    nll = torch.tensor([0.5, 0.5, 1, 0.25, 0.75], dtype=torch.float64)
    for mean, expected in (("tokens", 0.6), ("answers", 0.583333)):
        weights = [
            w for w, n in zip(token_weights([3, 2], mean), (3, 2), strict=True) for _ in range(n)
        ]
        assert answer_loss(-nll, torch.tensor(weights)).item() == pytest.approx(expected, abs=1e-6)
    unmasked = torch.tensor([2, 1, 3, 0.5, 0.5, 1, 4, 0.25, 0.75])
    assert answer_loss(-unmasked, torch.tensor([1 / 9] * 9)).item() == pytest.approx(1.444444)


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


def test_an_empty_answer_is_refused(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    with pytest.raises(ValueError, match="allowed is an assistant's answer"):
        answer_row(tokenizer, [*DIALOGUE[:3], Message("assistant", " ")])


# --- packing -------------------------------------------------------------------------------------


def texts_as_rows(tokenizer):
    texts = ["Yes.", "Two years from the day.", "No, never open it.", "Maybe."]
    return [
        answer_row(tokenizer, [Message("user", "How?" * i), Message("assistant", text)])
        for i, text in enumerate(texts, start=1)
    ]


def config_of(tmp_path, **changes):
    paths = {"data": (tmp_path / "data",), "model": tmp_path, "out": tmp_path / "run"}
    return SFTConfig(**{**paths, "epochs": 1, **changes})


def gradients_of(model, step, config):
    model.zero_grad()
    with reading(model) as read:
        figures = _gradients(read, step, config)
    return figures, [p.grad.clone() for p in model.parameters()]


def by_definition(model, rows, mean):
    """Each row alone through the whole model; (loss, gradients)."""
    model.zero_grad()
    parts = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.tokens])).logits[0, row.answer_start - 1 : -1]
        answer = torch.tensor(row.tokens[row.answer_start :])
        parts.append(-torch.log_softmax(logits.float(), -1).gather(1, answer[:, None])[:, 0])
    loss = (
        torch.cat(parts).mean()
        if mean == "tokens"
        else torch.stack([p.mean() for p in parts]).mean()
    )
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("mean", ["tokens", "answers"])
def test_packed_rows_have_the_loss_and_gradient_of_single_ones(architecture, mean, tmp_path):
    model, tokenizer = load_chat_model(tiny_chat_model(tmp_path, architecture), "cpu")
    rows = texts_as_rows(tokenizer)
    expected, wanted = by_definition(model, rows, mean)
    steps = {"none": [[row] for row in rows], "within": [rows[:3], rows[3:]]}
    # 1.14: nothing depends on how a step is cut into minibatches
    for (packing, step), tokens in itertools.product(steps.items(), (1, 60, 4096)):
        config = config_of(tmp_path, packing=packing, loss_mean=mean, tokens_per_minibatch=tokens)
        figures, found = gradients_of(model, step, config)
        assert figures["sft/loss"] == pytest.approx(expected, rel=1e-5)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # float32 sums


def test_bfloat16_and_activations_computed_again(chat_model, tmp_path):
    """The trunk rounds and nothing else does; what is computed again is what was."""
    seen = []
    for dtype, again in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        model, tokenizer = load_chat_model(chat_model, "cpu")
        rows = texts_as_rows(tokenizer)
        config = config_of(tmp_path, train_dtype=dtype, recompute_activations=again)
        with divided(model, torch.device("cpu"), config) as read:
            first, runs = model.base_model.layers[0].mlp, []
            first.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
            logprobs = token_logprobs(read, [joined([row]) for row in rows])
            assert logprobs.dtype == torch.float32
            runs.clear()
            figures = _gradients(read, [[row] for row in rows], config)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert gradient.dtype == torch.float32
        seen.append((figures["sft/loss"], gradient, len(runs)))
    exact, rounded, again = seen
    assert rounded[0] != exact[0]
    assert rounded[0] == pytest.approx(exact[0], rel=1e-3)
    assert 1e-4 < (rounded[1] - exact[1]).norm() / exact[1].norm() < 1e-2
    assert torch.equal(again[1], rounded[1])
    assert (exact[2], rounded[2], again[2]) == (1, 1, 2)


def test_no_pad_goes_through_the_model(chat_model, tmp_path):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    rows = texts_as_rows(tokenizer)
    figures, _ = gradients_of(model, [rows], config_of(tmp_path, packing="within"))
    assert figures["sft/computed_tokens"] <= figures["sft/row_tokens"]
    assert figures["sft/row_tokens"] == sum(len(row.tokens) for row in rows)


def test_across_tokens_see_the_dialogue_before(chat_model, tmp_path):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    first, second = texts_as_rows(tokenizer)[:2]
    both = joined([first, second])
    logits = model(input_ids=torch.tensor([first.tokens + second.tokens])).logits[0].float()
    expected = torch.stack([logits[w - 1].log_softmax(-1)[both.tokens[w]] for w in both.wanted])
    with reading(model) as read:
        torch.testing.assert_close(token_logprobs(read, [both]), expected, rtol=1e-5, atol=1e-5)
        alone = token_logprobs(read, [joined([first]), joined([second])])
    answers = len(first.tokens) - first.answer_start
    torch.testing.assert_close(alone[:answers], expected[:answers], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone[answers:], expected[answers:], atol=1e-4)
    across, _ = gradients_of(model, [[first, second]], config_of(tmp_path, packing="across"))
    assert across["sft/loss"] == pytest.approx(-expected.mean().item(), rel=1e-5)


def test_a_row_s_answers_are_found_again_in_the_joined_row():
    assert joined([AnswerRow([1, 2, 3], 1), AnswerRow([4, 5], 1)]) == TokenRow(
        [1, 2, 3, 4, 5], [1, 2, 4]
    )


def test_no_row_is_packed_beyond_the_longest():
    rows = [AnswerRow([number] * length, 1) for number, length in enumerate((5, 2, 4, 3, 7, 1))]
    packed = pack(rows, 7)
    assert [[len(row.tokens) for row in part] for part in packed] == [[5, 2], [4, 3], [7], [1]]
    assert [row for part in packed for row in part] == rows


@pytest.mark.parametrize("packing", ["none", "within", "across"])
def test_every_answer_is_learnt_once_an_epoch(packing, tmp_path):
    """1.19: seventeen answers in steps of four."""
    rows = [AnswerRow([number] * (1 + number % 5), 1) for number in range(17)]
    config = config_of(tmp_path, packing=packing, max_tokens=6, batch=4, epochs=2, seed=3)
    steps = list(step_rows(rows, config, 6))
    learnt = [row for step in steps for packed in step for row in packed]
    half = len(learnt) // 2
    assert sorted(learnt[:half]) == sorted(learnt[half:]) == sorted(rows)
    assert learnt[:half] != learnt[half:]  # drawn anew
    assert max(len(step) for step in steps) == 4
    assert list(step_rows(rows, config, 6)) == steps


def test_the_learning_rate_is_a_cosine_after_warm_up(tmp_path):
    config = config_of(tmp_path, learning_rate=2.0)
    assert [learning_rate(step, 4, config) for step in (0, 2)] == pytest.approx([2.0, 1.0])
    warm = replace(config, warmup_steps=2)
    assert [learning_rate(step, 4, warm) for step in range(3)] == pytest.approx([1.0, 2.0, 2.0])
    ends = replace(config, final_learning_rate_share=0.1)
    assert learning_rate(2, 4, ends) == pytest.approx(2.0 * 0.55)
    assert learning_rate(3, 4, replace(config, schedule="constant")) == 2.0


def test_fine_tuning_lowers_the_loss(chat_model, tmp_path):
    data = tmp_path / "data.jsonl"
    asked = {"role": "user", "content": "Hi"}
    texts = ["Good day."] * 8 + ["long " * 200]
    lines = [{"messages": [asked, {"role": "assistant", "content": text}]} for text in texts]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = SFTConfig(
        data=(data,), model=chat_model, out=tmp_path / "run", epochs=6, batch=4,
        learning_rate=3e-3, max_tokens=64, tokens_per_minibatch=40,
    )  # fmt: skip
    result = train(config)
    losses = [line["sft/loss"] for line in RunFolder(config.out).metrics()]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]
    assert (result["rows"], result["too_long"]) == (8, 1)
    assert train(config) == result  # a finished run does nothing
    load_chat_model(config.out / "model", "cpu")


def positions_learnt(folder, chat_model):
    """A chat model that knows the first 64 positions and no other."""
    torch.manual_seed(0)
    _, tokenizer = load_chat_model(chat_model, "cpu")
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=4,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("packing", ["none", "within", "across"])
def test_no_row_is_longer_than_the_model_s_context(chat_model, tmp_path, packing):
    """Beyond 64 tokens this model reads from nowhere: an IndexError, on a GPU an aborted run."""
    model = positions_learnt(tmp_path / "chat", chat_model)
    data = written(tmp_path / "data", *[as_line(DIALOGUE)] * 4, as_line(DIALOGUE * 6))
    config = SFTConfig(
        data=(data,), model=model, out=tmp_path / "run", device="cpu", epochs=1, batch=2,
        packing=packing,
    )  # fmt: skip
    result = train(config)
    assert (result["rows"], result["too_long"]) == (4, 1)
    longer = written(tmp_path / "longer", as_line(DIALOGUE * 6))
    with pytest.raises(ValueError, match="no answer to fine-tune on that has with its prompt 64"):
        train(replace(config, data=(longer,), out=tmp_path / "other"))


# --- the data ------------------------------------------------------------------------------------


def written(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def as_line(messages, **fields):
    return {"messages": [message._asdict() for message in messages], **fields}


def test_demonstrations_and_imported_lines_are_read_together(chat_model, tmp_path):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    exported = written(tmp_path / "a", as_line(DIALOGUE, split="train", criterion="safety"))
    imported = written(tmp_path / "b", as_line(DIALOGUE[:2]), as_line(DIALOGUE))
    rows, _ = read_answers((exported, imported), tokenizer, frozenset())
    answers = [tokenizer.decode(row.tokens[row.answer_start :]) for row in rows]
    assert answers == ["By law.<|end|>", "Two years.<|end|>", "By law.<|end|>"]


def test_every_answer_of_a_dialogue_may_be_learnt(chat_model, tmp_path):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    file = written(tmp_path / "a", as_line(DIALOGUE), as_line(DIALOGUE[:2]))
    rows, _ = read_answers((file,), tokenizer, frozenset(), LearntAnswers.ALL)
    answers = [tokenizer.decode(row.tokens[row.answer_start :]) for row in rows]
    assert answers == ["Two years.<|end|>", "By law.<|end|>", "Two years.<|end|>"]
    config = config_of(tmp_path, batch=3, seed=1)
    ((*order,),) = step_rows(rows, config, 4096)
    assert [[rows[0]], [rows[1]]] in (order[:2], order[1:])  # a dialogue stays together
    figures, _ = gradients_of(model, [[rows[0]], [rows[1]]], config)
    # Its history is shared, and an answer's last token is no input.
    assert figures["sft/computed_tokens"] == len(rows[1].tokens) - 1


def test_what_a_line_says_is_learnt_goes_before_the_setting(chat_model, tmp_path):
    """Ghost Attention's earlier answers are context, section 3.3."""
    _, tokenizer = load_chat_model(chat_model, "cpu")
    lines = [as_line(DIALOGUE, answers=which) for which in ("last", "all", None)]
    file = written(tmp_path / "a", *lines)
    counts = {}
    for setting in LearntAnswers:
        rows, _ = read_answers((file,), tokenizer, frozenset(), setting)
        found = Counter(int(row.dialogue.rpartition(" ")[2]) for row in rows)
        counts[setting] = [found[number] for number in (1, 2, 3)]
    assert counts == {"last": [1, 2, 1], "all": [1, 2, 2]}
    written(file, as_line(DIALOGUE), as_line(DIALOGUE, answers="first"))
    with pytest.raises(MalformedLine, match="line 2: answers is 'first', allowed is last, all"):
        read_answers((file,), tokenizer, frozenset())


def test_a_held_out_dialogue_is_refused(chat_model, tmp_path):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    file = written(tmp_path / "a", as_line(DIALOGUE), as_line(DIALOGUE, split="holdout"))
    with pytest.raises(MalformedLine, match="line 2: split is 'holdout', allowed is train, or no"):
        read_answers((file,), tokenizer, frozenset())


def test_dialogues_of_held_out_prompts_are_left_out_and_counted(chat_model, tmp_path, capsys):
    """Known by what was asked, as it was typed anew, or by the root that a line names."""
    asked, other = [Message("user", " HOW old?"), DIALOGUE[-1]], [Message("user", "Why?")]
    test, validation, train = (
        Prompt(name, root, (Message("user", text),), False, None, PromptSplit(name))
        for name, root, text in (
            ("test", "named", "How old?"), ("validation", "other", "When?"), ("train", "t", "Hi")
        )
    )  # fmt: skip
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, [test, validation, train])
    file = written(
        tmp_path / "a", as_line(asked), as_line([*other, DIALOGUE[-1]], root="named"),
        as_line([*validation.messages, DIALOGUE[-1]], split="train"),
        as_line([*train.messages, DIALOGUE[-1]]), as_line(DIALOGUE, root=7),
    )  # fmt: skip
    flags = ["--data", str(file), "--model", str(chat_model), "--device", "cpu", "--epochs", "1"]
    main([*flags, "--out", str(tmp_path / "all")])
    assert "fine-tuned on 5 answers, 0 were too long\n" in capsys.readouterr().out
    main([*flags, "--out", str(tmp_path / "run"), "--prompts", str(prompts)])
    assert ", 3 dialogues of held-out prompts were left out" in capsys.readouterr().out
    result = RunFolder(tmp_path / "run").result()
    assert (result["rows"], result["held_out"]) == (2, 3)
    provenance = json.loads(RunFolder(tmp_path / "run").provenance_file.read_text())
    assert provenance["inputs"].keys() == {"data 1", "model", "prompts"}
    main([*flags, "--out", str(tmp_path / "further"), "--held-out", str(prompts)])
    assert RunFolder(tmp_path / "further").result() == result
    flags[1] = str(written(tmp_path / "b", as_line(asked)))
    with pytest.raises(SystemExit, match=r"all 1 dialogues are of held-out prompts of .*prompts"):
        main([*flags, "--out", str(tmp_path / "none"), "--prompts", str(prompts)])


def test_a_line_that_cannot_be_learnt_is_named(chat_model, tmp_path):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    file = written(tmp_path / "a", as_line(DIALOGUE), as_line(DIALOGUE[:3]))
    with pytest.raises(ValueError, match=r"a, line 2: messages end with .*allowed is an assistant"):
        read_answers((file,), tokenizer, frozenset())


def test_the_command_ends_with_a_sentence(chat_model, tmp_path):
    file = written(tmp_path / "a", as_line(DIALOGUE, split="test"))
    flags = ["--data", str(file), "--model", str(chat_model), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="line 1: split is 'test', allowed is train"):
        main([*flags, "--device", "cpu"])


# --- stopped and gone on with --------------------------------------------------------------------


@pytest.fixture
def config(chat_model, tmp_path):
    data = tmp_path / "data.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]}
        for text in ("Good day.", "Two years.", "No.", "By law, since you ask.")
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SFTConfig(
        data=(data,), model=chat_model, out=tmp_path / "run", epochs=4, batch=2, learning_rate=3e-3,
        checkpoint_every_steps=2,
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


def test_a_run_stopped_after_its_last_step_keeps_its_figures(config, monkeypatch, tmp_path):
    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(
            "rlhf_loop.learning.steps.replace_folder", stop
        )  # the model is about to be saved
        with pytest.raises(Stopped):
            train(config)
    assert train(config) == train(replace(config, out=tmp_path / "whole"))


def test_data_that_changed_in_between_is_refused(config, monkeypatch):
    stopped_after(5, config, monkeypatch)
    text = config.data[0].read_text()
    config.data[0].write_text(text.replace("By law", "By rule"))
    with pytest.raises(ValueError, match=r"data 1 .* has changed since"):
        train(config)


def test_a_damaged_checkpoint_is_refused(config, monkeypatch):
    run = stopped_after(5, config, monkeypatch)
    file = run.checkpoint / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged: it is not what was"):
        train(config)
