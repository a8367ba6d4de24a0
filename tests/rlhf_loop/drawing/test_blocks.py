"""Which answers are started together."""

from hypothesis import given
from hypothesis import strategies as st

from rlhf_loop.drawing.blocks import plan_blocks


def test_prompts_of_one_kind_are_started_together():
    long, short = [1] * 200, [2] * 10
    blocks = plan_blocks([short, long] * 40, 256)
    assert [[len(g.answers) for g in block] for block in blocks] == [[40], [40]]
    alike = plan_blocks([[i] * 20 for i in range(50)], 256)
    assert [len(block) for block in alike] == [50]


@given(
    counts=st.lists(st.integers(0, 40), max_size=20),
    rows=st.integers(1, 64),
)
def test_every_answer_is_in_one_block_that_fits(counts, rows):
    prompts = [[i] * (1 + i % 7) for i, n in enumerate(counts) for _ in range(n)]
    blocks = plan_blocks(prompts, rows)
    for block in blocks:
        assert sum(len(group.answers) for group in block) <= rows
    found = [(i, group.prompt) for block in blocks for group in block for i in group.answers]
    assert sorted(found) == [*enumerate(prompts)]
