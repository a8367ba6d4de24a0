"""Adapters: the head is trained and saved, the trunk stays, the merged model scores the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from reward import adapter
from reward.config import TrainConfig
from reward.data import load_pairs, tokenise
from reward.model import load_reward_model, score_rows, start_from_chat_model
from reward.preferences import Criterion, write_pairs
from reward.run_folder import RunFolder
from reward.settings import from_mapping, to_flags
from reward.train import train
from reward.trunk import shares_prefixes
from tests.conftest import NO_BITSANDBYTES
from tests.reward.pairs import pairs
from tests.tiny_models import CONFIGS, tiny_chat_model

FRESH = """
import sys, torch
from pathlib import Path
from reward.data import load_pairs, tokenise
from reward.model import load_reward_model, score_rows
torch.manual_seed(99)
model, tokenizer = load_reward_model(Path(sys.argv[1]))
rows = tokenise(tokenizer, load_pairs(Path(sys.argv[2])))
with torch.no_grad():
    torch.save(score_rows(model, [row.chosen for row in rows]), sys.argv[3])
"""


@pytest.fixture
def settings(tmp_path) -> dict:
    tiny_chat_model(tmp_path / "chat")
    write_pairs(tmp_path / "pairs.jsonl", pairs(40))
    write_pairs(tmp_path / "holdout.jsonl", pairs(9, first=100))
    return {
        "pairs": tmp_path / "pairs.jsonl", "holdout": tmp_path / "holdout.jsonl",
        "model": tmp_path / "chat", "out": tmp_path / "run", "criterion": Criterion.HELPFULNESS,
        "learning_rate": 1e-2, "pairs_per_step": 8, "tokens_per_minibatch": 120,
        "warmup_least_steps": 1, "checkpoint_every_steps": 2, "device": "cpu", "lora_rank": 4,
    }  # fmt: skip


def config(settings: dict, **fields) -> TrainConfig:
    return from_mapping(TrainConfig, settings | fields)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def scores(model, tokenizer, file: Path) -> torch.Tensor:
    with torch.no_grad():
        rows = tokenise(tokenizer, load_pairs(file))
        return score_rows(model, [row.chosen for row in rows])


def test_it_works(settings, tmp_path, monkeypatch):
    """Five steps; then the merged model in a fresh process with another seed."""
    unmerged = []
    leave = adapter.save_adapter

    def keep(state, config, folder):
        leave(state, config, folder)
        unmerged.append({name: tensor.clone() for name, tensor in state.items()})

    monkeypatch.setattr(adapter, "save_adapter", keep)
    result = train(config(settings))
    assert result["steps"] == 5
    start, tokenizer = start_from_chat_model(settings["model"], seed=0)
    adapter.add_adapter(start, config(settings), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    after = unmerged[0]
    for name, tensor in before.items():
        trained = "lora_" in name or name == "score.weight"
        assert torch.equal(after[name], tensor) != trained, name
    start.load_state_dict(after)
    expected = scores(start, tokenizer, settings["holdout"])
    words = [sys.executable, "-c", FRESH]
    files = [settings["out"] / "model", settings["holdout"], tmp_path / "scores.pt"]
    subprocess.run([*words, *map(str, files)], check=True)
    assert (torch.load(files[2]) - expected).abs().max() < 1e-5
    assert torch.equal(weights(settings["out"])["score.weight"], after["score.weight"])
    lines = RunFolder(settings["out"]).metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_adapter_is_one_that_peft_reads(settings):
    """Over the chat model, whose own head is another one each time."""
    train(config(settings))
    merged, tokenizer = load_reward_model(settings["out"] / "model")
    torch.manual_seed(7)
    base = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=1)
    read = PeftModel.from_pretrained(base, settings["out"] / "adapter").eval()
    head = read.base_model.model.score.modules_to_save["default"].weight
    assert torch.equal(head, merged.score.weight)
    for row in tokenise(tokenizer, load_pairs(settings["holdout"])):
        with torch.no_grad():
            ours = score_rows(merged, [row.chosen])
            theirs = read(input_ids=torch.tensor([row.chosen])).logits[:, 0]
        assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_share_their_prefixes_under_adapters(settings, tmp_path, architecture):
    tiny_chat_model(tmp_path / "other", architecture)
    model, tokenizer = start_from_chat_model(tmp_path / "other", seed=0)
    adapter.add_adapter(model, config(settings), torch.device("cpu"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert shares_prefixes(model)
    rows = tokenise(tokenizer, load_pairs(settings["holdout"]))
    both = [tokens for row in rows for tokens in (row.chosen, row.rejected)]
    with torch.no_grad():
        together = score_rows(model, both)
        alone = torch.cat([score_rows(model, [tokens]) for tokens in both])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_resumes_bit_for_bit(settings, monkeypatch, dropout):
    """What is dropped follows from seed and step. The checkpoint has what is trained, no more."""
    whole = config(settings, lora_dropout=dropout)
    train(whole)
    again = config(settings, lora_dropout=dropout, out=settings["out"].with_name("again"))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop_at_step_3)
        with pytest.raises(KeyboardInterrupt):
            train(again)
    held = load_file(again.out / "checkpoint" / "weights.safetensors")
    assert held.keys() == {name for name in held if "lora_" in name} | {"score.weight"}
    train(again)
    mine, theirs = weights(whole.out), weights(again.out)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    adapters = [load_file(c.out / "adapter" / "adapter_model.safetensors") for c in (whole, again)]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def stop_at_step_3(self, step, total, **figures):
    if step == 3:
        raise KeyboardInterrupt


def test_dropout_is_only_for_training(settings):
    train(config(settings, lora_dropout=0.5))
    result = RunFolder(settings["out"]).result()
    scored = train(config(settings, lora_dropout=0.5, out=settings["out"].with_name("again")))
    assert scored["holdout"] == result["holdout"]
    model, _ = start_from_chat_model(settings["model"], 0)
    adapter.add_adapter(model, config(settings, lora_dropout=0.5), torch.device("cpu"))
    adapter.draw_dropout(model, config(settings, lora_dropout=0.5), 1)
    assert any(module.training for module in model.modules())
    adapter.stop_dropout(model)
    assert not any(module.training for module in model.modules())


def test_some_layers_only(settings):
    train(config(settings, lora_targets="q_proj,v_proj"))
    described = json.loads((settings["out"] / "adapter" / "adapter_config.json").read_text())
    assert sorted(described["target_modules"]) == ["q_proj", "v_proj"]
    held = load_file(settings["out"] / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in held if "lora_" in name} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lora_rank": 0, "lora_dropout": 0.1}, "lora_dropout is 0.1, which changes nothing"),
        ({"lora_rank": 0, "quantise": "4bit"}, "quantise is 4bit, which changes nothing"),
        ({"lora_targets": "nothing"}, "lora_targets is 'nothing', allowed are all-linear"),
    ],
)
def test_what_cannot_be_is_refused(settings, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(config(settings, **fields))


def test_4_bits_without_bitsandbytes_are_refused_in_one_sentence(settings, monkeypatch):
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package bitsandbytes, which is not installed"):
        train(config(settings, quantise="4bit"))


def test_4_bits(settings):
    """The merged model is the one that was trained: NF4 weights taken out again, adapters added."""
    pytest.importorskip("bitsandbytes", reason=NO_BITSANDBYTES)
    result = train(config(settings, quantise="4bit", learning_rate=3e-2))
    lines = RunFolder(settings["out"]).metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]
    words = ["-m", "reward.evaluate", *to_flags({
        "model": settings["out"] / "model", "pairs": settings["holdout"],
        "out": settings["out"] / "figures.json",
    })]  # fmt: skip
    subprocess.run([sys.executable, *words], check=True)
    figures = json.loads((settings["out"] / "figures.json").read_text())
    assert figures["accuracy"] == result["holdout"]["accuracy"]
    merged = weights(settings["out"])
    start = load_file(settings["model"] / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged[name].shape == start[name].shape
    held = load_file(settings["out"] / "adapter" / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name.replace('weight', f'lora_{x}.weight')}"] for x in "AB")
    rounded = merged[name] - 16 / 4 * b @ a
    apart = (rounded - start[name]).norm() / start[name].norm()
    assert 0.01 < apart < 0.5  # what 4 bits cost; 0.09 on matrices of real size
