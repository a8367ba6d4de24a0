"""What cannot be trained on is refused in one sentence, and no step is taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForSequenceClassification

from reward import train as training
from reward import trunk
from reward.model import (
    load_reward_model,
    pick_device,
    save_reward_model,
    start_from_chat_model,
)
from reward.preferences import Message, to_record, write_pairs
from reward.run_folder import RunFolder
from reward.score import Scorer, score_tokens
from reward.score import main as score_main
from reward.train import main
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model

LEFT = {"config.json", "lock", "provenance.json"}
"""What a refused run may leave: what was asked for, and what it would have been made of."""


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def flags(tmp_path, chat) -> dict[str, object]:
    write_pairs(tmp_path / "pairs.jsonl", pairs(16))
    write_pairs(tmp_path / "holdout.jsonl", pairs(8, first=100))
    return {
        "pairs": tmp_path / "pairs.jsonl", "holdout": tmp_path / "holdout.jsonl", "model": chat,
        "out": tmp_path / "run", "criterion": "helpfulness", "device": "cpu", "pairs-per-step": 4,
        "checkpoint-every-steps": 1, "learning-rate": 3e-3,
    }  # fmt: skip


def words(flags: dict[str, object]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def refusal(flags: dict[str, object]) -> str:
    """The sentence with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        main(words(flags))
    return str(ended.value.code)


def refused(flags: dict[str, object]) -> str:
    """The same; and nothing was begun, so that it can be put right in the same folder."""
    sentence = refusal(flags)
    out = Path(str(flags["out"]))
    assert not out.exists() or {path.name for path in out.iterdir()} <= LEFT
    assert "\n" not in sentence
    return sentence


def test_it_is_one_sentence_on_stderr_and_exit_status_1(flags):
    write_pairs(flags["pairs"], [pair(1), pair(3, chosen=" \n")])
    command = [sys.executable, "-m", "reward.train", *words(flags)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert child.stderr == f"{flags['pairs']}: pair 'pair-3' has an empty answer\n"


def test_a_refused_run_may_be_put_right_in_the_same_folder(flags):
    wrong = flags | {"holdout": flags["pairs"]}
    assert "stand in the pairs and in the holdout" in refused(wrong)
    main(words(flags))
    stored = json.loads((flags["out"] / "config.json").read_text())
    assert stored["holdout"] == str(flags["holdout"])
    assert RunFolder(flags["out"]).result()


def test_the_model_s_own_folder_is_not_taken_for_a_run_folder(flags, tmp_path, chat):
    folder = tmp_path / "model"
    shutil.copytree(chat, folder)
    before = (folder / "config.json").read_bytes()
    assert "use another --out folder" in refusal(flags | {"model": folder, "out": folder})
    assert (folder / "config.json").read_bytes() == before


# --- pairs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rejected": "Gladly, it is 3."}, "pair 'pair-3' has two identical answers"),
        ({"rejected": ""}, "pair 'pair-3' has an empty answer"),
    ],
)
def test_answers_that_cannot_be_ranked(flags, fields, sentence):
    write_pairs(flags["pairs"], [pair(1), pair(3, **fields)])
    assert refused(flags) == f"{flags['pairs']}: {sentence}"


def test_the_holdout_s_answers_too(flags):
    write_pairs(flags["holdout"], [pair(103, chosen="")])
    assert refused(flags) == f"{flags['holdout']}: pair 'pair-103' has an empty answer"


def test_answers_that_the_template_makes_the_same(flags, tmp_path, chat):
    folder = tmp_path / "trims"
    shutil.copytree(chat, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("['content']", "['content'] | trim"))
    write_pairs(flags["pairs"], [pair(1), pair(3, rejected=pair(3).chosen + " ")])
    sentence = "pair 'pair-3' has two answers that are the same tokens"
    assert refused(flags | {"model": folder}) == sentence


def test_a_leak(flags):
    write_pairs(flags["holdout"], [pair(103), pair(3)])
    assert refused(flags).startswith("1 dialogue roots stand in the pairs and in the holdout, one")


def test_an_unknown_strength(flags):
    record = to_record(pair(3)) | {"strength": "hugely_better"}
    flags["pairs"].write_text(json.dumps(record) + "\n")
    assert refused(flags) == (
        f"{flags['pairs']}, line 1: strength is 'hugely_better', allowed is significantly_better, "
        "better, slightly_better, negligibly_better"
    )


