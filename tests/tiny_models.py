"""Chat models small enough to make in a test: real architectures, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from reward.preferences import Message
from rlhf_loop.config import SFTConfig
from rlhf_loop.sft import train

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEXT = [
    "How long is the warranty of my kettle? Two years from the day you bought it.",
    "Is it safe to open the fuse box? Please switch the mains off first.",
    "I cannot help with that, and here is why it would be dangerous.",
]
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SHAPE, num_key_value_heads=2),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE),
    "gemma": lambda: GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=8),
}


def tiny_tokenizer(pad: str | None = "<|pad|>") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template; ``pad`` may be left out, or be the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token=pad)
    fast.chat_template = TEMPLATE
    return fast


def tiny_chat_model(
    folder: Path, architecture: str = "llama", seed: int = 0, pad: str | None = "<|pad|>"
) -> Path:
    """Write a chat model with random weights; returns its folder."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(pad)
    config = CONFIGS[architecture]()
    config.eos_token_id = tokenizer.eos_token_id
    config.bos_token_id = None
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.do_sample = True
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def other_words(folder: Path) -> Path:
    """Exchange two of the letters in the model's tokenizer; returns the folder."""
    file = folder / "tokenizer.json"
    kept = json.loads(file.read_text())
    words = kept["model"]["vocab"]
    words["a"], words["e"] = words["e"], words["a"]
    file.write_text(json.dumps(kept))
    return folder


def brief_chat_model(folder: Path, start: Path) -> Path:
    """Tune a small chat model until it mostly ends its answers by itself; returns its folder."""
    asked = [Message("user", "Why?"), Message("assistant", "No."), Message("user", "Why so?")]
    lines = [
        {"messages": [m._asdict() for m in (*before, Message("assistant", text))]}
        for text in ("Yes.", "No.", "By law.", "Why?")
        for before in (asked[:1], asked, asked + asked[1:])
    ]
    folder.mkdir(exist_ok=True)
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = SFTConfig(
        data=(folder / "data.jsonl",), model=start, out=folder / "run", device="cpu",
        epochs=20, batch=6, learning_rate=1e-2,
    )  # fmt: skip
    train(config)
    return folder / "run" / "model"
