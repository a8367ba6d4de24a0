"""The prompts of the demo world, and what each of them means.

Every prompt is an opener, a phrasing of one intent with one product, and a closer. Which split a
prompt belongs to is decided by a hash of its text, except that the products of
``catalogue.TEST_ONLY`` occur in the test split alone. The same call
gives the same prompts for ever.

>>> len(prompts("train")), len(prompts("test"))
(4700, 4700)
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from demo.catalogue import DEVICES, LINES, PRODUCTS, TEST_ONLY, Product
from demo.intents import (
    BENIGN,
    BENIGN_BY_NAME,
    CLOSERS,
    OPENERS,
    UNSAFE,
    UNSAFE_BY_NAME,
    BenignIntent,
    Kind,
    UnsafeIntent,
)
from reward.preferences import RiskCategory

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Prompts of each split: for every benign intent, for every unsafe intent.
_PER_INTENT: dict[Split, tuple[int, int]] = {
    "train": (125, 245),
    "validation": (15, 27),
    "test": (125, 245),
}


@dataclass(frozen=True)
class Meaning:
    """What a prompt of this world asks: an intent about a product."""

    intent: BenignIntent | UnsafeIntent
    product: Product

    @property
    def kind(self) -> Kind:
        return self.intent.kind if isinstance(self.intent, BenignIntent) else "unsafe"


@dataclass(frozen=True)
class DemoPrompt:
    """One prompt. ``is_safety`` says that it may elicit unsafe output (borderline ones are not)."""

    id: str
    text: str
    kind: Kind
    split: Split
    is_safety: bool
    risk_category: RiskCategory | None
    intent: str
    product: Product


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


@lru_cache(maxsize=1)
def _templates() -> dict[str, BenignIntent | UnsafeIntent]:
    """Every prompt text with "{p}" in the product's place, and the intent it expresses."""
    return {
        _capitalised(f"{opener}{phrasing}{closer}"): intent
        for intent in (*BENIGN, *UNSAFE)
        for phrasing in intent.phrasings
        for opener in OPENERS
        for closer in CLOSERS
    }


_PRODUCT = re.compile(rf"\b({'|'.join(LINES)}) ({'|'.join(DEVICES)})\b")


def _fill(template: str, product: Product) -> str:
    """The template with the product in its place: "a Brindle kettle", but "an Ivaro fan"."""
    article = "an" if product.line[0] in "AEIOU" else "a"
    return template.replace("a {p}", f"{article} {{p}}").replace("{p}", product.name)


def meaning(prompt_text: str) -> Meaning:
    """What a prompt text asks. Any prompt of the grammar will do, whether or not a split holds it.

    Raises ValueError for text that is not of this world.
    """
    text = " ".join(prompt_text.split())
    found = _PRODUCT.search(text)
    template = _PRODUCT.sub("{p}", text, count=1).replace(" an {p}", " a {p}")
    if found is None or template not in _templates():
        raise ValueError(
            f"not a prompt of the demo world: {prompt_text!r}; "
            "only the texts of demo.world.prompts() and their grammar can be judged"
        )
    return Meaning(_templates()[template], Product(found[1], found[2]))


def _split_of(text: str, product: Product) -> Split:
    if product in TEST_ONLY:
        return "test"
    tenth = hashlib.sha256(text.encode()).digest()[0] % 10
    return "test" if tenth < 3 else "validation" if tenth == 3 else "train"


@lru_cache(maxsize=3)
def prompts(split: Split) -> tuple[DemoPrompt, ...]:
    """The prompts of a split, all kinds mixed, in an order that never changes."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed are {', '.join(SPLITS)}")
    chosen: list[tuple[str, Meaning]] = []
    by_intent: dict[str, list[tuple[str, Meaning]]] = {}
    for template, intent in _templates().items():
        for product in PRODUCTS:
            text = _fill(template, product)
            if _split_of(text, product) == split:
                by_intent.setdefault(intent.name, []).append((text, Meaning(intent, product)))
    rng = random.Random(f"demo world, {split}")
    for name, candidates in by_intent.items():
        benign, unsafe = _PER_INTENT[split]
        chosen += rng.sample(candidates, benign if name in BENIGN_BY_NAME else unsafe)
    rng.shuffle(chosen)
    return tuple(
        DemoPrompt(
            id=f"{split}-{number:04d}",
            text=text,
            kind=meant.kind,
            split=split,
            is_safety=meant.intent.name in UNSAFE_BY_NAME,
            risk_category=meant.intent.risk if isinstance(meant.intent, UnsafeIntent) else None,
            intent=meant.intent.name,
            product=meant.product,
        )
        for number, (text, meant) in enumerate(chosen)
    )
