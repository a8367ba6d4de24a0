"""Small qualifications for the tests, and ways to walk through them."""

from __future__ import annotations

import json
from typing import Any

from annotation_app import qualification_document
from annotation_app.models import Attempt, Gate, Person, Qualification


def quiz(questions: int = 3, **fields: Any) -> dict[str, Any]:
    asked = [
        {"text": f"What is {n} and {n}?", "options": [f"{n + 1}", f"{2 * n}"], "answer": f"{2 * n}"}
        for n in range(2, questions + 2)
    ]
    return {"kind": "quiz", "title": "Sums", "pass_mark": 1, "questions": asked} | fields


def comparisons(questions: int = 3, safety: bool = False, **fields: Any) -> dict[str, Any]:
    """Response a is right and called Right; the strength is "better"."""
    reference: dict[str, Any] = {"choice": "a", "strength": "better"}
    if safety:
        reference |= {"a_safe": True, "b_safe": False}
    asked = [
        {
            "messages": [{"role": "user", "content": f"Question {n}?"}],
            "response_a": f"Right {n}.",
            "response_b": f"Wrong {n}.",
            "reference": reference,
        }
        for n in range(questions)
    ]
    return {
        "kind": "comparisons", "title": "Pairs", "pass_mark": 1, "questions": asked,
    } | fields  # fmt: skip


def writing(questions: int = 3, **fields: Any) -> dict[str, Any]:
    asked = [{"text": f"Write about {n}."} for n in range(questions)]
    return {"kind": "writing", "title": "Texts", "pass_mark": 4, "questions": asked} | fields


def document(*gates: dict[str, Any], skill: str = "English") -> dict[str, Any]:
    return {"skill": skill, "title": f"{skill} test", "gates": list(gates or [quiz()])}


def publish(by: Person, *gates: dict[str, Any], skill: str = "English") -> Qualification:
    text = json.dumps(document(*gates, skill=skill))
    return Qualification.publish(qualification_document.read(text), by)


def only_gate(qualification: Qualification) -> Gate:
    return qualification.gates.get()


def answer_rightly(attempt: Attempt, right: int) -> None:
    """So many right answers; the others wrong."""
    for number, answer in enumerate(attempt.answers.select_related("question"), start=1):
        question, is_right = answer.question, number <= right
        if question.is_comparison:
            choice = question.choice if is_right else "b"
            given = {"a_safe": question.a_safe, "b_safe": question.b_safe}
            attempt.answer(answer.position, choice=choice, strength="better", **given)
        else:
            assert question.answer is not None
            attempt.answer(answer.position, option=question.answer if is_right else 0)


def write(attempt: Attempt, texts: int) -> None:
    for number in range(1, texts + 1):
        attempt.answer(number, text=f"Text {number}.")


def passed(gate: Gate, person: Person) -> Attempt:
    attempt = Attempt.begin(gate, person)
    answer_rightly(attempt, gate.ask)
    attempt.finish()
    assert attempt.state == "passed"
    return attempt
