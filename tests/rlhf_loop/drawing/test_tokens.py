"""One token of every row: drawn with its probability, top-p included."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlhf_loop.drawing import tokens
from rlhf_loop.drawing.tokens import draw_tokens


def grid(count=1000):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_tokens_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    drawn, logprobs = draw_tokens(probabilities.log().expand(1000, 4), grid(), 1.0, 1.0)
    assert drawn.bincount(minlength=4).tolist() == [500, 0, 300, 200]
    torch.testing.assert_close(logprobs, probabilities.log()[drawn])


@given(
    vocabulary=st.sampled_from([5, 127, 128, 129, 1000, 3072]),
    temperature=st.sampled_from([0.2, 1.0, 2.5]),
    spread=st.sampled_from([0.0, 1.0, 12.0]),
    seed=st.integers(0, 9999),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_inverse_of_the_cumulative_distribution(vocabulary, temperature, spread, seed):
    """Against float64 in one piece: another token only where a number lies on the edge to it."""
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randn(64, vocabulary, generator=numbers) * spread
    uniform = torch.rand(64, generator=numbers, dtype=torch.float64)
    drawn, logprobs = draw_tokens(logits, uniform, temperature, 1.0)
    shares = (logits.double() / temperature).softmax(-1)
    ends = shares.cumsum(-1)
    ends = ends / ends[:, -1:]
    end = ends.gather(-1, drawn[:, None])[:, 0]
    start = end - shares.gather(-1, drawn[:, None])[:, 0]
    assert bool((start - 2e-6 <= uniform).all())
    assert bool((uniform <= end + 2e-6).all())
    expected = shares.log().gather(-1, drawn[:, None])[:, 0].float()
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [0]), (0.6, [0, 2]), (0.81, [0, 2, 3])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(1000, 4)
    drawn, logprobs = draw_tokens(logits, grid(), 1.0, top_p)
    assert drawn.unique().tolist() == kept
    torch.testing.assert_close(logprobs, logits[0][drawn])


@given(
    top_p=st.floats(0.01, 0.999), spread=st.sampled_from([0.0, 0.5, 8.0]), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=60)
def test_the_nucleus_is_that_of_a_full_sort(top_p, spread, seed):
    """Also where the likeliest tokens do not do, and where many are equally likely."""
    numbers = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 700, generator=numbers) * spread).round(decimals=1)
    weights = logits.exp()
    totals = weights.double().sum(-1)
    kept = tokens._nucleus(weights, totals, top_p, tokens.LIKELIEST)
    for row, total, found in zip(weights.tolist(), totals.tolist(), kept, strict=True):
        order = sorted(range(700), key=lambda i: (-row[i], i))
        wanted, reached = [], 0.0
        for token in order:
            assume(abs(reached - top_p) > 1e-9)  # on the edge rounding decides
            if reached >= top_p:
                break
            wanted.append(token)
            reached += row[token] / total
        assert found.nonzero()[:, 0].tolist() == sorted(wanted)


def test_the_ends_of_the_uniform_range_draw_possible_tokens():
    for size in (4, 400):
        logits = torch.full((3, size), float("-inf"))
        logits[:, 1:3] = 0.0
        drawn, _ = draw_tokens(logits, torch.tensor([0.0, 0.5, 1 - 1e-16]), 1.0, 1.0)
        assert drawn.tolist() == [1, 2, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(temperature):
    with pytest.raises(ValueError, match="logits are not finite"):
        draw_tokens(torch.tensor([[0.0, float("nan")]]), grid(1), temperature, 1.0)
