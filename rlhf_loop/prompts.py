"""The prompts file: what rejection sampling, PPO and the gate are run on. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reward.preferences import (
    Message,
    RecordReader,
    RiskCategory,
    dialogue_root,
    read_json_lines,
)


class PromptSplit(StrEnum):
    """Rejection sampling and PPO read train, early stopping validation, the gate test."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class PromptKind(StrEnum):
    """What a prompt shows of a model: how it helps, resists, or refuses without need."""

    HELPFULNESS = "helpfulness"
    ADVERSARIAL = "adversarial"  # tagged ``is_safety``: it might elicit unsafe answers
    BORDERLINE = "borderline"  # it looks adversarial and deserves an answer (section 4.2.3)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of a prompts file: the messages that a response answers."""

    id: str
    root: str
    messages: tuple[Message, ...]
    is_safety: bool
    risk_category: RiskCategory | None = None
    split: PromptSplit = PromptSplit.TRAIN
    is_borderline: bool = False

    def __post_init__(self) -> None:
        if self.is_safety and self.is_borderline:
            raise ValueError(f"prompt {self.id!r} is a safety prompt, so it cannot be borderline")

    @property
    def kind(self) -> PromptKind:
        if self.is_safety:
            return PromptKind.ADVERSARIAL
        return PromptKind.BORDERLINE if self.is_borderline else PromptKind.HELPFULNESS

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "root": self.root,
            "messages": [message._asdict() for message in self.messages],
            "is_safety": self.is_safety,
            "risk_category": self.risk_category,
            "split": self.split,
            "kind": self.kind,
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
    """Read a prompts file, only the lines of ``split`` when it is given.

    Raises MalformedLine, also for an id of an earlier line: seeds come from ids, so both would get
    the same answers; and for a root that an earlier line has on the other side, named or by its
    messages: no model trains on a dialogue that it is validated or tested on.
    """
    ids: set[str] = set()
    sides: dict[str, bool] = {}  # of each root, whether it is trained on
    for number, record in read_json_lines(path):
        reader = RecordReader(record, path, number)
        messages = tuple(reader.messages("messages"))
        if messages[-1].role != "user":
            raise reader.refuse("messages", record["messages"], "messages that end with a user")
        is_safety = reader.flag("is_safety") is True
        prompt = Prompt(
            id=reader.text("id"),
            root=reader.text("root"),
            messages=messages,
            is_safety=is_safety,
            risk_category=reader.optional("risk_category", RiskCategory),
            split=reader.one_of("split", PromptSplit),
            is_borderline=_is_borderline(reader, is_safety),
        )
        if prompt.id in ids:
            raise reader.refuse("id", prompt.id, "an id that no earlier line has")
        ids.add(prompt.id)
        is_trained = prompt.split is PromptSplit.TRAIN
        for root in _roots(prompt):
            if sides.setdefault(root, is_trained) != is_trained:
                allowed = "validation or test" if is_trained else "train"
                words = f"{allowed}, as an earlier line of the root {root!r} has"
                raise reader.refuse("split", str(prompt.split), words)
        if split is None or prompt.split is split:
            yield prompt


def fixed_prompts(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many of them in their order, drawn by what they say: the same in every round, as
    far as they are still there in a set that has changed, and of every kind whatever the order."""
    chosen = {prompt.id for prompt in sorted(prompts, key=_lot)[:most]}
    return [prompt for prompt in prompts if prompt.id in chosen]


def _lot(prompt: Prompt) -> bytes:
    said = "\x00".join(word for message in prompt.messages for word in message)
    return hashlib.sha256(said.encode()).digest()


def learnt_prompts(path: Path, split: PromptSplit, held_out: Iterable[Path]) -> list[Prompt]:
    """The prompts of a split that is learnt from. Raises MalformedLine, and ValueError for one
    whose dialogue a file of ``held_out`` validates or tests on."""
    prompts = list(read_prompts(path, split))
    for file in held_out:
        roots = held_out_roots(file)
        for prompt in prompts:
            if is_held_out(prompt.messages, prompt.root, roots):
                raise ValueError(
                    f"{path}: the {split} prompt {prompt.id!r} is of a dialogue that {file} "
                    "validates or tests on; allowed are prompts of no such dialogue"
                )
    return prompts


def held_out_roots(*paths: Path | None) -> frozenset[str]:
    """The roots that prompts files validate or test on, as their lines name them and as their
    messages have them; none without a file. No model is trained on a dialogue of theirs."""
    prompts = (prompt for path in paths if path is not None for prompt in read_prompts(path))
    held_out = (prompt for prompt in prompts if prompt.split is not PromptSplit.TRAIN)
    return frozenset(root for prompt in held_out for root in _roots(prompt))


def _roots(prompt: Prompt) -> tuple[str, str]:
    """What its dialogue is known by: the root that its line names, and that of its messages."""
    return prompt.root, dialogue_root(prompt.messages)


def is_held_out(messages: Sequence[Message], root: object, held_out: frozenset[str]) -> bool:
    """Whether a dialogue is one of those roots, by its messages or by the ``root`` that its line
    names, if any."""
    return dialogue_root(messages) in held_out or (isinstance(root, str) and root in held_out)


def left_out_words(count: int, what: str) -> str:
    """How many lines of held-out prompts were left out, to be said after something; "" for none."""
    return f", {count} {what} of held-out prompts were left out" if count else ""


def _is_borderline(reader: RecordReader, is_safety: bool) -> bool:
    """Whether the line's kind says so; a file from before there were kinds has none."""
    kind = reader.optional("kind", PromptKind)
    if kind is not None and is_safety != (kind is PromptKind.ADVERSARIAL):
        allowed = "adversarial for a safety prompt and for no other"
        raise reader.refuse("kind", str(kind), allowed)
    return kind is PromptKind.BORDERLINE
