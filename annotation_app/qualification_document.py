"""The JSON document of a qualification: read with every fault named, written back the same.

docs/qualification.md describes it. Nothing here touches a row: a document is checked completely
before anything of it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotation_app.models.choices import Side, Strength
from annotation_app.tables import is_number

KINDS = ("quiz", "comparisons", "writing")
ROLES = ("system", "user", "assistant")
LONGEST_NAME = 60
LONGEST_TITLE = 120
LONGEST_TEXT = 20_000
MOST_GATES = 20
MOST_QUESTIONS = 200
MOST_OPTIONS = 9  # a key for each
MOST_MESSAGES = 50
LONGEST_MINUTES = 1_440
MOST_ATTEMPTS = 100
LOWEST_GRADE, HIGHEST_GRADE = 1, 5
REFERENCE = ("choice", "strength", "a_safe", "b_safe")


class Malformed(Exception):
    """A document that cannot be stored; ``faults`` are sentences, each with its place."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(" ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class QuestionPart:
    """One question: to choose from options, to compare two responses, or to write."""

    text: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    options: tuple[str, ...] = ()
    answer: int | None = None  # which option, from 0
    response_a: str = ""
    response_b: str = ""
    choice: str = ""
    strength: str = ""
    a_safe: bool | None = None
    b_safe: bool | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"text": self.text} if self.text else {}
        if self.messages:
            found["messages"] = [dict(message) for message in self.messages]
        if self.answer is not None:
            found |= {"options": list(self.options), "answer": self.options[self.answer]}
        if self.choice:
            reference = {name: getattr(self, name) for name in REFERENCE}
            found |= {"response_a": self.response_a, "response_b": self.response_b}
            found["reference"] = {k: v for k, v in reference.items() if v not in ("", None)}
        return found


@dataclass(frozen=True)
class GatePart:
    """One step, with what it takes to pass it."""

    kind: str
    title: str
    introduction: str
    seconds: int | None
    pass_mark: float
    mark_is_exclusive: bool
    ask: int
    most_attempts: int
    questions: tuple[QuestionPart, ...]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind, "title": self.title}
        if self.introduction:
            found["introduction"] = self.introduction
        if self.seconds is not None:
            found["minutes"] = _plain(self.seconds / 60)
        found["pass_mark"] = self._mark_as_json()
        found["mark_is_exclusive"] = self.mark_is_exclusive
        if self.ask != len(self.questions):
            found["ask"] = self.ask
        found["most_attempts"] = self.most_attempts
        found["questions"] = [question.as_json() for question in self.questions]
        return found

    def _mark_as_json(self) -> float | str:
        """A share that is no short decimal was given as a fraction of the questions asked."""
        right = round(self.pass_mark * self.ask)
        if self.pass_mark != round(self.pass_mark, 4) and self.pass_mark == right / self.ask:
            return f"{right}/{self.ask}"
        return _plain(self.pass_mark)


@dataclass(frozen=True)
class Document:
    """A qualification as it is configured; passing all gates in their order gives the skill."""

    skill: str
    title: str
    introduction: str
    gates: tuple[GatePart, ...]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"skill": self.skill, "title": self.title}
        if self.introduction:
            found["introduction"] = self.introduction
        found["gates"] = [gate.as_json() for gate in self.gates]
        return found

    def as_text(self) -> str:
        return json.dumps(self.as_json(), ensure_ascii=False, indent=2) + "\n"


def read(text: str) -> Document:
    """The document in this text. Raises Malformed with all of its faults."""
    faults: list[str] = []
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Malformed(
            [f"Line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})."]
        ) from error
    except ValueError as error:
        raise Malformed([f"The document is not plain JSON: {error}."]) from error
    except RecursionError as error:
        raise Malformed(["The document is nested too deeply to be read."]) from error
    document = _document(Part(value, "The document", faults))
    if faults:
        raise Malformed(faults)
    return document


