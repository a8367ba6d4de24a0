"""Pairs files → token rows: the chat template, the mixture, the order, and what is refused."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from reward.preferences import Criterion, Message, PreferencePair, read_pairs

COLLECTED = "collected"
# What a template that asks for today is told, always: a run that goes on tomorrow, and whoever
# samples what it trained, must read the same tokens. Llama 3.1's own takes it where nothing tells.
TODAY = date(2024, 7, 26)
APART = "\ufdd0"  # no character, for ever: Unicode keeps it for marks such as ours
ASKED_DAY = re.compile(r"""strftime_now\(\s*(["'])(.+?)\1\s*\)""")


class PairRows(NamedTuple):
    """A pair with the token rows of its two responses, each row prompt and answer."""

    pair: PreferencePair
    chosen: list[int]
    rejected: list[int]
    is_tie: bool = False

    @property
    def longest(self) -> int:
        return max(len(self.chosen), len(self.rejected))


def load_pairs(path: Path) -> list[PreferencePair]:
    """Every pair of a file. Raises MalformedLine, and ValueError for one that cannot be ranked."""
    pairs = list(read_pairs(path))
    for pair in pairs:
        if not pair.chosen.strip() or not pair.rejected.strip():
            raise ValueError(f"{path}: pair {pair.id!r} has an empty answer")
        if pair.chosen == pair.rejected:
            raise ValueError(f"{path}: pair {pair.id!r} has two identical answers")
    return pairs


def refuse_leak(train: Iterable[PreferencePair], holdout: Iterable[PreferencePair]) -> None:
    """Raises ValueError naming a dialogue root that stands in both files."""
    shared = {pair.root for pair in train} & {pair.root for pair in holdout}
    if shared:
        raise ValueError(
            f"{len(shared)} dialogue roots stand in the pairs and in the holdout, "
            f"one is {min(shared)!r}; allowed are none"
        )


def mix(
    pairs: Sequence[PreferencePair], criterion: Criterion, mixture: str, seed: int
) -> list[PreferencePair]:
    """The pairs that this criterion's model is trained on (section 3.2.2), in file order.

    "published": the helpfulness model takes all collected helpfulness pairs and as many of all the
    rest, drawn evenly; the safety model takes all safety pairs as 90 % and fills 10 % with
    helpfulness pairs. While nothing of the criterion has been collected, imported pairs of it
    stand in its place. "own": pairs of the criterion only. "all": every pair.
    """
    if mixture == "all":
        return list(pairs)
    own = {i for i, pair in enumerate(pairs) if pair.criterion == criterion}
    if mixture == "own":
        return [pairs[i] for i in sorted(own)]
    collected = {i for i in own if pairs[i].source == COLLECTED}
    if criterion == Criterion.HELPFULNESS:
        own = collected or own
        wanted = len(own)
    else:
        wanted = round(len(own) / 9)
    rest = [i for i in range(len(pairs)) if i not in own]
    drawn = random.Random(seed).sample(rest, min(wanted, len(rest)))
    return [pairs[i] for i in sorted(own.union(drawn))]


def in_template(
    tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = False
) -> str:
    """A conversation as the tokenizer's chat template writes it, always on the same day. Raises
    ValueError where the template refuses the conversation."""
    chat = [message._asdict() for message in messages]
    template = ASKED_DAY.sub(
        lambda asked: repr(TODAY.strftime(asked[2])), tokenizer.get_chat_template()
    )
    try:
        text: str = tokenizer.apply_chat_template(
            chat,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise ValueError(f"the chat template refuses the roles {roles}: {error}") from None
    return text


def template_tokens(
    tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = False
) -> list[int]:
    """The tokens of a conversation in the tokenizer's chat template, of which those alone are
    special that the template writes.

    What a message says stays words, whatever it spells: an answer about "<|end|>" would be learnt
    as far as that and no further, and a policy that spells the user's thanks behind its answer
    would be scored for them. So a text that spells a special token is tokenised in parts, the first
    character of the spelling in one and the rest in the next (where a tokenizer begins every text
    with a space, each part begins with one); other texts are tokenised whole. The tokenizer's own
    ``split_special_tokens`` does not do: a unigram model knows "</s>" as a word too.

    Raises ValueError where the template refuses the conversation.
    """
    special = _special_words(tokenizer)
    apart = [message._replace(content=_apart(message.content, special)) for message in messages]
    text = in_template(tokenizer, apart, add_generation_prompt)
    return _tokens(tokenizer, text.split(APART) if apart != list(messages) else [text])


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of what one message says, none of them special (``template_tokens``)."""
    apart = _apart(text, _special_words(tokenizer))
    return _tokens(tokenizer, apart.split(APART) if apart != text else [text])


def _special_words(tokenizer: Any) -> list[str]:
    """The texts of the special tokens. One of a single character could not be taken apart."""
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special and len(token.content) > 1]


def _apart(text: str, special: Iterable[str]) -> str:
    """The text with a mark behind the first character of every special token that it spells."""
    spelt = "|".join(re.escape(word) for word in special if word in text)
    return re.sub(f"(?=(?:{spelt})).", rf"\g<0>{APART}", text, flags=re.DOTALL) if spelt else text


def _tokens(tokenizer: Any, parts: Iterable[str]) -> list[int]:
    return [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]


def row_tokens(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation in the tokenizer's chat template, special tokens included.

    The one way from messages to whole token rows: in training, scoring and the loop alike. Where
    the template writes more after the end token (ChatML: a newline) the row, and so the score, ends
    there too. Raises ValueError where the template refuses the conversation.
    """
    return template_tokens(tokenizer, messages)


def end_token(tokenizer: Any) -> int:
    """The token that ends every row of the chat template, whatever the answer.

    Raises ValueError for a template that writes nothing after an answer: a score would be read
    before the answer is known to be over.
    """
    behind = _behind_answers(tokenizer)
    if not behind:
        raise ValueError("the chat template writes no end token after an answer, and one is needed")
    return behind[-1]


def answer_end(tokenizer: Any) -> int | None:
    """The token by which the chat template ends an answer, the first special one behind it; None
    where it ends answers with words alone. ChatML writes a newline, the end of the row, behind."""
    special = tokenizer.added_tokens_decoder
    return next((token for token in _behind_answers(tokenizer) if token in special), None)


def _behind_answers(tokenizer: Any) -> list[int]:
    """The tokens that the chat template writes behind an answer, whatever it is."""
    yes, no = (
        row_tokens(tokenizer, [Message("user", "?"), Message("assistant", answer)])
        for answer in ("yes", "no!")
    )
    same = 0
    while same < min(len(yes), len(no)) and yes[-same - 1] == no[-same - 1]:
        same += 1
    return yes[len(yes) - same :]


def tokenise(tokenizer: Any, pairs: Iterable[PreferencePair]) -> list[PairRows]:
    """Both rows of every pair.

    Raises ValueError for a row that ends in the pad token: its score would be read one token early;
    and for two rows that the chat template makes the same.
    """
    rows = []
    for pair in pairs:
        chosen, rejected = (
            row_tokens(tokenizer, [*pair.prompt, Message("assistant", answer)])
            for answer in (pair.chosen, pair.rejected)
        )
        if tokenizer.pad_token_id in (chosen[-1], rejected[-1]):
            raise ValueError(
                f"pair {pair.id!r} ends in the pad token {tokenizer.pad_token!r}; "
                "allowed is any other end token"
            )
        if chosen == rejected:
            raise ValueError(f"pair {pair.id!r} has two answers that are the same tokens")
        rows.append(PairRows(pair, chosen, rejected))
    return rows


class Fitted(NamedTuple):
    """Pairs that fit a length, and what became of those that did not."""

    rows: list[PairRows]
    dropped: int
    cut: int


def within_length(
    tokenizer: Any, rows: Sequence[PairRows], max_tokens: int, over_long: str
) -> Fitted:
    """What ``over_long`` says of pairs with a longer row.

    "drop" leaves them out; "cut" takes the oldest turns off their history, a user message with its
    answer at a time, and leaves out what is too long even then; a system message stays. Raises
    ValueError naming the first of them when it is "error".
    """
    fitted, cut = [], 0
    for row in rows:
        if row.longest <= max_tokens:
            fitted.append(row)
        elif over_long == "error":
            raise ValueError(
                f"pair {row.pair.id!r} has {row.longest} tokens, allowed are {max_tokens}"
            )
        elif over_long == "cut" and (shorter := _cut(tokenizer, row.pair, max_tokens)):
            fitted.append(shorter)
            cut += 1
    return Fitted(fitted, len(rows) - len(fitted), cut)


def _cut(tokenizer: Any, pair: PreferencePair, max_tokens: int) -> PairRows | None:
    """The pair with as much of its history as fits, None where not even its last message does."""
    system = tuple(message for message in pair.prompt[:1] if message.role == "system")
    turns = [i for i, message in enumerate(pair.prompt) if message.role == "user"]
    for start in turns[1:]:
        shorter = replace(pair, prompt=system + pair.prompt[start:])
        (row,) = tokenise(tokenizer, [shorter])
        if row.longest <= max_tokens:
            return row
    return None


def epoch_order(roots: Sequence[str], epoch: int, seed: int, shuffle: bool) -> list[int]:
    """The order of one epoch: the file's, or drawn from seed and epoch alone, so it resumes.

    ``roots`` names the dialogue root of each pair: the comparisons of a dialogue stay together, so
    that a step can share their history.
    """
    if not shuffle:
        return list(range(len(roots)))
    dialogues: dict[str, list[int]] = {}
    for index, root in enumerate(roots):
        dialogues.setdefault(root, []).append(index)
    drawn = list(dialogues.values())
    random.Random(f"{seed}/{epoch}").shuffle(drawn)
    return [index for dialogue in drawn for index in dialogue]


def composition(pairs: Iterable[PreferencePair]) -> dict[str, int]:
    """How many pairs of which criterion and source, for the run's result."""
    counts = Counter(f"{pair.criterion}, {pair.source or 'unknown source'}" for pair in pairs)
    return dict(sorted(counts.items()))
