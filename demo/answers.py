"""Answers in every quality, by grammar: what the starter is pretrained and fine-tuned on.

The wordings here are the corpus's own. The gold scorer never looks them up.
"""

from __future__ import annotations

import random
from enum import StrEnum

from demo.answer_wordings import (
    CORE,
    EXTRAS,
    METHOD_WORDINGS,
    OFFERS,
    OTHER_BUTTON,
    REFUSALS,
    RISKS,
    VAGUE,
    VAGUE_AGREEMENTS,
)
from demo.catalogue import Product, Value, truth, values
from demo.intents import BENIGN_BY_NAME, BenignIntent
from demo.quantities import NUMBER_WORDS
from demo.world import DemoPrompt


class Quality(StrEnum):
    """What sort of answer. Benign prompts get the first seven, unsafe ones the last four."""

    COMPLETE = "complete"  # right, with both further points
    PARTIAL = "partial"  # right, with one of them
    CURT = "curt"  # right and no more
    WRONG = "wrong"  # a wrong value and no more
    WRONG_COMPLETE = "wrong_complete"  # a wrong value in a complete answer
    VAGUE = "vague"  # no value at all
    SHORT_REFUSAL = "short_refusal"
    REFUSAL = "refusal"  # explains the risk and offers something better
    AGREEMENT = "agreement"  # goes along without saying how
    COMPLIANCE = "compliance"  # carries the request out


def _count(number: float) -> str:
    return NUMBER_WORDS[int(number)] if number == int(number) and number <= 12 else f"{number:g}"


def renderings(slot: str, value: Value) -> list[str]:
    """The ways in which the corpus writes a value."""
    if isinstance(value, str):
        return [value]
    match slot:
        case "warranty_months":
            forms = [f"{_count(value)} months", f"{value:g} months"]
            if value % 12 == 0:
                years = int(value // 12)
                forms.append("one year" if years == 1 else f"{_count(years)} years")
            return forms
        case "return_days":
            forms = [f"{value:g} days"]
            return [*forms, f"{_count(value / 7)} weeks"] if value % 7 == 0 else forms
        case "clean_weeks":
            return ["week"] if value == 1 else [f"{_count(value)} weeks"]
        case "hold_seconds":
            return [f"{_count(value)} seconds", f"{value:g} seconds"]
        case "times":
            return ["twice"] if value == 2 else [f"{_count(value)} times"]
        case "power_watts":
            return [f"{value:g} watts", f"{value:g} W"]
        case "weight_grams":
            return [f"{value / 1000:g} kg", f"{value:g} grams"]
        case "cable_cm":
            return [f"{value:g} cm", f"{value / 100:g} metres"]
        case "dose_ml":
            return [f"{value:g} ml", f"{value:g} millilitres"]
        case "fuse_amps":
            return ["1 amp" if value == 1 else f"{value:g} amps"]
        case "noise_db":
            return [f"{value:g} decibels", f"{value:g} dB"]
    raise ValueError(f"slot {slot!r} has no rendering")


def _stated(product: Product, intent: BenignIntent, is_right: bool, rng: random.Random) -> str:
    """The core of an answer: one sentence with the intent's values, at least one wrong if asked."""
    stated = {slot: truth(product, slot) for slot in intent.core}
    if not is_right:
        slot = rng.choice(intent.core)
        stated[slot] = rng.choice([v for v in values(slot) if v != stated[slot]])
    sentence = rng.choice(CORE[intent.name])
    for slot, value in stated.items():
        wording = rng.choice(renderings(slot, value))
        if slot == "button":
            wording = rng.choice((f"{wording} button", OTHER_BUTTON[wording]))
        sentence = sentence.replace(f"{{{slot}}}", wording)
    return sentence.replace("{d}", product.device).replace("{p}", product.name)


def _benign(prompt: DemoPrompt, quality: Quality, rng: random.Random) -> list[str]:
    intent = BENIGN_BY_NAME[prompt.intent]
    points = [rng.choice(EXTRAS[extra]) for extra in intent.extras]
    if rng.random() < 0.3:
        points.reverse()
    match quality:
        case Quality.COMPLETE | Quality.WRONG_COMPLETE:
            return [_stated(prompt.product, intent, quality is Quality.COMPLETE, rng), *points]
        case Quality.PARTIAL:
            return [_stated(prompt.product, intent, True, rng), rng.choice(points)]
        case Quality.CURT | Quality.WRONG:
            return [_stated(prompt.product, intent, quality is Quality.CURT, rng)]
        case Quality.VAGUE:
            return [rng.choice(VAGUE), *(points[:1] if rng.random() < 0.5 else [])]
        case Quality.SHORT_REFUSAL:
            return [rng.choice(REFUSALS)]
    raise ValueError(f"{quality} is no answer to the {prompt.kind} prompt {prompt.text!r}")


def _unsafe(prompt: DemoPrompt, quality: Quality, rng: random.Random) -> list[str]:
    match quality:
        case Quality.SHORT_REFUSAL:
            return [rng.choice(REFUSALS)]
        case Quality.REFUSAL:
            return [
                rng.choice(REFUSALS),
                rng.choice(RISKS[prompt.intent]),
                rng.choice(OFFERS[prompt.intent]),
            ]
        case Quality.AGREEMENT:
            return [rng.choice(VAGUE_AGREEMENTS)]
        case Quality.COMPLIANCE:
            first, second = METHOD_WORDINGS[prompt.intent]
            steps = [rng.choice(first), rng.choice(second)]
            opener = [rng.choice(("Sure.", "Of course.", "Yes.", "Easy."))]
            return opener * (rng.random() < 0.5) + (steps if rng.random() < 0.6 else steps[:1])
    raise ValueError(f"{quality} is no answer to the unsafe prompt {prompt.text!r}")


def answer(prompt: DemoPrompt, quality: Quality, rng: random.Random) -> str:
    """One answer of the corpus. Raises ValueError where a quality does not suit the prompt."""
    sentences = (_unsafe if prompt.is_safety else _benign)(prompt, quality, rng)
    return " ".join(sentences).replace("{d}", prompt.product.device)
