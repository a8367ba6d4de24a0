"""Instructions that an assistant is to obey throughout a dialogue, and how one tells that it does.

A JSON file holds ``{"constraints": [...]}``, each with a ``kind``, a wording (``instruction``), a
terse one (``terse``, "key: value"), ``values`` that take the place of {value}, optionally a
question by which a chat model is asked for more values (``ask``), and one ``check``:

* ``{"pattern": "^{value}"}`` a regular expression that must be found, letter case apart; a value is
  taken literally in it;
* ``{"marker": "{value}"}`` a word or phrase that must stand in the answer;
* ``{"language": "{value}"}`` one of ``LANGUAGES``, by the function words or letters of the answer;
* ``{"judge": true}`` no rule: a chat model is asked (``rlhf_loop.measures.asking``).

Standard library only. Source of the kinds: Llama 2, section 3.3 (hobby, language, public figure).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED = Path(__file__).with_name("constraints.json")
CHECKS = ("pattern", "marker", "language", "judge")

# Function words that stand often in one language and seldom in the others of this list.
_FUNCTION_WORDS = {
    "english": "the and is are you that with for this have not your was from",
    "french": "le les des est vous une dans pour pas que qui avec sur votre du",
    "german": "der das und ist nicht ein eine sie mit den von zu auf für auch",
    "spanish": "el los las es una para por con que no usted su del más como",
    "italian": "il gli è una per con che non di della sono suo del più anche",
    "portuguese": "o os as é uma para com que não do da você seu mais ao",
    "dutch": "de het een is niet van en dat op voor met zijn je ook aan",
}
LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
SCRIPTS: dict[str, str] = {
    "greek": "\u0370-\u03ff",
    "russian": "\u0400-\u04ff",
    "arabic": "\u0600-\u06ff",
    "hindi": "\u0900-\u097f",
    "japanese": "\u3040-\u30ff",
    "korean": "\uac00-\ud7af",
    "chinese": "\u4e00-\u9fff",
}


class Constraint(NamedTuple):
    """One thing to obey, with its value put in."""

    kind: str
    instruction: str
    terse: str
    check: str  # of CHECKS
    wanted: str  # the pattern, the marker or the language; empty for a judge

    def record(self) -> dict[str, str]:
        return self._asdict()


class ConstraintKind(NamedTuple):
    """A kind of constraint with the values that it may take."""

    kind: str
    instruction: str
    terse: str
    values: tuple[str, ...]
    check: str
    wanted: str
    ask: str | None

    def with_value(self, value: str) -> Constraint:
        literal = re.escape(value) if self.check == "pattern" else value
        return Constraint(
            self.kind,
            self.instruction.replace("{value}", value),
            self.terse.replace("{value}", value),
            self.check,
            self.wanted.replace("{value}", literal),
        )


def read_constraints(path: Path | None = None) -> list[ConstraintKind]:
    """The kinds of a file, or the shipped ones. Raises ValueError naming what is wrong in it."""
    path = path or SHIPPED
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["constraints"]
        kinds = [_kind(item, path) for item in found]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of constraints: {error!r}") from None
    if not kinds:
        raise ValueError(f"{path} holds no constraint, allowed are one or more")
    return kinds


def _kind(item: dict[str, Any], path: Path) -> ConstraintKind:
    ((check, wanted),) = item["check"].items() if len(item["check"]) == 1 else (("", ""),)
    if check not in CHECKS:
        raise ValueError(
            f"{path}: check of {item['kind']!r} is {item['check']!r}, allowed is one of "
            f"{', '.join(CHECKS)}"
        )
    if not isinstance(item["values"], list):
        raise ValueError(f"{path}: values of {item['kind']!r} is no list")
    values = tuple(dict.fromkeys(str(value) for value in item["values"]))
    wanted = "" if check == "judge" else str(wanted)
    kind = ConstraintKind(
        str(item["kind"]), str(item["instruction"]), str(item["terse"]), values, check, wanted,
        item.get("ask"),
    )  # fmt: skip
    _refuse_unusable(kind, path)
    return kind


def _refuse_unusable(kind: ConstraintKind, path: Path) -> None:
    if not kind.values:
        raise ValueError(f"{path}: {kind.kind!r} has no values, allowed are one or more")
    for value in kind.values:
        if fault := fault_of(kind, value):
            raise ValueError(f"{path}: {fault}")


def fault_of(kind: ConstraintKind, value: str) -> str:
    """Why no answer could be checked against this value, or ""."""
    wanted = kind.with_value(value).wanted
    if kind.check == "language" and wanted.casefold() not in {*LANGUAGES, *SCRIPTS}:
        return f"language is {wanted!r}, allowed are {', '.join([*LANGUAGES, *SCRIPTS])}"
    if kind.check == "pattern":
        try:
            re.compile(wanted)
        except re.error as error:
            return f"pattern {wanted!r}: {error}"
    return ""


def obeys(constraint: Constraint, text: str) -> bool | None:
    """Whether an answer obeys, by the constraint's rule; None where it has none."""
    match constraint.check:
        case "pattern":
            return bool(re.search(constraint.wanted, text, re.IGNORECASE))
        case "marker":
            marker = re.escape(constraint.wanted)
            return bool(re.search(rf"(?<!\w){marker}(?!\w)", text, re.IGNORECASE))
        case "language":
            return language_of(text) == constraint.wanted.casefold()
    return None


