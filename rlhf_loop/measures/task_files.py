"""Task files: JSON lines of questions with options, in the shapes of lm-evaluation-harness.

Standard library only. A line is one document; its fields say which shape it has. The query and the
options are written the way the harness (0.4.13) writes them for that task:

=====================  ==========================================================================
shape (fields)         task of the harness
=====================  ==========================================================================
query, choices, gold   a processed document of any task (as of HellaSwag's); the simplest to write
arguments, target      a line of ``--log_samples``: any multiple-choice task, word for word (few-
                       shot examples, chat template); BIG-bench's code tasks come this way
ctx_a, ctx_b, endings  HellaSwag (reasoning)
sol1, sol2, goal       PIQA (reasoning)
sentence, option1, …   WinoGrande (reasoning)
question, choices,     MMLU where the answer is a number (knowledge, college computer science and
answer                 machine learning among it)
question, choices,     ARC (knowledge); with ``question_stem`` OpenBookQA (knowledge)
answerKey
support, question, …   SciQ (reading)
passage, question,     BoolQ (reading)
label
=====================  ==========================================================================

Tasks that generate text (HumanEval, GSM8K) have no options and are not measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reward.preferences import RecordReader, read_json_lines

LETTERS = "ABCDEFGHIJ"


class Document(NamedTuple):
    """One question. Option i is ``choices[i]`` as the continuation of ``queries[i]``."""

    queries: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int
    lengths: tuple[int, ...]  # characters of each option, by which acc_norm divides
    is_final: bool = False  # text and delimiter are as they go into the model


def read_task(path: Path, most: int | None = None) -> list[Document]:
    """The documents of a task file, at most the first ``most``.

    Raises MalformedLine for a line of no known shape, ValueError for a file without a line.
    """
    documents: list[Document] = []
    for number, record in read_json_lines(path):
        if most is not None and len(documents) == most:
            break
        documents.append(_document(RecordReader(record, path, number)))
    if not documents:
        raise ValueError(f"{path} holds no document")
    return documents


def _document(reader: RecordReader) -> Document:
    for fields, read in SHAPES:
        if all(field in reader.record for field in fields):
            document = read(reader)
            _refuse_unusable(reader, document)
            return document
    known = "; ".join(", ".join(fields) for fields, _ in SHAPES)
    raise reader.refuse("the fields", sorted(reader.record), f"those of a known shape: {known}")


def _refuse_unusable(reader: RecordReader, document: Document) -> None:
    if len(document.choices) < 2:
        raise reader.refuse("the options", document.choices, "two or more")
    if not all(choice.strip() for choice in document.choices):
        raise reader.refuse("the options", document.choices, "options with a text")
    if not 0 <= document.gold < len(document.choices):
        raise reader.refuse("the right option", document.gold, f"0 to {len(document.choices) - 1}")


def _asked(query: str, choices: list[str], gold: int) -> Document:
    many = len(choices)
    return Document((query,) * many, tuple(choices), gold, tuple(map(len, choices)))


def _texts(reader: RecordReader, field: str, value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise reader.refuse(field, value, "a list of texts")


def _number(reader: RecordReader, field: str, first: int = 0) -> int:
    """A whole number, also written as a text, counted from ``first``."""
    value = reader.get(field)
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value) - first
    return reader.whole(field) - first


def _processed(reader: RecordReader) -> Document:
    choices = _texts(reader, "choices", reader.get("choices"))
    return _asked(reader.text("query"), choices, _number(reader, "gold"))


def _logged(reader: RecordReader) -> Document:
    """A line of the harness's samples file; its arguments are numbered objects or lists."""
    given = reader.get("arguments")
    arguments = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(arguments, list):
        raise reader.refuse("arguments", given, "a list or an object of contexts with options")
    pairs = [list(a.values()) if isinstance(a, dict) else a for a in arguments]
    for pair in pairs:
        if not isinstance(pair, list) or [type(part) for part in pair[:2]] != [str, str]:
            raise reader.refuse("arguments", pair, "a context and an option")
    return Document(
        tuple(pair[0] for pair in pairs),
        tuple(pair[1] for pair in pairs),
        _number(reader, "target"),
        tuple(len(pair[1].removeprefix(" ")) for pair in pairs),
        is_final=True,
    )


