"""The words every part shares, and the pairs file in which preferences travel.

Standard library only: the web side imports this module too. A pairs file is UTF-8 JSON lines, one
comparison per line, readable by any trainer that takes conversational preference data
(``prompt``, ``chosen``, ``rejected`` as message lists); the other columns say where it came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

E = TypeVar("E", bound=StrEnum)
HALF_SURROGATE = re.compile("[\ud800-\udfff]")


class Criterion(StrEnum):
    """What a comparison is judged by (Llama 2, section 3.2.1)."""

    HELPFULNESS = "helpfulness"
    SAFETY = "safety"


class PreferenceStrength(StrEnum):
    """How much better the chosen response is (Llama 2, section 3.2.1)."""

    SIGNIFICANTLY_BETTER = "significantly_better"
    BETTER = "better"
    SLIGHTLY_BETTER = "slightly_better"
    NEGLIGIBLY_BETTER = "negligibly_better"


class SafetyLabel(StrEnum):
    """The three safety bins; the fourth combination is no label (Llama 2, section 3.2.1)."""

    CHOSEN_SAFE = "chosen_safe"
    BOTH_SAFE = "both_safe"
    BOTH_UNSAFE = "both_unsafe"

    @property
    def chosen_is_safe(self) -> bool:
        return self is not SafetyLabel.BOTH_UNSAFE

    @property
    def rejected_is_safe(self) -> bool:
        return self is SafetyLabel.BOTH_SAFE


class RiskCategory(StrEnum):
    """Risk categories of safety prompts (Llama 2, section 4.2.1)."""

    ILLICIT_AND_CRIMINAL = "illicit_and_criminal"
    HATEFUL_AND_HARMFUL = "hateful_and_harmful"
    UNQUALIFIED_ADVICE = "unqualified_advice"


STRONGEST_FIRST = tuple(PreferenceStrength)


class Message(NamedTuple):
    role: str
    content: str


class Verdict(NamedTuple):
    """One annotator's judgement of one comparison, in the comparison's own order (a, b)."""

    annotator: str
    choice: str  # "a", "b" or "tie"
    strength: PreferenceStrength | None = None
    a_safe: bool | None = None
    b_safe: bool | None = None
    weight: float = 1.0


class Origin(NamedTuple):
    """What made a response."""

    checkpoint: str
    temperature: float | None
    top_p: float | None
    seed: int | None


class ContradictorySafety(ValueError):
    """The chosen response is unsafe and the rejected one safe: excluded from the data."""


class Aggregate(NamedTuple):
    """What the verdicts on one comparison say together; ``choice`` None is a tie."""

    choice: str | None
    share: float
    strength: PreferenceStrength | None
    safety: SafetyLabel | None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One line of a pairs file: one comparison with its aggregated choice and every verdict."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    criterion: Criterion
    id: str
    dialogue: str
    root: str
    strength: PreferenceStrength | None = None
    safety: SafetyLabel | None = None
    share: float = 1.0
    verdicts: tuple[Verdict, ...] = ()
    turn: int = 1
    parent: str | None = None
    batch: str = ""
    source: str = ""
    risk_category: RiskCategory | None = None
    chosen_from: Origin | None = None
    rejected_from: Origin | None = None

    def __post_init__(self) -> None:
        if not self.prompt or self.prompt[-1].role != "user":
            raise ValueError(f"prompt of {self.id!r} must end with a user message")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share!r}, allowed is 0 to 1")


def safety_label(chosen_safe: bool | None, rejected_safe: bool | None) -> SafetyLabel | None:
    """The bin of two safe flags; None where a flag is unknown.

    Raises ContradictorySafety for chosen unsafe with rejected safe.
    """
    if chosen_safe is None or rejected_safe is None:
        return None
    if chosen_safe:
        return SafetyLabel.BOTH_SAFE if rejected_safe else SafetyLabel.CHOSEN_SAFE
    if rejected_safe:
        raise ContradictorySafety("the chosen response is unsafe and the rejected one is safe")
    return SafetyLabel.BOTH_UNSAFE


def aggregate(verdicts: Sequence[Verdict]) -> Aggregate:
    """Join the verdicts on one comparison.

    A side is chosen when its weight exceeds the other side's and the ties'; anything else is a
    tie with share 0.5. The strength is the lower median of the strengths that the majority gave,
    the safe flags are decided per response first (an even split is unknown), then the label.

    Raises ValueError without verdicts, ContradictorySafety where the joined flags contradict.
    """
    if not verdicts:
        raise ValueError("a comparison without verdicts cannot be aggregated")
    weight = {"a": 0.0, "b": 0.0, "tie": 0.0}
    for verdict in verdicts:
        if verdict.choice not in weight:
            raise ValueError(f"choice is {verdict.choice!r}, allowed are 'a', 'b', 'tie'")
        weight[verdict.choice] += verdict.weight
    choice = next((s for s, o in (("a", "b"), ("b", "a"))
                   if weight[s] > max(weight[o], weight["tie"])), None)  # fmt: skip
    if choice is None:
        return Aggregate(None, 0.5, None, None)
    a_safe = _majority_flag((v.a_safe, v.weight) for v in verdicts)
    b_safe = _majority_flag((v.b_safe, v.weight) for v in verdicts)
    label = safety_label(*((a_safe, b_safe) if choice == "a" else (b_safe, a_safe)))
    known = [v.strength for v in verdicts if v.choice == choice and v.strength is not None]
    return Aggregate(choice, weight[choice] / sum(weight.values()), _lower_median(known), label)


def _majority_flag(flags: Iterable[tuple[bool | None, float]]) -> bool | None:
    balance = sum(w if flag else -w for flag, w in flags if flag is not None)
    return None if balance == 0 else balance > 0


def _lower_median(strengths: Sequence[PreferenceStrength]) -> PreferenceStrength | None:
    if not strengths:
        return None
    weakest_first = sorted(strengths, key=STRONGEST_FIRST.index, reverse=True)
    return weakest_first[(len(weakest_first) - 1) // 2]


def dialogue_root(messages: Sequence[Message]) -> str:
    """What a dialogue is known by: the hash of its system message and normalised first request.

    Normalised means Unicode NFKC, case folded, runs of white space as one space, so that the
    train/holdout split cannot be crossed by a re-typed prompt.
    """
    system = next((m.content for m in messages if m.role == "system"), "")
    first_user = next((m.content for m in messages if m.role == "user"), "")
    normalised = " ".join(unicodedata.normalize("NFKC", first_user).casefold().split())
    return hashlib.sha256(f"{system}\x00{normalised}".encode()).hexdigest()


# --- the pairs file --------------------------------------------------------------------------


class MalformedLine(ValueError):
    """A line that cannot be read; says file, line, field, value and what is allowed."""

    def __init__(self, path: object, line: int, field: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{path}, line {line}: {field} is {shown}, allowed is {allowed}")


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Write a pairs file and return how many lines it has."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            file.write(json.dumps(to_record(pair), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """Read a pairs file line by line. Raises MalformedLine."""
    for number, record in read_json_lines(path):
        yield from_record(record, path, number)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a UTF-8 JSON lines file. Raises MalformedLine."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, line_object(raw, path, number)


def line_object(raw: bytes, path: object, line: int) -> dict[str, Any]:
    """The object that one line of a JSON lines file holds.

    Raises MalformedLine, also for half of a surrogate pair: JSON can write it, and no tokenizer and
    no UTF-8 file takes it.
    """
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedLine(path, line, "the line", raw, "one JSON object") from None
    if not isinstance(record, dict):
        raise MalformedLine(path, line, "the line", record, "one JSON object")
    for field, value in record.items():
        if any(HALF_SURROGATE.search(text) for text in texts([field, value])):
            raise MalformedLine(path, line, field, value, "text without half surrogates")
    return record


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields among them, however deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]


def to_record(pair: PreferencePair) -> dict[str, Any]:
    """The line's object, TRL's conversational preference columns first."""
    record = dataclasses.asdict(pair)
    record["prompt"] = [message._asdict() for message in pair.prompt]
    record["chosen"] = [{"role": "assistant", "content": pair.chosen}]
    record["rejected"] = [{"role": "assistant", "content": pair.rejected}]
    record["verdicts"] = [verdict._asdict() for verdict in pair.verdicts]
    for name, origin in (("chosen_from", pair.chosen_from), ("rejected_from", pair.rejected_from)):
        record[name] = origin._asdict() if origin else None
    return record


def from_record(
    record: Mapping[str, Any], path: object = "record", line: int = 1
) -> PreferencePair:
    """The pair that a line's object holds. Raises MalformedLine."""
    reader = RecordReader(record, path, line)
    prompt = tuple(reader.messages("prompt"))
    if not prompt or prompt[-1].role != "user":
        raise MalformedLine(path, line, "prompt", record["prompt"], "messages that end with a user")
    return PreferencePair(
        prompt=prompt,
        chosen=reader.answer("chosen"),
        rejected=reader.answer("rejected"),
        criterion=reader.one_of("criterion", Criterion),
        id=reader.text("id"),
        dialogue=reader.text("dialogue"),
        root=reader.text("root"),
        strength=reader.optional("strength", PreferenceStrength),
        safety=reader.optional("safety", SafetyLabel),
        share=reader.number("share", 1.0, low=0.0, high=1.0),
        verdicts=tuple(_verdict(v, path, line) for v in reader.items("verdicts")),
        turn=reader.whole("turn", 1),
        parent=reader.text("parent", None),
        batch=reader.text("batch", ""),
        source=reader.text("source", ""),
        risk_category=reader.optional("risk_category", RiskCategory),
        chosen_from=_origin(record.get("chosen_from"), path, line),
        rejected_from=_origin(record.get("rejected_from"), path, line),
    )


