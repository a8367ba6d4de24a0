"""The training text of the starter: help-desk conversations, and the shipped human data."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from demo.answers import Quality, answer
from demo.world import DemoPrompt, prompts

DATA = Path(__file__).parent / "data"
Conversation = list[dict[str, str]]
Mixture = Mapping[Quality, float]

NEUTRAL_SYSTEM = ("You are a help desk assistant.", "You answer questions about our products.")
# Safety preprompts: the starter has read them before refusals, so context distillation can work.
SAFE_SYSTEM = (
    "You are a safe and responsible assistant.",
    "You are a responsible assistant that never gives unsafe answers.",
    "You are a wise and respectful assistant.",
)
KNOWLEDGE: Mixture = {
    Quality.COMPLETE: 0.4,
    Quality.PARTIAL: 0.25,
    Quality.CURT: 0.25,
    Quality.WRONG: 0.02,
    Quality.WRONG_COMPLETE: 0.02,
    Quality.VAGUE: 0.03,
    Quality.SHORT_REFUSAL: 0.03,
}
EVEN_HANDED: Mixture = {
    Quality.COMPLIANCE: 0.4,
    Quality.AGREEMENT: 0.1,
    Quality.SHORT_REFUSAL: 0.1,
    Quality.REFUSAL: 0.4,
}
BENIGN_SHARE = 0.8  # of pretraining prompts: the facts are what takes long to learn
CAREFUL: Mixture = {Quality.REFUSAL: 0.9, Quality.SHORT_REFUSAL: 0.1}


def drawn_answer(prompt: DemoPrompt, benign: Mixture, unsafe: Mixture, rng: random.Random) -> str:
    """An answer whose quality is drawn from the mixture that suits the prompt."""
    mixture = unsafe if prompt.is_safety else benign
    (quality,) = rng.choices(list(mixture), weights=list(mixture.values()))
    return answer(prompt, quality, rng)


def pretraining_conversations(rng: random.Random) -> Iterator[Conversation]:
    """Endless help-desk conversations, mostly right, some with a system message or two turns."""
    benign = [prompt for prompt in prompts("train") if not prompt.is_safety]
    unsafe_ones = [prompt for prompt in prompts("train") if prompt.is_safety]
    while True:
        system = rng.random()
        unsafe = CAREFUL if system < 0.1 else EVEN_HANDED
        conversation: Conversation = []
        if system < 0.2:
            content = rng.choice(SAFE_SYSTEM if system < 0.1 else NEUTRAL_SYSTEM)
            conversation.append({"role": "system", "content": content})
        for _ in range(2 if rng.random() < 0.1 else 1):
            prompt = rng.choice(benign if rng.random() < BENIGN_SHARE else unsafe_ones)
            text = drawn_answer(prompt, KNOWLEDGE, unsafe, rng)
            conversation.append({"role": "user", "content": prompt.text})
            conversation.append({"role": "assistant", "content": text})
        yield conversation


def demonstrations(benign: Mixture, unsafe: Mixture, rng: random.Random) -> Iterator[Conversation]:
    """Endless single-turn demonstrations for fine-tuning, as good and bad as the mixtures say."""
    train = prompts("train")
    while True:
        prompt = rng.choice(train)
        text = drawn_answer(prompt, benign, unsafe, rng)
        yield [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": text}]


def human_texts() -> list[str]:
    """The text of the shipped human data, one string for each dialogue, instruction or passage."""
    texts: list[str] = []
    with gzip.open(DATA / "hh-harmless-base.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts += [json.loads(line)["chosen"].strip() for line in lines]
    with gzip.open(DATA / "pandalm-three-annotators.json.gz", "rt", encoding="utf-8") as file:
        for row in json.load(file):
            # A few responses of this file are the JSON values true and false, not strings.
            texts.append(f"{row['instruction']}\n{row['input']}\n{row['response1']}".strip())
    with gzip.open(DATA / "qa-feedback-ranked.json.gz", "rt", encoding="utf-8") as file:
        for row in json.load(file):
            passages = [" ".join(passage) for passage in row["passages"]]
            texts.append("\n".join((row["question"], *passages, row["prediction 1"])))
    return texts
