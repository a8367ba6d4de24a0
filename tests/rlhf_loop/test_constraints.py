import json
import random
import re

import pytest

from rlhf_loop.constraints import (
    LANGUAGES,
    Constraint,
    disobeys,
    draw_constraints,
    instruction,
    language_of,
    obeys,
    read_constraints,
    values_of_list,
)

HOBBY = {"kind": "hobby", "instruction": "You love {value}.", "terse": "Hobby: {value}",
         "values": ["chess", "tea"], "check": {"marker": "{value}"}}  # fmt: skip


def file(tmp_path, *kinds):
    path = tmp_path / "constraints.json"
    path.write_text(json.dumps({"constraints": kinds}))
    return path


def test_it_works(tmp_path):
    (kind,) = read_constraints(file(tmp_path, HOBBY))
    constraint = kind.with_value("chess")
    assert constraint == ("hobby", "You love chess.", "Hobby: chess", "marker", "chess")
    assert obeys(constraint, "I play Chess all day.")
    assert not obeys(constraint, "I have chessboards.")


def test_the_shipped_ones_are_the_papers_kinds():
    assert [kind.kind for kind in read_constraints()] == ["hobby", "language", "public figure"]


def test_a_value_is_literal_in_a_pattern(tmp_path):
    (kind,) = read_constraints(file(tmp_path, {**HOBBY, "check": {"pattern": "^{value}[.!]"}}))
    assert obeys(kind.with_value("a+b"), "A+B! Then we go on.")
    assert not obeys(kind.with_value("a+b"), "aab. No.")


def test_without_a_rule_nobody_knows():
    assert obeys(Constraint("figure", "Act as Ada.", "Act as: Ada", "judge", ""), "Hm.") is None


def test_a_marker_beside_a_language_may_stand_in_that_language():
    hobby, language, _ = read_constraints()
    both = (hobby.with_value("gardening"), language.with_value("French"))
    in_french = "Le jardinage est une passion pour vous, et les fleurs sont belles."
    assert not disobeys(both, in_french)
    assert disobeys(both[:1], in_french)
    assert disobeys(both, "I love gardening, and the flowers are here for you.")
    assert not disobeys(both[:1], "I love gardening.")


@pytest.mark.parametrize(("text", "language"), [
    ("The warranty lasts two years and you have it from the day of purchase.", "english"),
    ("La garantie dure deux ans et vous êtes couvert pour les pièces.", "french"),
    ("Die Garantie läuft zwei Jahre und der Kauf ist das, was zählt.", "german"),
    ("La garantía dura dos años y usted la tiene para el motor.", "spanish"),
    ("La garanzia dura due anni e non è per il cavo che si usa.", "italian"),
    ("A garantia dura dois anos e não é para você usar mais.", "portuguese"),
    ("De garantie duurt twee jaar en het is niet van de winkel.", "dutch"),
    ("Гарантия действует два года.", "russian"), ("保証は二年間です。", "japanese"),
    ("保修期为两年。", "chinese"), ("Hm.", None), ("", None), ("2 + 2 = 4", None),
])  # fmt: skip
def test_languages(text, language):
    assert language_of(text) == language


def test_no_function_word_stands_for_most_languages():
    for words in LANGUAGES.values():
        shared = [w for w in words if sum(w in other for other in LANGUAGES.values()) > 3]
        assert len(shared) < len(words) / 3, shared


def test_instructions_are_joined_plainly_and_tersely(tmp_path):
    kinds = read_constraints()
    drawn = draw_constraints(kinds, 2, random.Random(1))
    assert 1 <= len(drawn) <= 2
    assert len({constraint.kind for constraint in drawn}) == len(drawn)
    (kind,) = read_constraints(file(tmp_path, HOBBY))
    both = [kind.with_value("chess"), kind.with_value("tea")]
    assert instruction(both, is_terse=True) == "Hobby: chess; Hobby: tea"
    assert instruction(both, is_terse=False) == "You love chess. You love tea."


def test_a_list_that_a_model_wrote_is_read():
    text = "Sure, here you go with ten of them:\n1. Chess\n2) Tea ceremony.\n- *Sailing*\n\n• Go"
    assert values_of_list(text) == ["Chess", "Tea ceremony", "Sailing", "Go"]


@pytest.mark.parametrize(("kind", "sentence"), [
    ({**HOBBY, "check": {"rule": "x"}}, "allowed is one of pattern, marker, language, judge"),
    ({**HOBBY, "check": {}}, "allowed is one of pattern"),
    ({**HOBBY, "values": []}, "'hobby' has no values"),
    ({**HOBBY, "values": "chess"}, "values of 'hobby' is no list"),
    ({**HOBBY, "check": {"language": "{value}"}}, "language is 'chess', allowed are english"),
    ({**HOBBY, "check": {"pattern": "("}}, "pattern '('"),
    ({"kind": "x"}, "is no file of constraints"),
    ("hobby", "is no file of constraints"),
])  # fmt: skip
def test_unusable_files_are_refused(tmp_path, kind, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_constraints(file(tmp_path, kind))


def test_no_constraint_at_all(tmp_path):
    with pytest.raises(ValueError, match="holds no constraint"):
        read_constraints(file(tmp_path))
