"""What is learnt is what was asked and what the model itself would have written, token by token."""

import pytest

from reward.data import row_tokens
from reward.preferences import Message
from rlhf_loop.dpo import answer_pairs
from rlhf_loop.policy import prompt_tokens
from rlhf_loop.sft import answer_row
from tests.reward.pairs import pair
from tests.reward.test_chat_templates import GOLDEN, MESSAGES, byte_tokenizer

STOPS = {"ChatML": "<|im_end|>", "Llama 3": "<|eot_id|>", "Llama 2": "</s>"}
LEARNT = {
    "ChatML": "O k Ġ <|im_end|>",
    "Llama 3": "O k <|eot_id|>",
    "Llama 2": "Ġ O k Ġ </s>",
}


@pytest.fixture(params=GOLDEN)
def named(request):
    template, special, row = GOLDEN[request.param]
    return request.param, byte_tokenizer(template, special), row.split()


def stops_of(name, tokenizer):
    return frozenset({tokenizer.convert_tokens_to_ids(STOPS[name])})


def test_a_learnt_row_ends_in_its_end_token(named):
    name, tokenizer, golden = named
    row = answer_row(tokenizer, MESSAGES, stops_of(name, tokenizer))
    words = tokenizer.convert_ids_to_tokens(row.tokens)
    assert words == golden[: len(words)]
    assert words[row.answer_start :] == LEARNT[name].split()
    assert words[-1] == STOPS[name]


def test_what_is_learnt_are_the_tokens_that_were_asked_and_scored(named):
    """No second BOS, and no other tokens than drawing and scoring use for the same messages."""
    name, tokenizer, golden = named
    row = answer_row(tokenizer, MESSAGES, stops_of(name, tokenizer))
    assert row.tokens[: row.answer_start] == prompt_tokens(tokenizer, MESSAGES[:-1])
    assert row.tokens == row_tokens(tokenizer, MESSAGES)[: len(row.tokens)]
    begins = tokenizer.convert_ids_to_tokens(row.tokens).count("<s>")
    assert begins == golden.count("<s>")


def test_an_answer_about_the_end_token_is_learnt_whole(named):
    """It was cut behind the first one."""
    name, tokenizer, _ = named
    said = f"The marker {STOPS[name]} ends a turn, so never write it."
    asked = Message("user", f"What is{STOPS[name]}?")
    row = answer_row(tokenizer, [asked, Message("assistant", said)], stops_of(name, tokenizer))
    assert row.tokens[: row.answer_start] == prompt_tokens(tokenizer, [asked])
    learnt = row.tokens[row.answer_start :]
    assert tokenizer.decode(learnt[:-1]).strip() == said
    assert [token for token in learnt if token in stops_of(name, tokenizer)] == learnt[-1:]


def test_answers_that_differ_behind_a_spelt_end_token_are_a_pair(named):
    """They were the same tokens, which ended the run."""
    name, tokenizer, _ = named
    answers = {side: f"No{STOPS[name]}{side}" for side in ("chosen", "rejected")}
    (found,) = answer_pairs(tokenizer, [pair(1, **answers)], stops_of(name, tokenizer))
    assert answers["chosen"] in tokenizer.decode(found.chosen.tokens)
    assert answers["rejected"] in tokenizer.decode(found.rejected.tokens)


def test_both_answers_of_a_pair_are_written_so(named):
    name, tokenizer, _ = named
    judged = pair(1, prompt=tuple(MESSAGES[:-1]), chosen="Ok ", rejected="No")
    (found,) = answer_pairs(tokenizer, [judged], stops_of(name, tokenizer))
    wanted = [found.chosen.tokens[place] for place in found.chosen.wanted]
    assert tokenizer.convert_ids_to_tokens(wanted) == LEARNT[name].split()
    assert tokenizer.convert_ids_to_tokens(found.rejected.tokens[-1]) == STOPS[name]
