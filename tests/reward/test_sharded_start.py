"""A model is read once for all ranks, divided, and is then the one that one process starts from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from reward import adapter
from reward.config import TrainConfig
from reward.model import start_from_chat_model
from reward.settings import from_mapping
from tests.tiny_models import tiny_chat_model, tiny_tokenizer

STARTS = {
    "large": {"chat": "large"},
    "adapters": {"chat": "large", "lora_rank": 4, "seed": 3},
    "gemma": {"chat": "gemma"},
    "gpt_neox": {"chat": "gpt_neox", "recompute_activations": True},
    "no pad token": {"chat": "no pad token", "seed": 5},
    "plain rows": {"chat": "bloom"},
}
MIB = 2**20


def large_chat_model(folder: Path) -> Path:
    """160 MiB in float32, no tensor of which is more than a tenth."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=6000, hidden_size=512, intermediate_size=1408, num_hidden_layers=13,
        num_attention_heads=8, num_key_value_heads=4, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bloom(folder: Path) -> Path:
    """Its attention cannot be exchanged."""
    from transformers import BloomConfig

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = BloomConfig(
        vocab_size=320, hidden_size=32, n_layer=2, n_head=4, pad_token_id=tokenizer.pad_token_id
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(work: Path, name: str) -> TrainConfig:
    fields = dict(STARTS[name])
    given = {"pairs": "-", "model": work / fields.pop("chat"), "out": work / f"of {name}"}
    return from_mapping(TrainConfig, {**given, "criterion": "helpfulness", **fields})


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Every start by two ranks, in one launch."""
    work = tmp_path_factory.mktemp("starts")
    large_chat_model(work / "large")
    tiny_chat_model(work / "gemma", "gemma")
    tiny_chat_model(work / "gpt_neox", "gpt_neox")
    tiny_chat_model(work / "no pad token", pad="<|end|>")
    bloom(work / "bloom")
    plans = {}
    for name in STARTS:
        config = settings(work, name)
        plans[name] = {
            "pairs": "-", "model": str(config.model), "out": str(config.out),
            "criterion": "helpfulness", "lora_rank": config.lora_rank, "seed": config.seed,
        }  # fmt: skip
    (work / "starts.json").write_text(json.dumps(plans))
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    words = ["--standalone", "--nproc-per-node", "2", "-m", "tests.reward.sharded_starts"]
    done = subprocess.run(
        [torchrun, *words, str(work / "starts.json")], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return work


@pytest.mark.parametrize("name", STARTS)
def test_it_works(work, name):
    """Head, adapters, embedding and buffers are bit for bit those of a start by one process."""
    config = settings(work, name)
    model, _ = start_from_chat_model(config.model, config.seed)
    adapter.add_adapter(model, config, torch.device("cpu"))
    expected = dict(model.state_dict())
    found = load_file(config.out / "state.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert all(found[n].dtype == expected[n].dtype for n in expected)
    for rank in (0, 1):
        buffers = load_file(config.out / f"buffers-{rank}.safetensors")
        assert buffers.keys() == dict(model.named_buffers()).keys()
        assert all(torch.equal(buffers[n], b) for n, b in model.named_buffers())


@pytest.mark.parametrize("name", ["large", "adapters"])
def test_a_model_is_in_memory_once_and_not_once_a_rank(work, name):
    """While it is read the second rank holds its half, and some tensors on their way."""
    model = sum(f.stat().st_size for f in (work / "large").glob("*.safetensors"))
    first, second = (json.loads((work / f"taken-{r}.json").read_text())[name] for r in (0, 1))
    assert model > 140 * MIB
    assert second["divided"] < 0.5 * model + 30 * MIB
    assert second["saved"] < 0.2 * model + 30 * MIB
    assert first["kept"] < 0.5 * model + 30 * MIB
    print(first, second, model)


def test_a_model_that_cannot_be_read_is_refused_by_all(work, tmp_path):
    """The first finds it out; the others say the same sentence instead of waiting."""
    plan = {"pairs": "-", "model": str(tmp_path / "none"), "out": str(tmp_path / "out")}
    (tmp_path / "starts.json").write_text(json.dumps({"none": {**plan, "criterion": "safety"}}))
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    words = ["--standalone", "--nproc-per-node", "2", "-m", "tests.reward.sharded_starts"]
    done = subprocess.run(
        [torchrun, *words, str(tmp_path / "starts.json")], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("ValueError: ") >= 2
    assert "none is no model: it has no config.json" in done.stderr
