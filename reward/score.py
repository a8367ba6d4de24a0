"""Score answers with a saved reward model: ``python -m reward.score``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from reward.command import command
from reward.config import ScoreConfig
from reward.data import PairRows, row_tokens
from reward.measures.accuracy import ScoredPair
from reward.minibatches import minibatches
from reward.model import context_tokens, load_reward_model, pick_device, score_rows
from reward.preferences import Message, RecordReader, read_json_lines
from reward.trunk import shares_prefixes


class TooLong(ValueError):
    """A conversation beyond the reward model's context; ``number`` is its place, from 0."""

    def __init__(self, number: int, tokens: int, allowed: int) -> None:
        super().__init__(
            f"conversation {number + 1} has {tokens} tokens, allowed are {allowed}: "
            "the model's context"
        )
        self.number = number


class Scorer:
    """A reward model ready to score conversations."""

    def __init__(
        self, folder: Path, device: str = "auto", dtype: str = "float32", tokens: int = 16_384
    ) -> None:
        model, self.tokenizer = load_reward_model(folder)
        self.model = model.to(pick_device(device))
        self.dtype, self.tokens = dtype, tokens

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> Tensor:
        """Raw scores (B,) of B conversations that each end with the answer to be judged.

        Raises ValueError for one that the chat template refuses, TooLong.
        """
        return self.score_tokens([row_tokens(self.tokenizer, c) for c in conversations])

    def score_tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores (B,) of B token rows. Raises TooLong."""
        most = context_tokens(self.model)
        for number, row in enumerate(rows):
            if most is not None and len(row) > most:
                raise TooLong(number, len(row), most)
        return score_tokens(self.model, rows, self.tokens, self.dtype)


@torch.no_grad()
def score_tokens(
    model: object, rows: Sequence[Sequence[int]], tokens: int, dtype: str = "float32"
) -> Tensor:
    """Raw scores (B,) on the CPU, with up to ``tokens`` going through the model at once."""
    scores = torch.empty(len(rows))
    groups = [(list(row),) for row in rows]
    parts = list(minibatches(groups, tokens, shares_prefixes(model)))
    for chosen, _ in tqdm(parts, desc="scoring", ncols=80, disable=_quiet(len(parts))):
        scores[chosen] = score_rows(model, [rows[i] for i in chosen], dtype).cpu()
    if not scores.isfinite().all():
        raise ValueError(f"scores are {scores[~scores.isfinite()][0]}, allowed are finite numbers")
    return scores


def _quiet(minibatches: int) -> bool:
    return minibatches < 4 or not sys.stderr.isatty()


def score_pairs(
    model: object, rows: Sequence[PairRows], tokens: int, dtype: str = "float32"
) -> list[ScoredPair]:
    """Both responses of every pair, scored."""
    flat = [tokens for row in rows for tokens in (row.chosen, row.rejected)]
    scores = score_tokens(model, flat, tokens, dtype).view(-1, 2).tolist()
    return [ScoredPair(row.pair, *both) for row, both in zip(rows, scores, strict=True)]


def score_file(config: ScoreConfig) -> int:
    """Add a score to every line of a file; returns how many. Raises MalformedLine, and ValueError
    naming a line that is too long for the model."""
    records, conversations, numbers = [], [], []
    for number, record in read_json_lines(config.input):
        reader = RecordReader(record, config.input, number)
        messages = list(reader.messages("messages"))
        if messages[-1].role != "assistant":
            raise reader.refuse("messages", record["messages"], "messages that end with an answer")
        records.append(record)
        conversations.append(messages)
        numbers.append(number)
    scorer = Scorer(config.model, config.device, config.dtype, config.tokens_per_minibatch)
    try:
        scores = scorer(conversations).tolist()
    except TooLong as error:
        raise ValueError(f"{config.input}, line {numbers[error.number]}: {error}") from None
    temporary = config.output.with_name(config.output.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for record, score in zip(records, scores, strict=True):
            file.write(json.dumps({**record, "score": score}, ensure_ascii=False) + "\n")
    os.replace(temporary, config.output)
    return len(records)


main = command(
    ScoreConfig,
    "reward.score",
    lambda config: f"{score_file(config)} answers scored: {config.output}",
)

if __name__ == "__main__":
    main()
