"""Three chat templates in wide use, token by token: one beginning, every end token, nothing else.

The tokenizer knows single bytes only, so that the rows can be read here ("Ġ" is a space, "Ċ" a line
break), and it puts a BOS before every text by itself, as Llama's does.
"""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from reward.data import (
    answer_end,
    end_token,
    in_template,
    row_tokens,
    text_tokens,
    tokenise,
    within_length,
)
from reward.preferences import Message
from tests.reward.pairs import pair
from tests.tiny_models import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
MESSAGES = [
    Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "A b"),
    Message("assistant", "Ok "),
]  # fmt: skip
SYSTEM_FIRST = [Message("system", "Be"), Message("user", "Hi"), Message("assistant", "Yo")]
# Template, special tokens, the row, and the token that it ends in.
GOLDEN = {
    "ChatML": (
        CHATML,
        ["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        "<|im_start|> u s e r Ċ H i <|im_end|> Ċ <|im_start|> a s s i s t a n t Ċ Y o <|im_end|> Ċ "
        "<|im_start|> u s e r Ċ A Ġ b <|im_end|> Ċ "
        "<|im_start|> a s s i s t a n t Ċ O k Ġ <|im_end|> Ċ",
    ),
    "Llama 3": (
        LLAMA_3,
        ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<s> <|start_header_id|> u s e r <|end_header_id|> Ċ Ċ H i <|eot_id|> "
        "<|start_header_id|> a s s i s t a n t <|end_header_id|> Ċ Ċ Y o <|eot_id|> "
        "<|start_header_id|> u s e r <|end_header_id|> Ċ Ċ A Ġ b <|eot_id|> "
        "<|start_header_id|> a s s i s t a n t <|end_header_id|> Ċ Ċ O k <|eot_id|>",
    ),
    "Llama 2": (
        LLAMA_2,
        ["<s>", "</s>"],
        "<s> [ I N S T ] Ġ H i Ġ [ / I N S T ] Ġ Y o Ġ </s> "
        "<s> [ I N S T ] Ġ A Ġ b Ġ [ / I N S T ] Ġ O k Ġ </s>",
    ),
}


def byte_tokenizer(template: str, special: list[str]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words["<s>"])]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


@pytest.fixture(params=GOLDEN)
def golden(request):
    template, special, row = GOLDEN[request.param]
    return byte_tokenizer(template, special), row.split()


def test_a_row_is_the_template_s_and_nothing_else(golden):
    tokenizer, expected = golden
    assert tokenizer.convert_ids_to_tokens(row_tokens(tokenizer, MESSAGES)) == expected
    by_itself = tokenizer("Hi")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(by_itself)[0] == "<s>"  # a second one, were it kept


@pytest.mark.parametrize("over_long", ["drop", "cut"])
def test_every_kept_row_ends_in_the_end_token(golden, over_long):
    """Over-long pairs are left out or lose whole turns, counted; no row is cut through."""
    tokenizer, expected = golden
    end = end_token(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == expected[-1]
    history = MESSAGES[:2]
    asked = [pair(n, prompt=(*history * (n % 4), Message("user", "A b"))) for n in range(24)]
    rows = tokenise(tokenizer, asked)
    longest = sorted(row.longest for row in rows)[12]
    fitted = within_length(tokenizer, rows, longest, over_long)
    assert len(fitted.rows) + fitted.dropped == 24
    assert fitted.dropped + fitted.cut > 0
    for row in fitted.rows:
        assert row.longest <= longest
        assert row.chosen[-1] == row.rejected[-1] == end
        ours = [*row.pair.prompt, Message("assistant", row.pair.chosen)]
        assert row.chosen == row_tokens(tokenizer, ours)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("name", GOLDEN)
def test_what_a_message_spells_stays_words(name, role):
    """Every special token, byte by byte; "@" stands where it is said."""
    template, special, _ = GOLDEN[name]
    tokenizer = byte_tokenizer(template, special)
    spelt = "".join(special)
    plain, spelling = (
        [Message(m.role, said if m.role == role else m.content) for m in SYSTEM_FIRST]
        for said in ("Hi@ yo", f"Hi{spelt} yo")
    )
    at = tokenizer.convert_tokens_to_ids("@")
    (*bytes_of_it,) = tokenizer.convert_tokens_to_ids(list(spelt))
    expected = [
        token
        for written in row_tokens(tokenizer, plain)
        for token in (bytes_of_it if written == at else [written])
    ]
    assert row_tokens(tokenizer, spelling) == expected
    assert tokenizer.decode(expected).count(spelt) == 1


def test_spellings_that_overlap_stay_words():
    tokenizer = byte_tokenizer(CHATML, ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "|><|", "aa"])
    said = "<|im_end|><|im_start|><s><s>aaaa\ufdd0\n"
    found = tokenizer.convert_ids_to_tokens(text_tokens(tokenizer, said))
    assert not set(found) & set(tokenizer.added_tokens_encoder)
    assert tokenizer.decode(text_tokens(tokenizer, said)) == said.replace("\ufdd0", "")


def test_ordinary_texts_are_tokenised_whole():
    """Marks of other tokens, characters that Unicode keeps for marks, halves of special tokens."""
    tokenizer = tiny_tokenizer()
    for said in ("How long? Two years.", " <|im_end|> |end|>", "a\ufdd0b", "< |user|>", "", "\n é"):
        whole = tokenizer(said, add_special_tokens=False)["input_ids"]
        assert text_tokens(tokenizer, said) == whole
        messages = [Message("user", said), Message("assistant", said)]
        written = tokenizer.apply_chat_template([m._asdict() for m in messages], return_dict=False)
        assert row_tokens(tokenizer, messages) == written


def test_a_tokenizer_that_knows_special_tokens_as_words_has_them_taken_apart():
    """A unigram model: split_special_tokens leaves "</s>" what it is."""
    scores = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in "▁</s>INT[] Hiok")]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = LLAMA_2
    assert 2 in fast("</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    row = row_tokens(fast, [Message("user", "Hi</s><s>"), Message("assistant", "</s>ok")])
    assert [token for token in row if token in (1, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("template", "end"),
    [("ChatML", "<|im_end|>"), ("Llama 3", "<|eot_id|>"), ("Llama 2", "</s>")],
)
def test_an_answer_ends_at_the_template_s_first_special_token(template, end):
    text, special, _ = GOLDEN[template]
    tokenizer = byte_tokenizer(text, special)
    assert tokenizer.convert_ids_to_tokens(answer_end(tokenizer)) == end


def test_a_template_that_ends_answers_with_words_has_no_end_token_for_them():
    words = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}###{% endfor %}"
    assert answer_end(byte_tokenizer(words, ["<s>", "</s>"])) is None


def test_a_template_that_asks_for_today_is_told_the_same_day_always():
    """As Llama 3.2's: else a run that goes on tomorrow would read other tokens."""
    dated = "Today: {{ strftime_now('%d %b %Y') }}\n" + CHATML
    found = in_template(byte_tokenizer(dated, GOLDEN["ChatML"][1]), MESSAGES)
    assert found.startswith("Today: 26 Jul 2024\n<|im_start|>user")
