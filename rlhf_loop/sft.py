"""Supervised fine-tuning on answers: ``python -m rlhf_loop.sft`` (Llama 2, section 3.1).

The loss is on the last assistant message only (or on each), its end token included, as the mean
over all such tokens of an optimiser step: the paper does not say which mean. A line of data whose
earlier answers nobody may learn says so: ``answers`` "last". With packing several dialogues fill a
row; attention then stays within each of them, or reaches across them.

The selected answers of rejection sampling have the shape that is read here, so a larger model's
``selected.jsonl`` trains a smaller model (distillation, section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reward import fsdp, ranks
from reward.command import command
from reward.data import epoch_order, row_tokens
from reward.minibatches import minibatches
from reward.model import context_tokens, row_limit
from reward.preferences import Message, RecordReader, read_json_lines
from reward.run_folder import RunFolder
from rlhf_loop.config import LearntAnswers, SFTConfig, inputs_of
from rlhf_loop.learning.likelihood import Reading, TokenRow, read_nothing, token_logprobs
from rlhf_loop.learning.steps import divided, leave_model, optimise
from rlhf_loop.policy import (
    chunks,
    load_chat_model,
    prompt_tokens,
    stop_tokens,
)
from rlhf_loop.prompts import held_out_roots, is_held_out, left_out_words


class AnswerRow(NamedTuple):
    """A prompt with its answer as token ids; the loss is on ``tokens[answer_start:]``."""

    tokens: list[int]
    answer_start: int
    dialogue: str = ""
    """Rows of one dialogue stay together, so that they share its history."""


def answer_row(
    tokenizer: Any, messages: Sequence[Message], stops: frozenset[int] = frozenset()
) -> AnswerRow:
    """The tokens of a dialogue in the chat template, and where its last answer starts.

    What the template puts after the answer's end token (one of ``stops``) is cut off: the model
    never writes it. Raises ValueError where the last message is no assistant's or is empty, or
    where the template writes the prompt differently once it is answered.
    """
    if len(messages) < 2 or messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise ValueError(f"messages end with {messages[-1:]}, allowed is an assistant's answer")
    prompt = prompt_tokens(tokenizer, messages[:-1])
    full = row_tokens(tokenizer, messages)
    if full[: len(prompt)] != prompt:
        raise ValueError(
            "the chat template writes a prompt differently once it is answered, so where the "
            f"answer begins is unknown (prompt ends with {messages[-2].content[-40:]!r})"
        )
    ends = (i for i in range(len(prompt), len(full)) if full[i] in stops)
    return AnswerRow(full[: next(ends, len(full)) + 1], len(prompt))


def read_answers(
    paths: Sequence[Path],
    tokenizer: Any,
    stops: frozenset[int],
    answers: LearntAnswers = LearntAnswers.LAST,
    held_out: frozenset[str] = frozenset(),
) -> tuple[list[AnswerRow], int]:
    """The rows of data files, one for each answer that is learnt; and how many dialogues were left
    out because their roots are among those ``held_out``.

    A line's own ``answers`` goes before the given one: earlier answers that nobody may learn stay
    context. Raises MalformedLine, also for a line that says itself that it is held out.
    """
    rows: list[AnswerRow] = []
    left_out = 0
    for path in paths:
        for number, record in read_json_lines(path):
            reader = RecordReader(record, path, number)
            if record.get("split") not in (None, "train"):
                raise reader.refuse("split", record["split"], "train, or no split")
            messages = list(reader.messages("messages"))
            if is_held_out(messages, record.get("root"), held_out):
                left_out += 1
                continue
            answered = [i for i, m in enumerate(messages, start=1) if m.role == "assistant"]
            learnt = reader.optional("answers", LearntAnswers) or answers
            ends = answered if learnt == LearntAnswers.ALL and answered else [len(messages)]
            try:
                found = [answer_row(tokenizer, messages[:end], stops) for end in ends]
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            rows += [row._replace(dialogue=f"{path} {number}") for row in found]
    return rows, left_out


# --- the loss -------------------------------------------------------------------------------------


def token_weights(lengths: Sequence[int], mean: str) -> list[float]:
    """What each answer's tokens weigh in a step, so that the weighted sum of losses is the mean.

    ``lengths``: tokens of each answer of the step. "tokens" is the mean over all tokens, "answers"
    the mean over the answers' own means.
    """
    if mean == "tokens":
        return [1 / sum(lengths)] * len(lengths)
    return [1 / (len(lengths) * length) for length in lengths]


def answer_loss(logprobs: Tensor, weights: Tensor) -> Tensor:
    """() weighted negative log-likelihood of K answer tokens; ``logprobs``, ``weights``: (K,).

    Parts of a step add up to the step's loss, since the weights are the whole step's.
    """
    return -(logprobs * weights).sum()


# --- which rows go together -----------------------------------------------------------------------


def pack(rows: Sequence[AnswerRow], max_tokens: int) -> list[list[AnswerRow]]:
    """Rows in their order, as many one after the other as ``max_tokens`` tokens hold."""
    packed: list[list[AnswerRow]] = []
    room = 0
    for row in rows:
        if len(row.tokens) > room:
            packed.append([])
            room = max_tokens
        packed[-1].append(row)
        room -= len(row.tokens)
    return packed


def joined(rows: Sequence[AnswerRow]) -> TokenRow:
    """Rows as one, in which every token sees all before it, other dialogues too."""
    tokens: list[int] = []
    wanted: list[int] = []
    for row in rows:
        wanted += range(len(tokens) + row.answer_start, len(tokens) + len(row.tokens))
        tokens += row.tokens
    return TokenRow(tokens, wanted)


def step_rows(
    rows: Sequence[AnswerRow], config: Any, longest: int
) -> Iterator[list[list[AnswerRow]]]:
    """The packed rows of each optimiser step, over all epochs; an epoch's last step may be small.

    Without packing every packed row is one row. One that is read as a whole, by attention across
    dialogues, has ``longest`` tokens at most, which a model's context may make fewer than
    ``max_tokens``.
    """
    room = longest if config.packing == "across" else config.max_tokens
    dialogues = [row.dialogue or str(number) for number, row in enumerate(rows)]
    for epoch in range(config.epochs):
        ordered = [rows[i] for i in epoch_order(dialogues, epoch, config.seed, shuffle=True)]
        whole = config.packing == "none"
        packed = [[row] for row in ordered] if whole else pack(ordered, room)
        for part in chunks(len(packed), config.batch):
            yield packed[part]


# --- the run --------------------------------------------------------------------------------------


def fine_tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[AnswerRow],
    config: Any,
    run: RunFolder,
    device: torch.device,
    first_step: int = 0,
) -> dict[str, float]:
    """Fine-tune ``model``, from the run's last checkpoint if there is one, and leave it there.

    ``config`` holds the fields of FineTuning and a seed; ``first_step`` is added to the steps that
    are logged. Returns the last step's figures. Raises ValueError without rows.
    """
    longest = row_limit(config.max_tokens, context_tokens(model))
    if not rows:
        raise ValueError(
            f"there is no answer to fine-tune on that has with its prompt {longest} tokens or "
            "fewer, allowed is one or more"
        )
    steps = list(step_rows(rows, config, longest))
    with divided(model, device, config) as read:
        gradients = partial(_gradients, read, config=config)
        figures = optimise(model, config, steps, gradients, run, first_step)
        leave_model(model, tokenizer, run)
    return figures


def _gradients(read: Reading, step: list[list[AnswerRow]], config: Any) -> dict[str, float]:
    """Add the gradients of one step, a minibatch at a time."""
    lengths = [len(row.tokens) - row.answer_start for packed in step for row in packed]
    weights = [
        weight
        for length, weight in zip(lengths, token_weights(lengths, config.loss_mean), strict=True)
        for _ in range(length)
    ]
    rows = [joined(packed) for packed in step]
    if config.packing == "within":  # the tree packs them without a pad, each dialogue by itself
        rows = [joined([row]) for packed in step for row in packed]
    bounds = [0]
    for row in rows:
        bounds.append(bounds[-1] + len(row.wanted))
    spans = [slice(*pair) for pair in pairwise(bounds)]
    loss = computed = 0.0
    own = ranks.own_rows(len(rows))
    groups = [(rows[i].inputs,) for i in own]
    for places, tokens in minibatches(groups, config.tokens_per_minibatch, read.shares):
        chosen = [own[place] for place in places]
        logprobs = token_logprobs(read, [rows[i] for i in chosen])  # (K,)
        parts = [weight for i in chosen for weight in weights[spans[i]]]
        part = answer_loss(logprobs, torch.tensor(parts, device=logprobs.device))
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
        computed += tokens
    fsdp.keep_step(read.policy, partial(read_nothing, read))
    loss, computed = ranks.summed(loss, computed)
    return {
        "sft/loss": loss,
        "sft/answers": len(lengths),
        "sft/answer_tokens": sum(lengths),
        "sft/row_tokens": sum(len(row.tokens) for row in rows),
        "sft/computed_tokens": int(computed),
    }


def within_length(
    rows: Sequence[AnswerRow], max_tokens: int, context: int | None
) -> list[AnswerRow]:
    """Those that fit into both; none is cut, for a cut row would have lost its end token."""
    longest = row_limit(max_tokens, context)
    return [row for row in rows if len(row.tokens) <= longest]


def train(config: SFTConfig) -> dict[str, Any]:
    """Fine-tune on data files; returns the run's result. Raises MalformedLine, RunFolderBusy."""
    return ranks.once(config.out, config, config.device, partial(_train, config))


