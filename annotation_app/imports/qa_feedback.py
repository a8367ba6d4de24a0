"""FineGrainedRLHF's question answering: four answers to a question and six pairwise verdicts.

A JSON array; each item is up to six comparisons that share a prompt and its four answers. The
verdicts stand in the order of PAIRS: 1 the first is better, 2 the second, 0 a tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotation_app.imports.records import Record, json_array
from reward.preferences import Message, RecordReader, Verdict

PAIRS = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
CHOICES = {0: "tie", 1: "a", 2: "b"}


def read(path: Path) -> Iterator[Record]:
    """Six comparisons per item, the one with the lower number as a. Raises MalformedLine."""
    for number, reader in json_array(path):
        prompt = (Message("user", _question(reader)),)
        answers = {n: reader.text(f"prediction {n}") for n in (1, 2, 3, 4)}
        for (first, second), choice in zip(PAIRS, _choices(reader), strict=True):
            verdict = Verdict("annotator", choice)  # the file names nobody
            yield Record(number, prompt, answers[first], answers[second], (verdict,))


def _question(reader: RecordReader) -> str:
    """The passages, each a title line and its sentences, then the question."""
    passages = [_passage(reader, passage) for passage in reader.items("passages")]
    return "\n\n".join([*passages, f"Question: {reader.text('question').strip()}"])


def _passage(reader: RecordReader, passage: Any) -> str:
    if not isinstance(passage, list) or not all(isinstance(text, str) for text in passage):
        raise reader.refuse("passages", passage, "lists of strings: a title and its sentences")
    title, sentences = passage[:1], passage[1:]
    return "\n".join([*title, " ".join(sentences)]).strip()


def _choices(reader: RecordReader) -> list[str]:
    values = reader.get("preference")
    if not isinstance(values, list) or len(values) != len(PAIRS):
        raise reader.refuse("preference", values, "a list of six verdicts")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value not in CHOICES:
            raise reader.refuse("preference", value, "0 (tie), 1, 2")
    return [CHOICES[value] for value in values]