class Part:
    """One object of the document: its fields are taken one by one, and faults are noted."""

    def __init__(self, value: object, place: str, faults: list[str]) -> None:
        self.place, self.faults = place, faults
        self.fields: dict[str, Any] = value if isinstance(value, dict) else {}
        self.known: list[str] = []
        self.is_silent = False
        if not isinstance(value, dict):
            self.fault(f"this is {_shown(value)}; allowed is an object, in braces")
            self.is_silent = True  # that its fields are missing says nothing more

    def fault(self, sentence: str) -> None:
        if not self.is_silent:
            self.faults.append(f"{self.place}: {sentence}.")

    def wrong(self, name: str, allowed: str) -> None:
        given = f"is {_shown(self.fields[name])}" if name in self.fields else "is missing"
        self.fault(f"{name} {given}; allowed is {allowed}")

    def take(self, name: str) -> Any:
        """The value, and None where there is none."""
        self.known.append(name)
        return self.fields.get(name)

    def text(self, name: str, longest: int = LONGEST_TEXT, *, needed: bool = True) -> str:
        value = self.take(name)
        if value is None and name not in self.fields and not needed:
            return ""
        if not isinstance(value, str) or (needed and not value.strip()):
            self.wrong(name, "a text")
            return ""
        if len(value) > longest:
            self.fault(f"{name} has {len(value)} characters; allowed are {longest}")
        if not _can_be_stored(value):
            self.fault(f"{name} holds a character that is no text (NUL or half of a pair)")
        return value.strip()

    def number(self, name: str, low: int, high: int, default: int) -> int:
        value = self.take(name)
        if name not in self.fields:
            return default
        if type(value) is not int or not low <= value <= high:
            self.wrong(name, f"a whole number from {low} to {high}")
            return default
        return value

    def flag(self, name: str, default: bool | None) -> bool | None:
        value = self.take(name)
        if name not in self.fields:
            return default
        if type(value) is not bool:
            self.wrong(name, "true or false")
            return default
        return value

    def one_of(self, name: str, allowed: Sequence[str], *, needed: bool = True) -> str:
        value = self.take(name)
        if not needed and name not in self.fields:
            return ""
        if not isinstance(value, str) or value not in allowed:
            self.wrong(name, ", ".join(allowed))
            return ""
        return value

    def items(self, name: str, low: int, high: int, *, needed: bool = True) -> list[Any]:
        value = self.take(name)
        if not needed and name not in self.fields:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"a list of {low} to {high}")
            return []
        if not low <= len(value) <= high:
            self.fault(f"{name} has {len(value)} entries; allowed are {low} to {high}")
            return []
        return value

    def nothing_else(self) -> None:
        for name in self.fields:
            if name not in self.known:
                allowed = ", ".join(self.known)
                self.fault(f"{_shown(name)} is not known here; allowed are {allowed}")


def _document(part: Part) -> Document:
    document = Document(
        skill=part.text("skill", LONGEST_NAME),
        title=part.text("title", LONGEST_TITLE),
        introduction=part.text("introduction", needed=False),
        gates=tuple(
            _gate(Part(value, f"Gate {number}", part.faults))
            for number, value in enumerate(part.items("gates", 1, MOST_GATES), start=1)
        ),
    )
    part.nothing_else()
    return document


def _gate(part: Part) -> GatePart:
    kind = part.one_of("kind", KINDS)
    title = part.text("title", LONGEST_TITLE)
    introduction = part.text("introduction", needed=False)
    values = part.items("questions", 1, MOST_QUESTIONS)
    ask = part.number("ask", 1, max(1, len(values)), default=len(values))
    gate = GatePart(
        kind=kind,
        title=title,
        introduction=introduction,
        seconds=_seconds(part),
        pass_mark=_pass_mark(part, kind, ask),
        mark_is_exclusive=bool(part.flag("mark_is_exclusive", False)),
        ask=ask,
        most_attempts=part.number("most_attempts", 1, MOST_ATTEMPTS, default=1),
        questions=tuple(
            _question(Part(value, f"{part.place}, question {number}", part.faults), kind)
            for number, value in enumerate(values, start=1)
        ),
    )
    part.nothing_else()
    return gate


def _seconds(part: Part) -> int | None:
    value = part.take("minutes")
    if "minutes" not in part.fields:
        return None
    if not is_number(value) or not 0 < value <= LONGEST_MINUTES or round(60 * value) < 1:
        part.wrong("minutes", f"more than 0, {LONGEST_MINUTES} at most, or none for no limit")
        return None
    seconds: int = round(60 * value)
    return seconds


