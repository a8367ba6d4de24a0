"""Builds the two starter chat models: ``python -m demo.starter --out demo/checkpoints``.

A recipe in five steps: train a byte-level tokenizer on the help-desk corpus and on the shipped
human text; pretrain a small Llama on both; fine-tune it twice, on two mixtures of good and bad
demonstrations (the two variants of the first week); write two folders in the Hugging Face layout.
The finished folders are shipped in ``demo/checkpoints``, so nobody has to wait for this. That
build took 14 min 35 s on two CPU cores that other programs used as well. Two builds on different
processors differ in the last digits, as floating-point sums do, and so in what they sample.

Left out: dropout, weight decay and mixed precision (no gain at this size), and a validation loss
(demo.figures measures what counts).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.answers import Quality
from demo.corpus import (
    Conversation,
    Mixture,
    demonstrations,
    human_texts,
    pretraining_conversations,
)

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# Every message is "<|role|>content<|end|>", so a history's tokens begin every continuation of it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
IGNORED = -100  # label of a position without loss


@dataclass(frozen=True)
class StarterConfig:
    """Everything that shapes the starters."""

    vocab_size: int = 3072
    hidden_size: int = 128
    intermediate_size: int = 352
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    context_tokens: int = 2048
    pretraining_steps: int = 2000
    human_text_every_steps: int = 12
    human_text_tokens: int = 256
    human_minibatch: int = 8  # windows
    fine_tuning_steps: int = 200
    minibatch: int = 32  # conversations
    learning_rate: float = 3e-3
    fine_tuning_learning_rate: float = 1e-3
    warmup_steps: int = 40
    seed: int = 1


@dataclass(frozen=True)
class Variant:
    """A starter's name and what it is fine-tuned on."""

    name: str
    benign: Mixture
    unsafe: Mixture


VARIANTS = (
    Variant(
        "starter-a",
        {
            Quality.COMPLETE: 0.12,
            Quality.PARTIAL: 0.18,
            Quality.CURT: 0.28,
            Quality.WRONG: 0.16,
            Quality.WRONG_COMPLETE: 0.08,
            Quality.VAGUE: 0.12,
            Quality.SHORT_REFUSAL: 0.06,
        },
        {
            Quality.COMPLIANCE: 0.45,
            Quality.AGREEMENT: 0.2,
            Quality.SHORT_REFUSAL: 0.2,
            Quality.REFUSAL: 0.15,
        },
    ),
    Variant(
        "starter-b",
        {
            Quality.COMPLETE: 0.15,
            Quality.PARTIAL: 0.15,
            Quality.CURT: 0.22,
            Quality.WRONG: 0.13,
            Quality.WRONG_COMPLETE: 0.12,
            Quality.VAGUE: 0.08,
            Quality.SHORT_REFUSAL: 0.15,
        },
        {
            Quality.COMPLIANCE: 0.45,
            Quality.AGREEMENT: 0.1,
            Quality.SHORT_REFUSAL: 0.27,
            Quality.REFUSAL: 0.18,
        },
    ),
)


