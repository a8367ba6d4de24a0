"""The prompts file: what rejection sampling, PPO and the gate are run on. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reward.preferences import Message, RecordReader, RiskCategory, read_json_lines


class PromptSplit(StrEnum):
    """Rejection sampling and PPO read train, early stopping validation, the gate test."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of a prompts file: the messages that a response answers."""

    id: str
    root: str
    messages: tuple[Message, ...]
    is_safety: bool
    risk_category: RiskCategory | None = None
    split: PromptSplit = PromptSplit.TRAIN

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "root": self.root,
            "messages": [message._asdict() for message in self.messages],
            "is_safety": self.is_safety,
            "risk_category": self.risk_category,
            "split": self.split,
        }


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> int:
    """Write a prompts file and return how many lines it has."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt.record(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_prompts(path: Path, split: PromptSplit | None = None) -> Iterator[Prompt]:
    """Read a prompts file, only the lines of ``split`` when it is given. Raises MalformedLine."""
    for number, record in read_json_lines(path):
        reader = RecordReader(record, path, number)
        messages = tuple(reader.messages("messages"))
        if messages[-1].role != "user":
            raise reader.refuse("messages", record["messages"], "messages that end with a user")
        prompt = Prompt(
            id=reader.text("id"),
            root=reader.text("root"),
            messages=messages,
            is_safety=reader.flag("is_safety") is True,
            risk_category=reader.optional("risk_category", RiskCategory),
            split=reader.one_of("split", PromptSplit),
        )
        if split is None or prompt.split is split:
            yield prompt