def _pass_mark(part: Part, kind: str, ask: int) -> float:
    """A share of right answers (0.9 or "26/31") or a mean grade; it must be possible to pass."""
    value = part.take("pass_mark")
    is_exclusive = part.fields.get("mark_is_exclusive") is True
    low, high = (LOWEST_GRADE, HIGHEST_GRADE) if kind == "writing" else (0, 1)
    if isinstance(value, str) and kind != "writing":
        value = _fraction(value, ask)
    if not is_number(value) or not low <= value <= high or (value == high and is_exclusive):
        allowed = f"a {'mean grade' if kind == 'writing' else 'share'} from {low} to {high}"
        if ask and kind != "writing":
            allowed += f', or right answers of those asked, "{ask}/{ask}" at most'
        too_high = f"; {high} cannot be exceeded" if is_exclusive else ""
        part.wrong("pass_mark", allowed + too_high)
        return float(high)
    return float(value)


def _fraction(text: str, ask: int) -> float | None:
    right, slash, asked = text.partition("/")
    if not slash or not all(t.isascii() and t.isdigit() and len(t) < 5 for t in (right, asked)):
        return None
    return int(right) / ask if int(asked) == ask and ask else None


def _question(part: Part, kind: str) -> QuestionPart:
    """Comparisons may also hold questions with options: to grade one response."""
    if kind == "writing":
        question = _to_write(part)
    elif kind == "comparisons" and "options" not in part.fields:
        question = _to_compare(part)
    else:
        question = _to_choose(part)
    if kind:  # without it nobody can say which fields belong here
        part.nothing_else()
    return question


def _to_choose(part: Part) -> QuestionPart:
    values = part.items("options", 2, MOST_OPTIONS)
    options = [Part({"option": v}, part.place, part.faults).text("option", 1_000) for v in values]
    given = part.take("answer")
    answer = given.strip() if isinstance(given, str) else ""
    if options and answer not in options:
        part.wrong("answer", "the text of one of its options")
    if len(set(options)) < len(options):
        part.fault("two options are the same; each must be another text")
    return QuestionPart(
        text=part.text("text"),
        messages=_messages(part, needed=False),
        options=tuple(options),
        answer=options.index(answer) if answer in options else None,
    )


def _to_compare(part: Part) -> QuestionPart:
    reference = Part(part.take("reference"), f"{part.place}, reference", part.faults)
    question = QuestionPart(
        text=part.text("text", needed=False),
        messages=_messages(part, needed=True),
        response_a=part.text("response_a"),
        response_b=part.text("response_b"),
        choice=reference.one_of("choice", Side.values),
        strength=reference.one_of("strength", Strength.values, needed=False),
        a_safe=reference.flag("a_safe", None),
        b_safe=reference.flag("b_safe", None),
    )
    reference.nothing_else()
    if question.response_a and question.response_a == question.response_b:
        part.fault("response_a and response_b are the same; they must differ")
    if (question.a_safe is None) != (question.b_safe is None):
        reference.fault("only one of a_safe and b_safe is given; allowed are both or neither")
    elif _contradicts(question):
        reference.fault("the chosen response is marked unsafe and the other one safe")
    return question


def _contradicts(question: QuestionPart) -> bool:
    safe = {Side.A: question.a_safe, Side.B: question.b_safe}
    chosen = Side(question.choice or Side.A)
    return safe[chosen] is False and safe[chosen.other] is True


def _to_write(part: Part) -> QuestionPart:
    messages = _messages(part, needed=False)
    return QuestionPart(text=part.text("text", needed=not messages), messages=messages)


def _messages(part: Part, *, needed: bool) -> tuple[Mapping[str, str], ...]:
    found = []
    for number, value in enumerate(
        part.items("messages", 1, MOST_MESSAGES, needed=needed), start=1
    ):
        message = Part(value, f"{part.place}, message {number}", part.faults)
        found.append({"role": message.one_of("role", ROLES), "content": message.text("content")})
        message.nothing_else()
    if needed and found and found[-1]["role"] in ("system", "assistant"):
        part.fault("messages end without the user's; two responses answer a message of the user")
    return tuple(found)


def _plain(number: float) -> float:
    """2.0 → 2, as a person writes it."""
    return int(number) if number == int(number) else number


def _can_be_stored(text: str) -> bool:
    return "\0" not in text and not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


def _shown(value: object) -> str:
    """A value as the document has it, cut short."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "…"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{_shown(name)} stands twice in one object")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