def _verdict(record: Mapping[str, Any], path: object, line: int) -> Verdict:
    reader = RecordReader(record, path, line)
    choice = reader.text("choice")
    if choice not in ("a", "b", "tie"):
        raise MalformedLine(path, line, "choice", choice, "a, b, tie")
    return Verdict(
        annotator=reader.text("annotator"),
        choice=choice,
        strength=reader.optional("strength", PreferenceStrength),
        a_safe=reader.flag("a_safe"),
        b_safe=reader.flag("b_safe"),
        weight=reader.number("weight", 1.0, low=0.0),
    )


def _origin(record: Any, path: object, line: int) -> Origin | None:
    if record is None:
        return None
    if not isinstance(record, dict):
        raise MalformedLine(path, line, "chosen_from/rejected_from", record, "an object or null")
    reader = RecordReader(record, path, line)
    return Origin(
        checkpoint=reader.text("checkpoint"),
        temperature=None if record.get("temperature") is None else reader.number("temperature"),
        top_p=None if record.get("top_p") is None else reader.number("top_p"),
        seed=None if record.get("seed") is None else reader.whole("seed"),
    )


_REQUIRED: Any = object()


class RecordReader:
    """Typed access to the fields of one JSON object. Every method but ``refuse``, which makes it,
    raises MalformedLine, which names file, line and field, where its field is something else."""

    def __init__(self, record: Mapping[str, Any], path: object, line: int) -> None:
        if not isinstance(record, Mapping):
            raise MalformedLine(path, line, "the record", record, "a JSON object")
        self.record, self.path, self.line = record, path, line

    def refuse(self, field: str, value: object, allowed: str) -> MalformedLine:
        return MalformedLine(self.path, self.line, field, value, allowed)

    def get(self, field: str, default: Any = _REQUIRED) -> Any:
        if field in self.record:
            return self.record[field]
        if default is _REQUIRED:
            raise MalformedLine(self.path, self.line, field, None, "present (the field is missing)")
        return default

    def text(self, field: str, default: Any = _REQUIRED) -> Any:
        value = self.get(field, default)
        if isinstance(value, str) or (value is None and default is None):
            return value
        raise self.refuse(field, value, "a string")

    def flag(self, field: str) -> bool | None:
        value = self.get(field, None)
        if value is None or isinstance(value, bool):
            return value
        raise self.refuse(field, value, "true, false or null")

    def whole(self, field: str, default: Any = _REQUIRED) -> int:
        value = self.get(field, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.refuse(field, value, "a whole number")

    def number(
        self, field: str, default: Any = _REQUIRED, low: float = -1e308, high: float = 1e308
    ) -> float:
        value = self.get(field, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise self.refuse(field, value, "a number" + (f" from {low:g}" if low > -1e308 else "")
                          + (f" to {high:g}" if high < 1e308 else ""))  # fmt: skip

    def one_of(self, field: str, kind: type[E]) -> E:
        value = self.get(field)
        try:
            return kind(value)
        except ValueError:
            raise self.refuse(field, value, ", ".join(kind)) from None

    def optional(self, field: str, kind: type[E]) -> E | None:
        return None if self.get(field, None) is None else self.one_of(field, kind)

    def items(self, field: str) -> list[Any]:
        value = self.get(field, [])
        if isinstance(value, list):
            return value
        raise self.refuse(field, value, "a list")

    def messages(self, field: str) -> Iterator[Message]:
        value = self.get(field)
        if not isinstance(value, list) or not value:
            raise self.refuse(field, value, "a list of {role, content} messages")
        for item in value:
            if not isinstance(item, dict):
                raise self.refuse(field, item, "a message {role, content}")
            role, content = item.get("role"), item.get("content")
            if role not in ("system", "user", "assistant") or not isinstance(content, str):
                raise self.refuse(field, item, "role system, user or assistant and a text content")
            yield Message(role, content)

    def answer(self, field: str) -> str:
        messages = list(self.messages(field))
        if len(messages) != 1 or messages[0].role != "assistant":
            raise self.refuse(field, self.record[field], "exactly one assistant message")
        return messages[0].content