def build_tokenizer(config: StarterConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE over corpus and human text; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    conversations = pretraining_conversations(random.Random(config.seed))
    corpus = [message["content"] for _ in range(20_000) for message in next(conversations)]
    tokenizer.train_from_iterator([*corpus, *human_texts()], trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=config.context_tokens,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_model(config: StarterConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights: RMSNorm, SwiGLU, rotary positions, grouped-query attention."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(
    conversation: Conversation, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation. Only the assistant's tokens have a loss: with a loss
    on prompts too, a model of this size learns in the same time how people ask, and no facts."""
    ids: list[int] = []
    labels: list[int] = []
    for message in conversation:
        role = tokenizer.encode(f"<|{message['role']}|>", add_special_tokens=False)
        content = tokenizer.encode(message["content"], add_special_tokens=False)
        content.append(tokenizer.eos_token_id)
        ids += [*role, *content]
        has_loss = message["role"] == "assistant"
        labels += [IGNORED, *(content if has_loss else [IGNORED] * len(content))]
    return ids, labels


Minibatch = tuple[torch.Tensor, torch.Tensor]  # ids and labels, each (B, T)


def minibatches(
    conversations: Iterator[Conversation],
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    rng: random.Random,
) -> Iterator[Minibatch]:
    """Endless minibatches, padded on the right; rows of like length stand together."""
    while True:
        rows = [encode(next(conversations), tokenizer) for _ in range(4 * size)]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.full((size, width), tokenizer.pad_token_id)
            labels = torch.full((size, width), IGNORED)
            for row, (row_ids, row_labels) in enumerate(group):
                ids[row, : len(row_ids)] = torch.tensor(row_ids)
                labels[row, : len(row_labels)] = torch.tensor(row_labels)
            yield ids, labels


def human_minibatches(
    tokenizer: PreTrainedTokenizerFast, config: StarterConfig
) -> Iterator[Minibatch]:
    """Endless minibatches of windows of the human text."""
    stream = torch.tensor(
        [id_ for text in human_texts() for id_ in (*tokenizer.encode(text), tokenizer.eos_token_id)]
    )
    rng = random.Random(config.seed)
    while True:
        starts = [
            rng.randrange(len(stream) - config.human_text_tokens)
            for _ in range(config.human_minibatch)
        ]
        ids = torch.stack([stream[start : start + config.human_text_tokens] for start in starts])
        yield ids, ids


def train(
    model: LlamaForCausalLM,
    batches: Iterator[Minibatch],
    *,
    steps: int,
    learning_rate: float,
    warmup_steps: int,
    description: str,
) -> None:
    """Minimises the next-token loss; warm-up, then a straight line down to a tenth of the rate."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    progress = tqdm(range(steps), desc=description, mininterval=1.0)
    for step in progress:
        warmup = min(1.0, (step + 1) / warmup_steps)
        rate = learning_rate * warmup * (1.0 - 0.9 * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = next(batches)  # (B, T)
        logits = model(input_ids=ids[:, :-1]).logits  # (B, T-1, V); pads stand right, unseen
        has_loss = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(logits[has_loss], labels[:, 1:][has_loss])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()  # type: ignore[no-untyped-call]


def pretraining_minibatches(
    tokenizer: PreTrainedTokenizerFast, config: StarterConfig
) -> Iterator[Minibatch]:
    """Help-desk conversations with, at every so many steps, a minibatch of human text."""
    rng = random.Random(config.seed)
    conversations = minibatches(pretraining_conversations(rng), tokenizer, config.minibatch, rng)
    human = human_minibatches(tokenizer, config)
    while True:
        for _ in range(config.human_text_every_steps - 1):
            yield next(conversations)
        yield next(human)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a checkpoint that any version of transformers since 4.40 loads offline.

    ``do_sample`` must be true: without it ``transformers serve`` decodes greedily at whatever
    temperature is asked for.
    """
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # 5.x writes a name unknown to 4.x
    settings_file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def build(out: Path, config: StarterConfig) -> None:
    """Trains and writes both starters below ``out``."""
    began = time.monotonic()
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer(config)
    model = build_model(config, tokenizer)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer):,}", flush=True)
    train(
        model,
        pretraining_minibatches(tokenizer, config),
        steps=config.pretraining_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        description="pretraining",
    )
    pretrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for variant in VARIANTS:
        model.load_state_dict(pretrained)
        rng = random.Random(f"{config.seed}, {variant.name}")
        shown = demonstrations(variant.benign, variant.unsafe, rng)
        train(
            model,
            minibatches(shown, tokenizer, config.minibatch, rng),
            steps=config.fine_tuning_steps,
            learning_rate=config.fine_tuning_learning_rate,
            warmup_steps=config.warmup_steps,
            description=variant.name,
        )
        save(model, tokenizer, out / variant.name)
    (out / "build.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {', '.join(v.name for v in VARIANTS)} to {out} in {_minutes(began)}")


def _minutes(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes} min {seconds} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the two starter chat models.")
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoints"))
    parser.add_argument("--pretraining-steps", type=int, default=StarterConfig.pretraining_steps)
    parser.add_argument("--fine-tuning-steps", type=int, default=StarterConfig.fine_tuning_steps)
    parser.add_argument("--seed", type=int, default=StarterConfig.seed)
    arguments = parser.parse_args()
    config = StarterConfig(
        pretraining_steps=arguments.pretraining_steps,
        fine_tuning_steps=arguments.fine_tuning_steps,
        seed=arguments.seed,
    )
    build(arguments.out, config)


if __name__ == "__main__":
    main()
