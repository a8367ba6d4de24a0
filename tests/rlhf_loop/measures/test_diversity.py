import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_loop.measures.diversity import self_bleu, words


def test_it_works():
    """Two answers of five words that share four, worked by hand.

    Unigrams 4/5; bigrams 3/4; trigrams 2/3; four-grams 1/2; no penalty.
    """
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    found = self_bleu(["the fan is very loud", "the fan is very light"])
    assert found == pytest.approx(expected)


def test_a_missing_order_counts_a_tenth_and_a_short_answer_is_penalised():
    """ "a b c d" against "a b c x y z": 3/4, 2/3, 1/2, 0.1/1, exp(1 - 6/4); and the other way."""
    short = math.exp(1 - 6 / 4) * (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25
    long = (3 / 6 * 2 / 5 * 1 / 4 * 0.1 / 3) ** 0.25
    assert self_bleu(["a b c d", "a b c x y z"]) == pytest.approx((short + long) / 2)


def test_it_is_nltks_on_answers_of_four_words_and_more():
    """nltk 3.10.4's sentence_bleu, SmoothingFunction().method1, equal weights, all other answers as
    references, on the same words; made in an environment of its own."""
    answers = [
        "It weighs 2.5 kg. Lift it with both hands.",
        "The fan weighs 2500 grams without the box.",
        "It weighs 2.5 kg. That is without the box.",
    ]
    assert self_bleu(answers) == pytest.approx(0.4530119819, abs=1e-9)


def test_the_same_answer_always_is_1_even_when_it_is_short():
    assert self_bleu(["No."] * 3) == 1
    assert self_bleu(["Hold the button for five seconds."] * 2) == pytest.approx(1)


def test_nothing_in_common_is_0():
    assert self_bleu(["one two three four", "five six seven eight"]) == 0
    assert self_bleu(["", "five six"]) == 0
    assert self_bleu(["", ""]) == 1


def test_one_answer_has_no_diversity():
    with pytest.raises(ValueError, match="allowed are 2 or more"):
        self_bleu(["alone"])


def test_words_and_marks():
    assert words("It's 2.5 kg – heavy!") == ["It", "'", "s", "2", ".", "5", "kg", "–", "heavy", "!"]


@given(st.lists(st.text("ab c", max_size=12), min_size=2, max_size=5))
def test_it_is_a_share_and_does_not_depend_on_the_order(answers):
    found = self_bleu(answers)
    assert 0 <= found <= 1 + 1e-9
    assert self_bleu(answers[::-1]) == pytest.approx(found)