def _train(config: SFTConfig, run: RunFolder, device: torch.device) -> dict[str, Any]:
    run.write_provenance(inputs_of(config))
    model, tokenizer = load_chat_model(config.model, str(device))
    stops = stop_tokens(model, tokenizer)
    held_out = held_out_roots(config.prompts, *config.held_out)
    rows, left_out = read_answers(config.data, tokenizer, stops, config.answers, held_out)
    if left_out and not rows:
        files = ", ".join(map(str, filter(None, (config.prompts, *config.held_out))))
        raise ValueError(
            f"all {left_out} dialogues are of held-out prompts of {files}: none is left"
        )
    short = within_length(rows, config.max_tokens, context_tokens(model))
    figures = fine_tune(model, tokenizer, short, config, run, device)
    too_long = len(rows) - len(short)
    return {
        "model": "model",
        "rows": len(short),
        "too_long": too_long,
        "held_out": left_out,
        "ranks": ranks.count(),
        **figures,
    }


def summary(result: dict[str, Any]) -> str:
    """A result for reading; of a rank that has none, another one tells."""
    if not result:
        return ""
    left_out = left_out_words(result.get("held_out", 0), "dialogues")
    return f"fine-tuned on {result['rows']} answers, {result['too_long']} were too long{left_out}"


def _run(config: SFTConfig) -> str:
    with ranks.explaining(config.out, config):
        return summary(train(config))


main = command(SFTConfig, "rlhf_loop.sft", _run, has_ranks=True)


if __name__ == "__main__":
    main()
