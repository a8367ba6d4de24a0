"""PandaLM's test set: a JSON array of two answers to an instruction and three people's verdicts.

A verdict is 1 or 2 for the better answer, 0 for a tie. Two things of the real file: an answer may
be a JSON boolean, which stands for the text True or False; and items repeat, because two models
gave the same text. A repeat with the same verdicts is the same record. One item (their idx 580
repeats 578) was judged differently the second time; that is a second judgement and is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from annotation_app.imports.records import Record, json_array
from reward.preferences import Message, RecordReader, Verdict

ANNOTATORS = ("annotator1", "annotator2", "annotator3")
CHOICES = {0: "tie", 1: "a", 2: "b"}


def read(path: Path) -> Iterator[Record]:
    """One comparison with three verdicts per item, response1 as a. Raises MalformedLine."""
    for number, reader in json_array(path):
        yield Record(
            number=number,
            prompt=_prompt(reader),
            answer_a=_answer(reader, "response1"),
            answer_b=_answer(reader, "response2"),
            verdicts=tuple(Verdict(name, _choice(reader, name)) for name in ANNOTATORS),
        )


def _prompt(reader: RecordReader) -> tuple[Message, ...]:
    parts = [reader.text("instruction"), reader.text("input")]
    return (Message("user", "\n\n".join(part for part in parts if part.strip())),)


def _answer(reader: RecordReader, field: str) -> str:
    value = reader.get(field)
    if isinstance(value, str | bool):
        return str(value)
    raise reader.refuse(field, value, "a string, true or false")


def _choice(reader: RecordReader, field: str) -> str:
    value = reader.whole(field)
    if value in CHOICES:
        return CHOICES[value]
    raise reader.refuse(field, value, "0 (tie), 1, 2")
