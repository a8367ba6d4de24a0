"""The JSON document of a qualification: every fault a sentence with its place, or nothing."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from django.conf import settings

from annotation_app import qualification_document
from annotation_app.models import Qualification
from annotation_app.qualification_document import Malformed, read
from tests.annotation_app.qualifications import comparisons, document, publish, quiz, writing

EXAMPLE = settings.BASE_DIR / "demo" / "qualification.json"
WHOLE = document(
    quiz(2, minutes=1.5, introduction="Read *well*."),
    comparisons(3, safety=True, pass_mark="2/3", mark_is_exclusive=True),
    writing(3, ask=2, most_attempts=3),
)


def faults(value: Any) -> list[str]:
    with pytest.raises(Malformed) as found:
        read(value if isinstance(value, str) else json.dumps(value))
    return found.value.faults


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with one field set, or taken away with ``None``."""
    made: Any = copy.deepcopy(WHOLE)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    part = made
    for step in way:
        part = part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return made


def test_it_works():
    found = read(json.dumps(WHOLE))
    assert [gate.kind for gate in found.gates] == ["quiz", "comparisons", "writing"]
    assert (found.gates[0].seconds, found.gates[0].ask) == (90, 2)
    assert found.gates[0].questions[0].answer == 1
    assert found.gates[1].pass_mark == 2 / 3
    assert (found.gates[2].ask, found.gates[2].most_attempts) == (2, 3)


def test_it_is_written_as_it_was_read():
    found = read(json.dumps(WHOLE))
    assert read(found.as_text()) == found
    assert '"2/3"' in found.as_text()


@pytest.mark.django_db
def test_rows_give_the_document_back(alice):
    made = publish(alice, *WHOLE["gates"])
    assert Qualification.objects.get(pk=made.pk).document() == read(json.dumps(WHOLE))


def test_the_shipped_example_is_whole():
    found = read(EXAMPLE.read_text(encoding="utf-8"))
    assert [gate.kind for gate in found.gates] == ["quiz", "quiz", "comparisons", "writing"]
    assert read(found.as_text()) == found


