"""The demo world: its prompts, its splits and its truth."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from demo.answers import Quality, answer
from demo.catalogue import DEVICES, LINES, PRODUCTS, SLOTS, TEST_ONLY, Product, truth
from demo.intents import BENIGN, UNSAFE
from demo.lexicon import CONCEPTS, METHODS
from demo.quantities import normalise, quantities
from demo.world import SPLITS, meaning, prompts


def test_there_are_thousands_of_prompts_of_both_sorts() -> None:
    for split in ("train", "test"):
        sorts = Counter(prompt.is_safety for prompt in prompts(split))
        assert min(sorts[True], sorts[False]) >= 2000, (split, sorts)


def test_every_split_holds_every_intent_and_kind() -> None:
    for split in SPLITS:
        assert {prompt.intent for prompt in prompts(split)} == {i.name for i in (*BENIGN, *UNSAFE)}
        kinds = {prompt.kind for prompt in prompts(split)}
        assert kinds == {"factual", "how_to", "borderline", "unsafe"}


def test_no_prompt_stands_twice_or_in_two_splits() -> None:
    texts = [" ".join(p.text.lower().split()) for split in SPLITS for p in prompts(split)]
    assert len(texts) == len(set(texts))
    ids = [p.id for split in SPLITS for p in prompts(split)]
    assert len(ids) == len(set(ids))


def test_some_products_occur_in_the_test_split_alone() -> None:
    assert len(TEST_ONLY) >= 20
    for split in ("train", "validation"):
        assert not {prompt.product for prompt in prompts(split)} & TEST_ONLY
    assert {prompt.product for prompt in prompts("test")} >= TEST_ONLY


def test_every_part_of_a_test_only_product_occurs_in_training() -> None:
    seen = {prompt.product for prompt in prompts("train")}
    assert {product.line for product in seen} == set(LINES)
    assert {product.device for product in seen} == set(DEVICES)


def test_prompts_are_the_same_every_time() -> None:
    first = prompts("test")[:5]
    prompts.cache_clear()
    assert prompts("test")[:5] == first


def test_only_unsafe_prompts_are_safety_prompts_with_a_risk() -> None:
    for prompt in prompts("train"):
        assert prompt.is_safety == (prompt.kind == "unsafe")
        assert (prompt.risk_category is not None) == prompt.is_safety


def test_the_meaning_of_every_prompt_is_read_from_its_text() -> None:
    for split in SPLITS:
        for prompt in prompts(split):
            meant = meaning(prompt.text)
            assert (meant.intent.name, meant.product) == (prompt.intent, prompt.product)


def test_a_prompt_of_the_grammar_that_no_split_holds_has_a_meaning() -> None:
    held = {prompt.text for split in SPLITS for prompt in prompts(split)}
    texts = [f"How heavy is the {product.name}?" for product in PRODUCTS]
    assert any(text not in held for text in texts)
    assert {meaning(text).intent.name for text in texts} == {"weight"}


def test_text_of_another_world_has_no_meaning() -> None:
    for text in ("", "Hi", "How heavy is the Brindle?", "How heavy is the Brindle kettle now?"):
        with pytest.raises(ValueError, match="not a prompt of the demo world"):
            meaning(text)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train, validation, test"):
        prompts("dev")  # type: ignore[arg-type]


def test_facts_come_from_the_parts_of_a_product() -> None:
    assert truth(Product("Auvero", "kettle"), "warranty_months") == 24
    assert truth(Product("Auvero", "fan"), "warranty_months") == 24
    assert truth(Product("Dorran", "kettle"), "power_watts") == 2000
    for product in PRODUCTS:
        for slot in SLOTS:
            assert truth(product, slot)


def test_every_point_and_every_unsafe_intent_has_a_lexicon() -> None:
    assert {extra for intent in BENIGN for extra in intent.extras} == set(CONCEPTS)
    assert {intent.name for intent in UNSAFE} == set(METHODS)


def test_prompts_and_answers_are_short() -> None:
    rng = random.Random(0)
    for prompt in prompts("train")[:1000]:
        quality = Quality.REFUSAL if prompt.is_safety else Quality.COMPLETE
        assert len(prompt.text.split()) <= 30, prompt.text
        assert len(answer(prompt, quality, rng).split()) <= 36


def test_a_quality_that_does_not_suit_the_prompt_is_refused() -> None:
    benign = next(prompt for prompt in prompts("train") if not prompt.is_safety)
    unsafe = next(prompt for prompt in prompts("train") if prompt.is_safety)
    with pytest.raises(ValueError, match="compliance is no answer"):
        answer(benign, Quality.COMPLIANCE, random.Random(0))
    with pytest.raises(ValueError, match="complete is no answer"):
        answer(unsafe, Quality.COMPLETE, random.Random(0))


def test_answers_come_in_many_wordings() -> None:
    prompt = next(prompt for prompt in prompts("train") if prompt.intent == "warranty")
    rng = random.Random(0)
    assert len({answer(prompt, Quality.COMPLETE, rng) for _ in range(300)}) > 100


DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two years", [("time", 730.5 * DAY)]),
        ("24-month", [("time", 730.5 * DAY)]),
        ("a year and a half", [("time", 1.5 * 365.25 * DAY)]),
        ("1 year and 6 months", [("time", 1.5 * 365.25 * DAY)]),
        ("half a minute", [("time", 30.0)]),
        ("12 or 24 months", [("time", 365.25 * DAY), ("time", 730.5 * DAY)]),
        ("24 months and 12 months", [("time", 730.5 * DAY), ("time", 365.25 * DAY)]),
        ("once a week", [("time", 7 * DAY)]),
        ("2,000 W", [("power", 2000.0)]),
        ("one and a half kilowatts", [("power", 1500.0)]),
        ("1 kg 500 g", [("weight", 1500.0)]),
        ("a 13 A fuse", [("current", 13.0)]),
        ("push it twice", [("times", 2.0)]),
        ("as new, for the old ones I am", []),
        ("24", []),
    ],
)
def test_amounts_are_read_whatever_their_wording(
    text: str, expected: list[tuple[str, float]]
) -> None:
    found = quantities(normalise(text))
    assert [quantity.dimension for quantity in found] == [dimension for dimension, _ in expected]
    assert [quantity.amount for quantity in found] == pytest.approx([a for _, a in expected])
