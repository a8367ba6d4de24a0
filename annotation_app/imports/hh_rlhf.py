r"""Anthropic's hh-rlhf: JSON lines with ``chosen`` and ``rejected``, each one string of turns.

A turn starts with ``\n\nHuman:`` or ``\n\nAssistant:``. The two strings share every turn but the
last answer. White space around a turn is the file's way of writing it and is taken off; turns of
one side that follow each other are joined in the prompt, since chat templates want the sides to
alternate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from annotation_app.imports.records import Record, divide, json_lines
from reward.preferences import Message, RecordReader, Verdict

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
VERDICT = Verdict(annotator="annotator", choice="a")  # the file names nobody


def read(path: Path) -> Iterator[Record]:
    """One comparison per line, the chosen answer as a. Raises MalformedLine."""
    for number, reader in json_lines(path):
        history, a, b, reason = divide(_turns(reader, "chosen"), _turns(reader, "rejected"))
        yield Record(number, joined_turns(history), a, b, (VERDICT,), reason)


def _turns(reader: RecordReader, field: str) -> list[Message]:
    text: str = reader.text(field)
    before, *parts = TURN.split(text)
    if before or not parts or parts[0] != "Human":
        allowed = "turns of \\n\\nHuman: and \\n\\nAssistant:, the first one Human's"
        raise reader.refuse(field, text, allowed)
    sides, contents = parts[::2], parts[1::2]
    return [Message(ROLES[s], c.strip()) for s, c in zip(sides, contents, strict=True)]


def joined_turns(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The same turns with those of one side that follow each other as one."""
    found: list[Message] = []
    for turn in turns:
        if found and found[-1].role == turn.role:
            turn = Message(turn.role, f"{found.pop().content}\n\n{turn.content}")
        found.append(turn)
    return tuple(found)
