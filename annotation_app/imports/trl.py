"""TRL's preference JSON lines, and with more columns our own pairs file.

Three shapes: ``prompt``, ``chosen`` and ``rejected`` as message lists; ``chosen`` and
``rejected`` as whole conversations without a ``prompt``; all three as strings. Two strings without
a prompt are refused: where a prompt would end could only be guessed, differently for each pair,
and one prompt would then fall on both sides of the holdout.

Of our own columns, ``verdicts`` with ``strength`` and safe flags, ``criterion``, ``source``,
``risk_category`` and what sampled the answers are read. TRL's ``margin`` is no strength.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from annotation_app.imports.records import (
    CONTRADICTORY_SAFETY,
    Division,
    Record,
    divide,
    json_lines,
)
from reward.preferences import (
    Criterion,
    Message,
    PreferencePair,
    RecordReader,
    Verdict,
    aggregate,
    from_record,
)

OUR_COLUMNS = (
    "criterion",
    "strength",
    "safety",
    "share",
    "verdicts",
    "source",
    "risk_category",
    "chosen_from",
    "rejected_from",
)
OTHER_SIDE = {"a": "b", "b": "a", "tie": "tie"}
LONGEST_SOURCE = 60
LONGEST_NAME = 120


def read(path: Path) -> Iterator[Record]:
    """One comparison per line, the chosen answer as a. Raises MalformedLine."""
    for number, reader in json_lines(path):
        history, a, b, reason = _conversations(reader)
        ours = _our_columns(reader)
        verdicts = _verdicts(reader, ours)
        coherent = tuple(v for v in verdicts if not _is_contradictory(v))
        if len(coherent) < len(verdicts):
            reason = reason or CONTRADICTORY_SAFETY
        yield Record(
            number=number,
            prompt=history,
            answer_a=a,
            answer_b=b,
            verdicts=coherent,
            unusable_reason=reason,
            criterion=ours.criterion if reader.record.get("criterion") is not None else None,
            source=ours.source,
            risk_category=ours.risk_category,
            a_from=ours.chosen_from,
            b_from=ours.rejected_from,
        )


def _conversations(reader: RecordReader) -> Division:
    if "prompt" not in reader.record:
        if isinstance(reader.get("chosen"), str):
            raise reader.refuse("prompt", None, "present where chosen and rejected are strings")
        return divide(list(reader.messages("chosen")), list(reader.messages("rejected")))
    prompt = reader.get("prompt")
    if isinstance(prompt, str):
        asked = (Message("user", prompt),)
        return Division(asked, reader.text("chosen"), reader.text("rejected"), "")
    if not isinstance(prompt, list):
        raise reader.refuse("prompt", prompt, "a string or a list of {role, content} messages")
    history = list(reader.messages("prompt"))
    chosen, rejected = reader.messages("chosen"), reader.messages("rejected")
    return divide([*history, *chosen], [*history, *rejected])


def _our_columns(reader: RecordReader) -> PreferencePair:
    """The columns of our pairs file that this line has, read as that file is read."""
    present = {c: reader.record[c] for c in OUR_COLUMNS if reader.record.get(c) is not None}
    pair = from_record({**_BARE, **present}, reader.path, reader.line)
    if len(pair.source) > LONGEST_SOURCE:
        raise reader.refuse("source", pair.source, f"at most {LONGEST_SOURCE} characters")
    return pair


_BARE: Mapping[str, Any] = {
    "prompt": [{"role": "user", "content": ""}],
    "chosen": [{"role": "assistant", "content": ""}],
    "rejected": [{"role": "assistant", "content": ""}],
    "criterion": Criterion.HELPFULNESS,
    "id": "",
    "dialogue": "",
    "root": "",
}


def _verdicts(reader: RecordReader, ours: PreferencePair) -> tuple[Verdict, ...]:
    """The verdicts with the chosen answer as a; a line without any is one unnamed verdict.

    In a pairs file a and b are those of the comparison; where the verdicts together chose b, that
    answer stands under ``chosen``, and the sides change names.
    """
    if not ours.verdicts:
        return (_unnamed_verdict(ours),)
    names = [verdict.annotator for verdict in ours.verdicts]
    if len(set(names)) < len(names):
        raise reader.refuse("verdicts", names, "one verdict of each annotator")
    for verdict in ours.verdicts:
        if verdict.weight != 1.0:
            raise reader.refuse("weight", verdict.weight, "1 (imported verdicts count alike)")
        if len(verdict.annotator) > LONGEST_NAME:
            allowed = f"at most {LONGEST_NAME} characters"
            raise reader.refuse("annotator", verdict.annotator, allowed)
    choices = [Verdict(verdict.annotator, verdict.choice) for verdict in ours.verdicts]
    if aggregate(choices).choice == "b":
        return tuple(_swapped(verdict) for verdict in ours.verdicts)
    return ours.verdicts


def _unnamed_verdict(ours: PreferencePair) -> Verdict:
    """What the line says as a whole; a share of one half is how a pairs file writes a tie."""
    is_tie = ours.share == 0.5
    return Verdict(
        annotator="annotator",
        choice="tie" if is_tie else "a",
        strength=None if is_tie else ours.strength,
        a_safe=ours.safety.chosen_is_safe if ours.safety else None,
        b_safe=ours.safety.rejected_is_safe if ours.safety else None,
    )


def _swapped(verdict: Verdict) -> Verdict:
    return verdict._replace(
        choice=OTHER_SIDE[verdict.choice], a_safe=verdict.b_safe, b_safe=verdict.a_safe
    )


def _is_contradictory(verdict: Verdict) -> bool:
    """Whether the chosen answer is unsafe and the other one safe."""
    chosen, other = verdict.a_safe, verdict.b_safe
    if verdict.choice == "b":
        chosen, other = other, chosen
    return verdict.choice != "tie" and chosen is False and other is True
