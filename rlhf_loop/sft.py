"""Supervised fine-tuning on answers: ``python -m rlhf_loop.sft`` (Llama 2, section 3.1).

The loss is on the last assistant message only, its end token included, as the mean over all such
tokens of an optimiser step (the paper does not say which mean). B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reward.preferences import Message, RecordReader, read_json_lines
from reward.run_folder import RunFolder, RunFolderBusy, replace_folder
from reward.settings import parse, to_mapping
from reward.training_state import load_state, save_state
from rlhf_loop.config import FineTuning, SFTConfig
from rlhf_loop.policy import (
    accepted,
    chunks,
    load_chat_model,
    optimizer_groups,
    pad_token,
    position_ids,
    prompt_tokens,
    right_pad,
    save_chat_model,
    stop_tokens,
)

IGNORED = -100  # torch's label for "no loss here"


class AnswerRow(NamedTuple):
    """A prompt with its answer as token ids; the loss is on ``tokens[answer_start:]``."""

    tokens: list[int]
    answer_start: int


class SFTBatch(NamedTuple):
    """Rows as they go through the model."""

    tokens: Tensor  # (B, T)
    labels: Tensor  # (B, T) the token itself where it is part of an answer, else IGNORED
    positions: Tensor  # (B, T) restarts with every prompt of a packed row
    mask: Tensor | None  # (B, T) True: a real token; None for packed rows


def answer_loss(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Negative log-likelihood of the answer tokens, summed and divided by ``count``.

    ``logits`` (B, T, V), ``labels`` (B, T) with IGNORED where there is no loss; the logits at t
    predict the label at t + 1. With ``count`` the number of answer tokens in the whole optimiser
    step the parts of a step add up to its token mean.
    """
    predictions, wanted = logits[:, :-1].float(), labels[:, 1:]
    total = torch.nn.functional.cross_entropy(
        predictions.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / count


def answer_row(
    tokenizer: Any, messages: Sequence[Message], stops: frozenset[int] = frozenset()
) -> AnswerRow:
    """The tokens of a dialogue in the chat template, and where its last answer starts.

    What the template puts after the answer's end token (one of ``stops``) is cut off: the model
    never writes it. Raises ValueError where the last message is no assistant's or where the
    template writes the prompt differently once it is answered.
    """
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ValueError(f"messages end with {messages[-1:]}, allowed is an assistant's answer")
    prompt = prompt_tokens(tokenizer, messages[:-1])
    chat = [message._asdict() for message in messages]
    full: list[int] = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    if full[: len(prompt)] != prompt:
        raise ValueError(
            "the chat template writes a prompt differently once it is answered, so where the "
            f"answer begins is unknown (prompt ends with {messages[-2].content[-40:]!r})"
        )
    ends = (i for i in range(len(prompt), len(full)) if full[i] in stops)
    return AnswerRow(full[: next(ends, len(full)) + 1], len(prompt))


def padded_batch(rows: Sequence[AnswerRow], pad_id: int, device: Any = "cpu") -> SFTBatch:
    """One row of the batch for each answer."""
    tokens, mask = right_pad([row.tokens for row in rows], pad_id, device)
    labels, _ = right_pad([_labels(row) for row in rows], IGNORED, device)
    return SFTBatch(tokens, labels, position_ids(mask), mask)


def packed_batch(
    rows: Sequence[AnswerRow], max_length: int, pad_id: int, device: Any = "cpu"
) -> SFTBatch:
    """Several answers in each row of the batch, as many as fit into ``max_length`` tokens.

    Positions restart with each, from which the model keeps attention within each.
    """
    bins: list[list[AnswerRow]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        for packed in bins:
            if sum(len(other.tokens) for other in packed) + len(row.tokens) <= max_length:
                packed.append(row)
                break
        else:
            bins.append([row])
    tokens, mask = right_pad([[t for r in b for t in r.tokens] for b in bins], pad_id, device)
    labels, _ = right_pad([[t for r in b for t in _labels(r)] for b in bins], IGNORED, device)
    positions, _ = right_pad(
        [[i for r in b for i in range(len(r.tokens))] for b in bins], 0, device
    )
    # The pads at the end are a sequence of their own: nothing before them sees them.
    filling = ((~mask).long().cumsum(dim=1) - 1).clamp(min=0)
    return SFTBatch(tokens, labels, torch.where(mask, positions, filling), None)


def _labels(row: AnswerRow) -> list[int]:
    return [IGNORED] * row.answer_start + row.tokens[row.answer_start :]


def batch_logits(model: Any, batch: SFTBatch) -> Tensor:
    """(B, T, V) what the model predicts after each token."""
    logits: Tensor = model(
        input_ids=batch.tokens,
        attention_mask=batch.mask,
        use_cache=False,
        **accepted(model, position_ids=batch.positions),
    ).logits
    return logits


def learning_rate(step: int, steps: int, config: FineTuning) -> float:
    """The learning rate of step 0 … steps - 1: linear warm-up, then cosine towards 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def fine_tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[AnswerRow],
    config: Any,
    run: RunFolder,
    first_step: int = 0,
) -> dict[str, float]:
    """Fine-tune ``model`` in place, from the run's last checkpoint if there is one.

    ``config`` holds the fields of FineTuning and Compute and a seed; ``first_step`` is added to the
    steps that are logged. Returns the last step's figures. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("there is no answer to fine-tune on, allowed is one or more")
    optimizer = torch.optim.AdamW(
        optimizer_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95)
    )
    steps = config.epochs * math.ceil(len(rows) / config.batch)
    done, figures = _resume(run, model, optimizer), dict[str, float]()
    run.rewind_metrics(first_step + done)
    for step, batch in enumerate(_step_rows(rows, config)):
        if step < done:
            continue
        rate = learning_rate(step, steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        figures = {**_step(model, optimizer, batch, config, pad_token(tokenizer)), "lr": rate}
        run.log_metrics(first_step + step + 1, first_step + steps, **figures)
        if (step + 1) % config.checkpoint_every == 0:
            _save(run, model, optimizer, step + 1)
    return figures


def _step_rows(rows: Sequence[AnswerRow], config: Any) -> Iterator[list[AnswerRow]]:
    for epoch in range(config.epochs):
        order = random.Random(f"{config.seed} {epoch}").sample(range(len(rows)), len(rows))
        for part in chunks(len(order), config.batch):
            yield [rows[i] for i in order[part]]


def _step(
    model: Any, optimizer: torch.optim.Optimizer, rows: list[AnswerRow], config: Any, pad_id: int
) -> dict[str, float]:
    """One optimiser step on ``rows``, a part of them through the model at a time."""
    optimizer.zero_grad(set_to_none=True)
    count = sum(len(row.tokens) - row.answer_start for row in rows)
    loss = 0.0
    rows = sorted(rows, key=lambda row: len(row.tokens))
    for part in chunks(len(rows), config.forward_rows):
        if config.packing:
            batch = packed_batch(rows[part], config.max_length, pad_id, model.device)
        else:
            batch = padded_batch(rows[part], pad_id, model.device)
        part_loss = answer_loss(batch_logits(model, batch), batch.labels, count)
        part_loss.backward()  # type: ignore[no-untyped-call]
        loss += part_loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return {"sft/loss": loss, "sft/answer_tokens": count, "sft/grad_norm": float(norm)}


def _save(run: RunFolder, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    run.save_checkpoint(lambda folder: save_state(folder, model, optimizer, {"step": step}))


def _resume(run: RunFolder, model: Any, optimizer: torch.optim.Optimizer) -> int:
    checkpoint = run.resumable_checkpoint()
    if checkpoint is None:
        return 0
    return int(load_state(checkpoint, model, optimizer)["step"])


def train(config: SFTConfig) -> dict[str, Any]:
    """Fine-tune on a data file; returns the run's result. Raises MalformedLine, RunFolderBusy."""
    run = RunFolder(config.out)
    with run.locked():
        run.write_config(to_mapping(config))
        finished = run.result()
        if finished is not None:
            return finished
        model, tokenizer = load_chat_model(config.model, config.device)
        rows = []
        for number, record in read_json_lines(config.data):
            messages = list(RecordReader(record, config.data, number).messages("messages"))
            rows.append(answer_row(tokenizer, messages, stop_tokens(model, tokenizer)))
        short = [row for row in rows if len(row.tokens) <= config.max_length]
        figures = fine_tune(model, tokenizer, short, config, run)
        replace_folder(run.model, lambda folder: save_chat_model(model, tokenizer, folder))
        skipped = len(rows) - len(short)
        run.write_result({"model": "model", "rows": len(short), "too_long": skipped, **figures})
        return run.result() or {}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(SFTConfig, "rlhf_loop.sft", argv)
    try:
        result = train(config)
    except (ValueError, OSError, RunFolderBusy) as error:
        sys.exit(str(error))
    print(f"fine-tuned on {result['rows']} answers, {result['too_long']} were too long")


if __name__ == "__main__":
    main()