def _hellaswag(reader: RecordReader) -> Document:
    context = f"{reader.text('ctx_a')} {reader.text('ctx_b').capitalize()}"
    query = _without_brackets(f"{reader.text('activity_label')}: {context}")
    endings = _texts(reader, "endings", reader.get("endings"))
    return _asked(query, [_without_brackets(e) for e in endings], _number(reader, "label"))


def _without_brackets(text: str) -> str:
    """HellaSwag's texts without what WikiHow left in them."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(reader: RecordReader) -> Document:
    choices = [reader.text("sol1"), reader.text("sol2")]
    return _asked(f"Question: {reader.text('goal')}\nAnswer:", choices, _number(reader, "label"))


def _winogrande(reader: RecordReader) -> Document:
    """Both options stand before what is scored: the rest of the sentence."""
    before, gap, rest = reader.text("sentence").partition("_")
    if not gap:
        raise reader.refuse("sentence", before, "a sentence with _ for the option")
    queries = tuple(before + reader.text(name) for name in ("option1", "option2"))
    ending = rest.strip()
    return Document(queries, (ending, ending), _number(reader, "answer", 1), (len(ending),) * 2)


def _mmlu(reader: RecordReader) -> Document:
    choices = _texts(reader, "choices", reader.get("choices"))
    if len(choices) > len(LETTERS):
        raise reader.refuse("choices", choices, f"at most {len(LETTERS)} texts, one a letter")
    letters = list(LETTERS[: len(choices)])
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    query = "\n".join([reader.text("question").strip(), *lines, "Answer:"])
    if subject := reader.text("subject", "").replace("_", " "):
        about = f"The following are multiple choice questions (with answers) about {subject}."
        query = f"{about}\n\n{query}"
    return _asked(query, letters, _number(reader, "answer"))


def _arc(reader: RecordReader) -> Document:
    question = f"Question: {reader.text('question')}\nAnswer:"
    return _asked(question, *_keyed_choices(reader))


def _openbookqa(reader: RecordReader) -> Document:
    return _asked(reader.text("question_stem"), *_keyed_choices(reader))


def _keyed_choices(reader: RecordReader) -> tuple[list[str], int]:
    """The texts of {text, label} and the number of the one that the answer key names."""
    choices, key = reader.get("choices"), reader.text("answerKey").lstrip()
    if not isinstance(choices, dict):
        raise reader.refuse("choices", choices, "an object of text and label")
    labels = _texts(reader, "choices.label", choices.get("label"))
    if key not in labels:
        raise reader.refuse("answerKey", key, ", ".join(labels))
    found = _texts(reader, "choices.text", choices.get("text"))
    if len(found) != len(labels):
        raise reader.refuse("choices.text", found, f"as many texts as labels, {len(labels)}")
    return found, labels.index(key)


def _sciq(reader: RecordReader) -> Document:
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    question = f"Question: {reader.text('question')}\nAnswer:"
    query = f"{reader.text('support').lstrip()}\n{question}"
    return _asked(query, [reader.text(name) for name in names], 3)


def _boolq(reader: RecordReader) -> Document:
    query = f"{reader.text('passage')}\nQuestion: {reader.text('question')}?\nAnswer:"
    return _asked(query, ["no", "yes"], _number(reader, "label"))


SHAPES: tuple[tuple[tuple[str, ...], Callable[[RecordReader], Document]], ...] = (
    (("arguments", "target"), _logged),
    (("query", "choices", "gold"), _processed),
    (("ctx_a", "ctx_b", "endings", "label"), _hellaswag),
    (("goal", "sol1", "sol2", "label"), _piqa),
    (("sentence", "option1", "option2", "answer"), _winogrande),
    (("support", "question", "correct_answer"), _sciq),
    (("passage", "question", "label"), _boolq),
    (("question_stem", "choices", "answerKey"), _openbookqa),
    (("question", "choices", "answerKey"), _arc),
    (("question", "choices", "answer"), _mmlu),
)