@pytest.mark.parametrize("content", ["none", "of safety only"])
def test_no_pair_of_the_criterion(flags, content):
    write_pairs(flags["pairs"], [] if content == "none" else pairs(8, "safety"))
    assert refused(flags) == f"{flags['pairs']} leaves no pair to train a helpfulness model on"


@pytest.mark.parametrize("which", ["pairs", "holdout"])
def test_a_file_that_is_not_there(flags, tmp_path, which):
    missing = tmp_path / "nothing.jsonl"
    assert refused(flags | {which: missing}) == f"{missing}: No such file or directory"


def test_pairs_that_are_too_long_where_they_shall_not_be(flags):
    write_pairs(flags["pairs"], [*pairs(4), pair(99, chosen="word " * 400)])
    strict = flags | {"over-long": "error", "max-tokens": 200}
    assert refused(strict) == "pair 'pair-99' has 1631 tokens, allowed are 200"


@pytest.mark.parametrize("policy", ["drop", "cut"])
def test_pairs_that_are_all_too_long(flags, policy):
    short = flags | {"over-long": policy, "max-tokens": 3}
    assert refused(short) == f"{flags['pairs']} leaves no pair to train a helpfulness model on"


# --- the model --------------------------------------------------------------------------------


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def cut(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:100])


FAULTS = {
    "no configuration": (without, "config.json", "is no model: it has no config.json"),
    "no weights": (without, "model.safetensors", "Error no file named model.safetensors"),
    "weights cut short": (cut, "model.safetensors", "cannot start a reward model: Error while"),
    "no tokenizer": (without, "tokenizer.json", "has no tokenizer that can be read"),
    "tokenizer cut short": (cut, "tokenizer.json", "has no tokenizer that can be read"),
    "no chat template": (without, "chat_template.jinja", "has no chat template, and one is needed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_whole_model(flags, tmp_path, chat, fault):
    folder = tmp_path / "broken"
    shutil.copytree(chat, folder)
    damage, name, sentence = FAULTS[fault]
    damage(folder, name)
    said = refused(flags | {"model": folder})
    assert sentence in said
    assert str(folder) in said


def test_a_model_folder_that_is_not_there(flags, tmp_path):
    assert str(tmp_path / "nowhere") in refused(flags | {"model": tmp_path / "nowhere"})


def test_words_that_the_model_has_no_embedding_for(flags, tmp_path, chat):
    folder = tmp_path / "more-words"
    shutil.copytree(chat, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["hugely"])
    tokenizer.save_pretrained(folder)
    assert refused(flags | {"model": folder}) == (
        f"the tokenizer of {folder} has tokens that its model does not know, one is 'hugely' with "
        f"the id {size}; allowed are ids below {size}"
    )


def test_a_template_whose_own_tokens_have_no_embedding(flags, tmp_path, chat):
    folder = tmp_path / "new-template"
    shutil.copytree(chat, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "<|turn|>" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    assert "one is '<|turn|>' with the id 320" in refused(flags | {"model": folder})


def test_a_pad_token_beyond_the_embedding_is_no_such_word(tmp_path):
    folder = tiny_chat_model(tmp_path, pad=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model, tokenizer = start_from_chat_model(folder, 0)
    assert model.config.pad_token_id == 320
    assert model.get_input_embeddings().weight.shape[0] == 321


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_a_device_that_is_not_there(flags, device):
    sentence = refused(flags | {"device": device})
    assert sentence.startswith(f"device is '{device}', which cannot be used here: ")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_model_without_some_of_its_weights(flags, chat, tmp_path):
    """They would be random, and nobody would know."""
    folder = tmp_path / "cut"
    shutil.copytree(chat, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refused(flags | {"model": folder}) == (
        f"{folder} lacks 1 weights of its model, one is model.layers.1.mlp.up_proj.weight"
    )


def test_a_reward_model_without_its_head(chat, tmp_path):
    save_reward_model(*start_from_chat_model(chat, 0), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of its model, one is score\.weight"):
        load_reward_model(tmp_path)


def test_a_runs_folder_in_place_of_its_model(chat, tmp_path):
    save_reward_model(*start_from_chat_model(chat, 0), tmp_path / "model")
    (tmp_path / "config.json").write_text('{"pairs": "…"}')
    with pytest.raises(ValueError, match=f"is a run's folder, allowed is its model: {tmp_path}/mo"):
        load_reward_model(tmp_path)


def test_memory_that_ran_out_is_not_taken_for_an_architecture(chat, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trunk, "_packed_states", full)
    with pytest.raises(torch.OutOfMemoryError):
        start_from_chat_model(chat, 0)


def test_memory_that_runs_out_says_what_needs_less(flags, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(training, "optimiser_step", full)
    assert refusal(flags) == (
        "CUDA out of memory; a smaller --tokens-per-minibatch or --recompute-activations true "
        "needs less"
    )


# --- what is scored -----------------------------------------------------------------------------


def test_what_is_longer_than_the_context_is_not_scored(chat, tmp_path):
    """Positions beyond it were never learnt: the score would be a number without meaning."""
    save_reward_model(*start_from_chat_model(chat, 0), tmp_path / "model")
    scorer = Scorer(tmp_path / "model", "cpu")
    fits, too_long = ([5] * 256, [5] * 257)
    assert scorer.score_tokens([fits]).isfinite().all()
    allowed = "conversation 2 has 257 tokens, allowed are 256: the model's context"
    with pytest.raises(ValueError, match=allowed):
        scorer.score_tokens([fits, too_long])
    asked = Message("user", "Why?")
    with pytest.raises(ValueError, match=r"conversation 1 has \d+ tokens, allowed are 256"):
        scorer([[asked, Message("assistant", "word " * 300)]])


def test_a_line_of_a_file_that_is_too_long_is_named(chat, tmp_path):
    save_reward_model(*start_from_chat_model(chat, 0), tmp_path / "model")
    file = tmp_path / "in.jsonl"
    texts = ["Yes.", "word " * 300]
    lines = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": t}]
             for t in texts]  # fmt: skip
    file.write_text("\n\n".join(json.dumps({"messages": line}) for line in lines))
    score = {"model": tmp_path / "model", "input": file, "output": tmp_path / "out.jsonl"}
    with pytest.raises(SystemExit, match=r"in.jsonl, line 3: .* tokens, allowed are 256"):
        score_main(words(score | {"device": "cpu"}))
    assert not (tmp_path / "out.jsonl").exists()


# --- numbers ----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(flags):
    """Steps so long that the gradient of the second one is no number any more."""
    wild = flags | {"learning-rate": 1e30}
    assert refusal(wild).startswith("loss is ")
    assert "at step 2, allowed are finite numbers; the weights were left as they" in refusal(wild)
    folder = RunFolder(flags["out"])
    assert [line["step"] for line in folder.metrics()] == [1]
    kept = load_file(folder.resumable_checkpoint() / "weights.safetensors")
    assert all(weight.isfinite().all() for weight in kept.values())
    assert not folder.model.exists()
    assert folder.result() is None


def test_an_architecture_that_cannot_recompute_is_refused(flags, monkeypatch):
    monkeypatch.setattr(LlamaForSequenceClassification, "supports_gradient_checkpointing", False)
    sentence = "LlamaForSequenceClassification cannot compute its activations again"
    assert refusal(flags | {"recompute-activations": "true"}) == sentence
    assert {path.name for path in flags["out"].iterdir()} <= LEFT


def test_weights_that_are_not_finite_are_never_saved(flags, chat, tmp_path):
    """Neither as a checkpoint nor as a model: a start model that holds one is found at once."""
    model, tokenizer = start_from_chat_model(chat, 0)
    with torch.no_grad():
        model.base_model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match="scores are nan, allowed are finite numbers"):
        score_tokens(model, [[1, 2, 3]], 1)
    with pytest.raises(ValueError, match=r"have come apart: model\.norm\.weight is not"):
        save_reward_model(model, tokenizer, tmp_path / "saved")
    folder = tmp_path / "nan"
    shutil.copytree(chat, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refusal(flags | {"model": folder}).startswith("loss is nan")
    assert {path.name for path in flags["out"].iterdir()} <= LEFT | {"metrics.jsonl"}


def test_the_count_of_what_was_dropped_is_in_the_result(flags):
    write_pairs(flags["pairs"], [*pairs(16), pair(99, chosen="word " * 400)])
    write_pairs(flags["holdout"], [*pairs(8, first=100), replace(pair(150), chosen="word " * 400)])
    main(words(flags | {"max-tokens": 200}))
    result = RunFolder(flags["out"]).result()
    assert (result["pairs"], result["over_long"]) == (16, 1)
    assert (result["holdout"]["count"], result["holdout"]["over_long"]) == (8, 1)
