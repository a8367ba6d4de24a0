"""What every format is read into, and the two ways in which files hold JSON objects."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from reward.preferences import (
    Criterion,
    MalformedLine,
    Message,
    Origin,
    RecordReader,
    RiskCategory,
    Verdict,
    line_object,
    texts,
)

DIFFERING_HISTORIES = "differing histories"
CONTRADICTORY_SAFETY = "contradictory safety"

GZIP_MAGIC = b"\x1f\x8b"
WHITE_SPACE = re.compile(r"[ \t\r\n]*")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Record(NamedTuple):
    """One comparison of a file, in the order in which the file holds its two answers."""

    number: int  # of the record in its file; one record may hold several comparisons
    prompt: tuple[Message, ...]
    answer_a: str
    answer_b: str
    verdicts: tuple[Verdict, ...]
    unusable_reason: str = ""  # what only the reader can see
    criterion: Criterion | None = None  # where the file says it
    source: str = ""  # where the file says it
    risk_category: RiskCategory | None = None
    a_from: Origin | None = None
    b_from: Origin | None = None

    @property
    def hash(self) -> str:
        """What the record is known by: the question, the two answers in order and the verdicts.

        The verdicts belong to it, so the same question judged differently is a second judgement
        and is kept, while a repeated item adds nothing.
        """
        known_by = [self.prompt, self.answer_a, self.answer_b, self.verdicts, self.unusable_reason]
        return hashlib.sha256(json.dumps(known_by).encode()).hexdigest()


class Division(NamedTuple):
    """Two whole conversations as the history they share and the answer each ends with."""

    history: tuple[Message, ...]
    answer_a: str
    answer_b: str
    unusable_reason: str


def divide(first: Sequence[Message], second: Sequence[Message]) -> Division:
    """Split off the last assistant answers; what stands before them must be equal.

    Where it is not, the history is as far as the two agree. A conversation that does not end
    with the assistant has an empty answer.
    """
    (history_a, answer_a), (history_b, answer_b) = _last_answer(first), _last_answer(second)
    if history_a == history_b:
        return Division(history_a, answer_a, answer_b, "")
    equal = 0
    while history_a[equal : equal + 1] and history_a[equal] in history_b[equal : equal + 1]:
        equal += 1
    return Division(history_a[:equal] or history_a, answer_a, answer_b, DIFFERING_HISTORIES)


def _last_answer(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    if messages and messages[-1].role == "assistant":
        return tuple(messages[:-1]), messages[-1].content
    return tuple(messages), ""


# --- files -----------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[int, RecordReader]]:
    """Stream a JSON lines file, plain or gzip, as (record number, reader).

    Raises MalformedLine.
    """
    number = 0
    for line, raw in enumerate(_lines(path), start=1):
        if not raw.strip():
            continue
        number += 1
        yield number, _reader(line_object(raw, path, line), path, line)


def json_array(path: Path) -> Iterator[tuple[int, RecordReader]]:
    """The objects of a file that is one JSON array, plain or gzip, as (record number, reader).

    The text is held whole, the objects are decoded one by one, so that a refusal can name both
    the record and the line on which it starts. Raises MalformedLine.
    """
    text = whole_text(path)
    at = _after(text, 0)
    if text[at : at + 1] != "[":
        raise MalformedLine(path, 1, "the file", text[:60], "a JSON array of objects")
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at, number = _after(text, at + 1), 0
    ended = text[at : at + 1] == "]"
    while not ended:
        number += 1
        where = f"{path}, record {number}"
        line, counted = line + text.count("\n", counted, at), at
        try:
            record, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            found = text[error.pos : error.pos + 40]
            raise MalformedLine(where, error.lineno, "the text", found, "JSON") from None
        except RecursionError:
            raise MalformedLine(where, line, "the text", text[at : at + 40], "JSON") from None
        yield number, _reader(record, where, line)
        at, ended = _next_element(text, _after(text, end), where)
    if text[_after(text, at + 1) :]:
        raise MalformedLine(path, text.count("\n", 0, at) + 1, "the text after the array",
                            text[at + 1 :].lstrip()[:60], "nothing")  # fmt: skip


def _next_element(text: str, at: int, where: str) -> tuple[int, bool]:
    """Where the next element starts, or the closing bracket stands; and whether it is that."""
    mark = text[at : at + 1]
    if mark == "]":
        return at, True
    if mark == ",":
        return _after(text, at + 1), False
    line = text.count("\n", 0, at) + 1
    raise MalformedLine(f"{where} (its end)", line, "the text", text[at : at + 40], "a , or the ]")


def _after(text: str, at: int) -> int:
    """The place of the next character that is not white space."""
    found = WHITE_SPACE.match(text, at)
    return found.end() if found else at


def _reader(record: Any, path: object, line: int) -> RecordReader:
    reader = RecordReader(record, path, line)
    for field, value in reader.record.items():
        if any(UNSTORABLE.search(text) for text in texts([field, value])):
            allowed = "text without NUL characters and half surrogates, which no database stores"
            raise reader.refuse(field, value, allowed)
    return reader


def _opened(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where they are gzip, whatever the file is called."""
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if is_packed else path.open("rb")


def _lines(path: Path) -> Iterator[bytes]:
    read = 0
    with _opened(path) as file:
        try:
            for raw in file:
                read += 1
                yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _broken(path, read + 1, error) from None


def whole_text(path: Path) -> str:
    """A file's text, plain or gzip. Raises MalformedLine."""
    with _opened(path) as file:
        try:
            return file.read().decode("utf-8-sig")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _broken(path, 1, error) from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            found = error.object[error.start : error.start + 10]
            raise MalformedLine(path, line, "the text", found, "UTF-8") from None


def _broken(path: Path, line: int, error: Exception) -> MalformedLine:
    return MalformedLine(path, line, "the compressed file", str(error), "whole gzip data")
