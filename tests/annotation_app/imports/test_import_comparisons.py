"""The command on small files: shapes, unusable records, batches, round trips."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
from django.core.management import CommandError, call_command

from annotation_app import storage
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    DialogueRoot,
    Person,
    Prompt,
    Response,
)
from annotation_app.snapshots import write_snapshot
from reward.preferences import Message, aggregate, read_pairs
from tests.annotation_app.imports.files import (
    PANDALM,
    array,
    hh_rlhf,
    import_file,
    write_array,
    write_lines,
)
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db
HI = {"role": "user", "content": "Hi"}
STANDARD = {"prompt": "How long?", "chosen": "Two years.", "rejected": "No."}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def import_lines(tmp_path, lines: list, criterion: str = "helpfulness", batch: str = "Old"):
    import_file(write_lines(tmp_path / "lines.jsonl", lines), "trl", criterion, batch)
    return list(Comparison.objects.order_by("pk"))


# --- TRL's shapes --------------------------------------------------------------------------------


def test_it_works(tmp_path, capsys):
    (comparison,) = import_lines(tmp_path, [STANDARD])
    assert comparison.prompt.messages == [{"role": "user", "content": "How long?"}]
    assert (comparison.response_a.text, comparison.response_b.text) == ("Two years.", "No.")
    assert (comparison.source, comparison.source_format) == ("trl", "trl")
    annotation = comparison.annotations.get()
    assert (annotation.state, annotation.purpose) == ("recorded", "work")
    assert (annotation.choice, annotation.strength) == ("a", "")
    assert not annotation.annotator.has_usable_password()
    assert "comparisons added: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": [HI], "chosen": [said("Hello")], "rejected": [said("What?")]},
        {"chosen": [HI, said("Hello")], "rejected": [HI, said("What?")]},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?", "margin": 0.5, "id": 7},
    ],
)
def test_the_three_shapes_mean_the_same(tmp_path, line):
    (comparison,) = import_lines(tmp_path, [line])
    assert comparison.prompt.messages == [HI]
    assert (comparison.response_a.text, comparison.response_b.text) == ("Hello", "What?")
    assert comparison.annotations.get().strength == ""


def test_strings_and_messages_of_one_record_are_one_record(tmp_path):
    lines = [
        {"prompt": [HI], "chosen": [said("Hello")], "rejected": [said("What?")]},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
    ]
    assert len(import_lines(tmp_path, lines)) == 1


def test_a_system_message_is_part_of_the_prompt(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    (comparison,) = import_lines(
        tmp_path, [{"chosen": [system, HI, said("Hello")], "rejected": [system, HI, said("Hey")]}]
    )
    assert comparison.prompt.messages == [system, HI]


def test_an_answer_may_be_several_messages_that_share_all_but_the_last(tmp_path):
    turn = [said("Hello"), {"role": "user", "content": "And?"}]
    line = {"prompt": [HI], "chosen": [*turn, said("More")], "rejected": [*turn, said("Less")]}
    (comparison,) = import_lines(tmp_path, [line])
    assert comparison.prompt.messages == [HI, *turn]
    assert comparison.response_b.text == "Less"
    assert comparison.prompt.turn == 2


# --- records that nobody can use -----------------------------------------------------------------

UNUSABLE = {
    "differing histories": {
        "chosen": [HI, said("Yes"), HI, said("x")],
        "rejected": [HI, said("No"), HI, said("y")],
    },
    "empty answer": STANDARD | {"rejected": " \n"},
    "identical answers": STANDARD | {"rejected": "Two years. "},
    "empty prompt": STANDARD | {"prompt": " "},
    "prompt does not end with the user": {
        "prompt": [HI, said("Yes")],
        "chosen": [said("x")],
        "rejected": [said("y")],
    },
    "contradictory safety": STANDARD
    | {"verdicts": [{"annotator": "x", "choice": "a", "a_safe": False, "b_safe": True}]},
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_records_are_stored_with_their_reason(tmp_path, capsys, reason):
    import_lines(tmp_path, [UNUSABLE[reason], STANDARD | {"prompt": "When?"}])
    bad, good = Comparison.objects.order_by("pk")
    assert (bad.unusable_reason, good.unusable_reason) == (reason, "")
    assert (bad.open_slots, good.open_slots) == (0, 0)
    assert f"unusable: 1 ({reason} 1)" in capsys.readouterr().out


def test_unusable_records_are_never_trained_on(tmp_path, settings):
    settings.STORAGE_ROOT = tmp_path / "storage"
    settings.HOLDOUT_SHARE = 0.0
    import_lines(tmp_path, [*UNUSABLE.values(), STANDARD | {"prompt": "When?"}])
    counts = write_snapshot("helpfulness").counts
    assert (counts["pairs"], counts["ties"]) == (1, 0)


def test_identical_answers_are_two_rows(tmp_path):
    (comparison,) = import_lines(tmp_path, [STANDARD | {"rejected": STANDARD["chosen"]}])
    assert comparison.response_a_id != comparison.response_b_id


def test_a_dialogue_without_a_last_answer_is_an_empty_answer(tmp_path):
    line = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi"}
    import_file(write_lines(tmp_path / "hh.jsonl", [line]), "hh-rlhf")
    assert Comparison.objects.get().unusable_reason == "empty answer"


def test_turns_of_one_side_are_joined(tmp_path):
    shared = "\n\nHuman: Hi\n\nHuman: You there?\n\nAssistant:"
    line = {"chosen": f"{shared} Yes", "rejected": f"{shared} No"}
    import_file(write_lines(tmp_path / "hh.jsonl", [line]), "hh-rlhf")
    assert Prompt.objects.get().messages == [{"role": "user", "content": "Hi\n\nYou there?"}]


def test_pandalm_booleans_are_text(tmp_path):
    item = array(PANDALM)[0] | {"response1": True, "response2": False}
    import_file(write_array(tmp_path / "pandalm.json", [item]), "pandalm")
    assert list(Response.objects.order_by("pk").values_list("text", flat=True)) == ["True", "False"]


# --- the same again ------------------------------------------------------------------------------


def test_plain_and_gzip_hold_the_same_records(tmp_path, capsys):
    plain = write_lines(tmp_path / "hh.jsonl", hh_rlhf(20))
    packed = tmp_path / "packed"  # known by its content, whatever its name
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    import_file(plain, "hh-rlhf")
    import_file(packed, "hh-rlhf")
    assert Comparison.objects.count() == 20
    assert "already there: 20" in capsys.readouterr().out


def test_a_longer_file_adds_what_is_new(tmp_path, capsys):
    import_file(write_lines(tmp_path / "hh.jsonl", hh_rlhf(20)), "hh-rlhf")
    import_file(write_lines(tmp_path / "hh.jsonl", hh_rlhf(30)), "hh-rlhf")
    assert Comparison.objects.count() == 30
    assert Batch.objects.get().comparisons.count() == 30


def test_what_is_there_already_makes_no_second_batch(tmp_path):
    import_lines(tmp_path, [STANDARD], batch="First")
    import_lines(tmp_path, [STANDARD], batch="Second")
    assert Batch.objects.get().name == "First"


def test_blank_lines_and_a_byte_order_mark_are_no_records(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\ufeff" + json.dumps(STANDARD) + "\n\n  \n", encoding="utf-8")
    import_file(path, "trl")
    assert Comparison.objects.count() == 1


# --- batches -------------------------------------------------------------------------------------


def test_a_live_batch_takes_no_imports(tmp_path):
    batch = open_batch()
    with pytest.raises(CommandError, match="is one that people annotate"):
        import_lines(tmp_path, [STANDARD], batch=batch.name)
    assert Comparison.objects.filter(source_format="trl").count() == 0


def test_a_closed_batch_that_people_annotated_takes_no_imports(tmp_path):
    batch = open_batch()
    Batch.objects.update(state="closed")
    with pytest.raises(CommandError, match="is one that people annotate"):
        import_lines(tmp_path, [STANDARD], batch=batch.name)


def test_a_batch_holds_one_criterion(tmp_path):
    import_lines(tmp_path, [STANDARD])
    with pytest.raises(CommandError, match="The batch 'Old' holds helpfulness, not safety"):
        import_lines(tmp_path, [STANDARD], criterion="safety")


@pytest.mark.parametrize("name", ["", " ", "n" * 121])
def test_batch_names(tmp_path, name):
    with pytest.raises(CommandError, match="has 1 to 120 characters"):
        import_lines(tmp_path, [STANDARD], batch=name)


@pytest.mark.parametrize(
    ("flag", "value"), [("--format", "csv"), ("--criterion", "style"), ("--batch", None)]
)
def test_wrong_flags(tmp_path, flag, value):
    flags = {"--format": "trl", "--criterion": "safety", "--batch": "Old"} | {flag: value}
    words = [word for f, v in flags.items() if v for word in (f, v)]
    with pytest.raises(CommandError, match=flag):
        call_command("import_comparisons", "file", *words)


# --- people, splits, ties ------------------------------------------------------------------------


def test_imported_people_cannot_sign_in(tmp_path, client):
    import_lines(tmp_path, [STANDARD])
    person = Person.objects.get()
    assert (person.username, person.is_active) == ("trl:annotator", False)


def test_the_split_is_the_roots(tmp_path):
    lines = [STANDARD | {"prompt": f"Question {n}?", "rejected": str(n)} for n in range(200)]
    import_lines(tmp_path, lines)
    splits = Counter(DialogueRoot.objects.values_list("split", flat=True))
    assert splits.keys() == {"train", "holdout"}
    before = dict(DialogueRoot.objects.values_list("hash", "split"))
    import_lines(tmp_path, lines, criterion="safety", batch="Again")
    assert dict(DialogueRoot.objects.values_list("hash", "split")) == before


def test_a_root_keeps_the_side_it_is_on(tmp_path):
    first = Prompt.start([Message("user", "how  LONG?")], split="holdout")
    (comparison,) = import_lines(tmp_path, [STANDARD])
    assert comparison.prompt.dialogue.root == first.dialogue.root
    assert comparison.prompt.dialogue.root.split == "holdout"


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_of_one_half_is_a_tie(tmp_path, share):
    (comparison,) = import_lines(tmp_path, [STANDARD | {"share": share}])
    assert comparison.annotations.get().choice == ("tie" if share == 0.5 else "a")


# --- our own pairs file --------------------------------------------------------------------------


def test_our_columns_are_read(tmp_path):
    line = STANDARD | {
        "criterion": "safety",
        "strength": "slightly_better",
        "safety": "chosen_safe",
        "source": "vendor",
        "risk_category": "unqualified_advice",
        "chosen_from": {"checkpoint": "V1", "temperature": 0.8, "top_p": 1.0, "seed": 3},
        "rejected_from": None,
    }
    (comparison,) = import_lines(tmp_path, [line], "safety")
    annotation = comparison.annotations.get()
    assert (annotation.a_safe, annotation.b_safe) == (True, False)
    assert annotation.strength == "slightly_better"
    assert comparison.source == "vendor"
    assert comparison.prompt.risk_category == "unqualified_advice"
    assert comparison.prompt.is_safety
    assert (comparison.response_a.temperature, comparison.response_a.seed) == (0.8, 3)
    assert comparison.response_a.checkpoint is None


def test_lines_of_the_other_criterion_are_left_out(tmp_path, capsys):
    lines = [STANDARD | {"criterion": "safety"}, STANDARD | {"criterion": "helpfulness"}]
    assert len(import_lines(tmp_path, lines)) == 1
    assert "left out, being of the other criterion: 1" in capsys.readouterr().out


def test_the_chosen_answer_is_a_whatever_it_was_called(tmp_path):
    verdicts = [
        {"annotator": "x", "choice": "b", "strength": "better", "a_safe": False, "b_safe": True},
        {"annotator": "y", "choice": "b"},
        {"annotator": "z", "choice": "a"},
    ]
    (comparison,) = import_lines(tmp_path, [STANDARD | {"verdicts": verdicts}])
    assert (comparison.overlap, comparison.open_slots) == (3, 0)
    found = comparison.annotations.order_by("slot")
    assert list(found.values_list("choice", "strength", "a_safe", "b_safe")) == [
        ("a", "better", True, False),
        ("a", "", None, None),
        ("b", "", None, None),
    ]
    assert list(found.values_list("annotator__username", flat=True)) == ["trl:x", "trl:y", "trl:z"]


def test_what_we_export_comes_back(tmp_path, settings):
    settings.STORAGE_ROOT = tmp_path / "storage"
    items = [{**item, "input": f"{n}"} for n, item in enumerate(array(PANDALM)[:120])]
    import_file(write_array(tmp_path / "pandalm.json", items), "pandalm")
    folder = storage.path(write_snapshot("helpfulness").storage_key)
    exported = []
    for name in ("pairs", "holdout", "ties", "holdout_ties"):
        exported += list(read_pairs(folder / f"{name}.jsonl"))
        import_file(folder / f"{name}.jsonl", "trl", batch="Back")
    back = Comparison.objects.filter(batch__name="Back").order_by("pk")
    assert [c.response_a.text for c in back] == [pair.chosen for pair in exported]
    assert [c.response_b.text for c in back] == [pair.rejected for pair in exported]
    assert [c.prompt.dialogue.root_id for c in back] == [pair.root for pair in exported]
    assert {c.source for c in back} == {"pandalm"}
    assert Annotation.objects.filter(comparison__in=back).count() == 3 * len(exported)
    for comparison, pair in zip(back, exported, strict=True):
        choices = Counter(comparison.annotations.values_list("choice", flat=True))
        joined = aggregate(pair.verdicts)
        assert choices == Counter(_as_chosen(v.choice, joined.choice) for v in pair.verdicts)


def _as_chosen(choice: str, majority: str | None) -> str:
    return {"a": "b", "b": "a", "tie": "tie"}[choice] if majority == "b" else choice