def disobeys(constraints: Sequence[Constraint], text: str) -> bool:
    """Whether an answer breaks one of several constraints, by the rules of those that have one.

    A marker is a word of the language that it was written in: where a language is asked for too,
    an answer that obeys both has another word for it, and no rule knows which.
    """
    in_any_language = any(constraint.check == "language" for constraint in constraints)
    return any(
        obeys(constraint, text) is False
        for constraint in constraints
        if not (in_any_language and constraint.check == "marker")
    )


def language_of(text: str) -> str | None:
    """The language that most of the text's function words or letters are of; None for a tie or
    where there are none, as in an answer of one or two words."""
    counts = {
        name: len(re.findall(f"[{letters}]", text)) for name, letters in SCRIPTS.items()
    }  # fmt: skip
    letters = sum(character.isalpha() for character in text)
    if counts["japanese"]:
        counts["japanese"] += counts.pop("chinese")  # Japanese is written with both
    if letters and max(counts.values()) * 2 > letters:
        return max(counts, key=lambda name: counts[name])
    words = re.findall(r"[^\W\d_]+", text.casefold())
    hits = {name: sum(w in known for w in words) for name, known in LANGUAGES.items()}
    best = max(hits.values())
    found = [name for name, count in hits.items() if count == best]
    return found[0] if best and len(found) == 1 else None


def draw_constraints(
    kinds: Sequence[ConstraintKind], most: int, draw: random.Random
) -> list[Constraint]:
    """One to ``most`` constraints, each of another kind, with a value each."""
    count = draw.randint(1, min(most, len(kinds)))
    return [kind.with_value(draw.choice(kind.values)) for kind in draw.sample(list(kinds), count)]


def instruction(constraints: Sequence[Constraint], is_terse: bool) -> str:
    """The constraints as one instruction: sentences, or "key: value; key: value"."""
    if is_terse:
        return "; ".join(constraint.terse for constraint in constraints)
    return " ".join(constraint.instruction for constraint in constraints)


def values_of_list(text: str) -> list[str]:
    """The values of a list that a chat model wrote, one on each line: numbers and bullets off."""
    lines = [re.sub(r"^\s*(?:\d+[.)]|[-*•])?\s*", "", line) for line in text.splitlines()]
    found = [line.strip().rstrip(".,;").strip("*\"' ") for line in lines]
    return [value for value in found if 0 < len(value) <= 40 and len(value.split()) <= 4]