Q1, C1, W1 = "gates.0.questions.0", "gates.1.questions.0", "gates.2.questions.0"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("skill", None, "The document: skill is missing; allowed is a text."),
        ("skill", "s" * 61, "The document: skill has 61 characters; allowed are 60."),
        ("title", " ", 'The document: title is " "; allowed is a text.'),
        ("introduction", 7, "The document: introduction is 7; allowed is a text."),
        ("gates", [], "The document: gates has 0 entries; allowed are 1 to 20."),
        ("gates.1", "x", 'Gate 2: this is "x"; allowed is an object, in braces.'),
        (
            "gates.0.kind", "exam",
            'Gate 1: kind is "exam"; allowed is quiz, comparisons, writing.',
        ),
        (
            "gates.0.pas_mark", 1,
            'Gate 1: "pas_mark" is not known here; allowed are kind, title, introduction, '
            "questions, ask, minutes, pass_mark, mark_is_exclusive, most_attempts.",
        ),
        (
            "gates.0.pass_mark", 90,
            'Gate 1: pass_mark is 90; allowed is a share from 0 to 1, or right answers of those '
            'asked, "2/2" at most.',
        ),
        ("gates.0.pass_mark", True, "Gate 1: pass_mark is true; allowed is a share"),
        ("gates.0.pass_mark", None, "Gate 1: pass_mark is missing; allowed is a share"),
        ("gates.1.pass_mark", "2/4", 'Gate 2: pass_mark is "2/4"; allowed is a share'),
        ("gates.1.pass_mark", "3/3", "; 1 cannot be exceeded."),
        ("gates.1.pass_mark", "-1/3", 'Gate 2: pass_mark is "-1/3"; allowed is a share'),
        ("gates.2.pass_mark", 5.5, "pass_mark is 5.5; allowed is a mean grade from 1 to 5."),
        ("gates.2.pass_mark", "4/5", 'Gate 3: pass_mark is "4/5"; allowed is a mean grade'),
        ("gates.2.ask", 4, "Gate 3: ask is 4; allowed is a whole number from 1 to 3."),
        ("gates.2.ask", 1.0, "Gate 3: ask is 1.0; allowed is a whole number from 1 to 3."),
        ("gates.0.minutes", 0, "Gate 1: minutes is 0; allowed is more than 0, 1440 at most"),
        ("gates.0.minutes", 0.001, "Gate 1: minutes is 0.001; allowed is more than 0"),
        ("gates.0.minutes", "50", 'Gate 1: minutes is "50"; allowed is more than 0'),
        ("gates.0.most_attempts", 0, "most_attempts is 0; allowed is a whole number from 1"),
        ("gates.0.mark_is_exclusive", 1, "mark_is_exclusive is 1; allowed is true or false."),
        (
            f"{Q1}.answer", "5",
            'Gate 1, question 1: answer is "5"; allowed is the text of one of its options.',
        ),
        (f"{Q1}.options", ["4"], "Gate 1, question 1: options has 1 entries; allowed are 2 to 9."),
        (f"{Q1}.options", ["4", "4"], "Gate 1, question 1: two options are the same"),
        (f"{Q1}.options", ["4", 4], "Gate 1, question 1: option is 4; allowed is a text."),
        (f"{Q1}.text", None, "Gate 1, question 1: text is missing; allowed is a text."),
        (f"{Q1}.text", "\0", "text holds a character that is no text"),
        (f"{Q1}.text", "a\ud800b", "text holds a character that is no text"),
        (f"{Q1}.text", "x" * 20_001, "text has 20001 characters; allowed are 20000."),
        (
            f"{C1}.response_b", "Right 0.",
            "Gate 2, question 1: response_a and response_b are the same; they must differ.",
        ),
        (f"{C1}.reference", None, "question 1, reference: this is null; allowed is an object"),
        (
            f"{C1}.reference.choice", "left",
            'Gate 2, question 1, reference: choice is "left"; allowed is a, b.',
        ),
        (
            f"{C1}.reference.strength", "much",
            'reference: strength is "much"; allowed is significantly_better, better, '
            "slightly_better, negligibly_better.",
        ),
        (f"{C1}.reference.a_safe", None, "only one of a_safe and b_safe is given"),
        (f"{C1}.reference.choice", "b", "the chosen response is marked unsafe and the other"),
        (f"{C1}.messages", None, "Gate 2, question 1: messages is missing; allowed is a list of 1"),
        (
            f"{C1}.messages.0.role", "bot",
            'Gate 2, question 1, message 1: role is "bot"; allowed is system, user, assistant.',
        ),
        (f"{C1}.messages.0.role", "assistant", "messages end without the user's"),
        (f"{W1}.text", None, "Gate 3, question 1: text is missing; allowed is a text."),
        (f"{W1}.answer", "x", 'Gate 3, question 1: "answer" is not known here; allowed are'),
    ],
)  # fmt: skip
def test_a_fault_has_its_place_its_value_and_what_is_allowed(path, value, sentence):
    found = faults(changed(path, value))
    assert any(sentence in fault for fault in found), found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Line 1, column 1: this is not JSON"),
        ('{"skill": "a",}', "this is not JSON"),
        ("[]", "The document: this is []; allowed is an object, in braces."),
        ("null", "The document: this is null; allowed is an object"),
        ('{"skill": "a", "skill": "b"}', '"skill" stands twice in one object'),
        ('{"skill": NaN}', "NaN is not a number"),
        ('{"skill": ' + "9" * 5000 + "}", "The document is not plain JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_document_at_all(text, sentence):
    (fault,) = faults(text)
    assert sentence in fault


def test_all_faults_are_told_at_once():
    made = changed("gates.0.pass_mark", 2)
    made["gates"][1]["questions"][2]["response_a"] = ""
    made["gates"][2]["colour"] = "red"
    assert [fault.split(":")[0] for fault in faults(made)] == [
        "Gate 1",
        "Gate 2, question 3",
        "Gate 3",
    ]


ODD = [None, True, -1, 0, 7, 1e400, 0.5, "", "x", "\0", [], [[]], [1], {}, {"a": {}}, "9/9", 10**30]


@pytest.mark.parametrize("seed", range(200))
def test_any_odd_value_anywhere_is_a_sentence_or_allowed(seed):
    """Whatever stands in one or two places, the answer is a document that comes back or faults."""
    rng, made = random.Random(seed), copy.deepcopy(WHOLE)
    for _ in range(rng.choice((1, 2))):
        part: Any = made
        while True:
            steps = list(part) if isinstance(part, dict) else list(range(len(part)))
            step = rng.choice(steps or ["new"])
            inner = part[step] if steps else None
            if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
                part = inner
                continue
            if steps or isinstance(part, dict):
                part[step] = rng.choice(ODD)
            break
    text = json.dumps(made).replace("Infinity", "1e400")
    try:
        found = read(text)
    except Malformed:
        assert all(fault.endswith(".") and len(fault) < 400 for fault in faults(text))
    else:
        assert qualification_document.read(found.as_text()) == found
