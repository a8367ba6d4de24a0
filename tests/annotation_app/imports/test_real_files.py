"""The three real files, whole, with what is known to be in them."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db.models import Count

from annotation_app import storage
from annotation_app.models import Annotation, Batch, Comparison, Dialogue, Prompt, Response, Run
from annotation_app.snapshots import write_snapshot
from reward.preferences import read_pairs
from tests.annotation_app.imports.files import (
    HH_RLHF,
    PANDALM,
    QA_FEEDBACK,
    array,
    hh_rlhf,
    import_file,
)

pytestmark = pytest.mark.django_db


def summary(capsys) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


def rows() -> list[int]:
    return [m.objects.count() for m in (Batch, Dialogue, Prompt, Response, Comparison, Annotation)]


def unusable() -> Counter[str]:
    reasons = Comparison.objects.exclude(unusable_reason="")
    return Counter(reasons.values_list("unusable_reason", flat=True))


def test_hh_rlhf(capsys):
    import_file(HH_RLHF, "hh-rlhf", "safety", "Red team")
    said = summary(capsys)
    assert said["records"] == said["comparisons added"] == "1632"
    assert said["unusable"] == "7 (differing histories 3, empty answer 4)"
    assert unusable() == {"differing histories": 3, "empty answer": 4}
    assert rows() == [1, 1631, 1631, 2 * 1632, 1632, 1632]
    assert set(Prompt.objects.values_list("is_safety", flat=True)) == {True}
    assert set(Annotation.objects.values_list("choice", "strength", "a_safe")) == {("a", "", None)}
    before = rows()
    import_file(HH_RLHF, "hh-rlhf", "safety", "Red team again")
    assert summary(capsys)["already there"] == "1632"
    assert rows() == before


def test_a_real_hh_rlhf_line_is_split_at_its_last_answer():
    import_file(HH_RLHF, "hh-rlhf", "safety")
    first = Comparison.objects.order_by("pk")[0]
    line = hh_rlhf(1)[0]
    assert [m["role"] for m in first.prompt.messages] == ["user", "assistant"] * 2 + ["user"]
    assert first.prompt.turn == 3
    assert first.prompt.user_message == "okay some of these do not have anything to do with pens"
    assert line["chosen"].endswith(f"\n\nAssistant: {first.response_a.text}")
    assert line["rejected"].endswith(f"\n\nAssistant: {first.response_b.text}")
    for messages in Prompt.objects.exclude(
        comparisons__unusable_reason="differing histories"
    ).values_list("messages", flat=True):
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_the_imported_batch_is_closed_and_triggers_nothing(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as callbacks:
        import_file(PANDALM, "pandalm", batch="PandaLM")
    batch = Batch.objects.get()
    assert (batch.state, batch.week, batch.kind) == ("closed", None, "preference")
    assert (batch.name, batch.criterion, batch.overlap) == ("PandaLM", "helpfulness", 3)
    assert callbacks == []
    assert not Run.objects.exists()
    assert not Comparison.objects.filter(open_slots__gt=0).exists()


def test_pandalm(capsys):
    import_file(PANDALM, "pandalm")
    said = summary(capsys)
    assert said["records"] == "729"
    assert (said["comparisons added"], said["already there"]) == ("654", "75")
    assert said["unusable"] == "27 (empty answer 27)"
    assert said["verdicts"] == "1962, of them ties: 127"
    judged = Comparison.objects.annotate(n=Count("annotations__annotator", distinct=True))
    assert set(judged.values_list("n", "overlap")) == {(3, 3)}
    people = Annotation.objects.values_list("annotator__username", "annotator__is_active")
    assert set(people) == {(f"pandalm:annotator{n}", False) for n in (1, 2, 3)}
    before = rows()
    import_file(PANDALM, "pandalm")
    assert summary(capsys)["already there"] == "729"
    assert rows() == before


def test_pandalm_answers_that_are_booleans_are_the_text():
    import_file(PANDALM, "pandalm")
    booleans = [r for r in array(PANDALM) if True in (r["response1"], r["response2"])]
    assert len(booleans) == 6
    answers = Response.objects.filter(prompt__messages__0__content__startswith="Verify the")
    assert "True" in answers.values_list("text", flat=True)


def test_a_repeat_that_was_judged_differently_is_kept():
    import_file(PANDALM, "pandalm")
    pairs = Comparison.objects.values("prompt", "response_a", "response_b").annotate(n=Count("pk"))
    (twice,) = pairs.filter(n__gt=1)
    judged = Annotation.objects.filter(
        comparison__prompt=twice["prompt"],
        comparison__response_a=twice["response_a"],
        comparison__response_b=twice["response_b"],
    ).order_by("comparison", "slot")
    assert list(judged.values_list("choice", flat=True)) == ["b", "a", "b", "tie", "b", "b"]


def test_pandalm_items_of_one_instruction_share_the_prompt():
    import_file(PANDALM, "pandalm")
    asked = {(r["instruction"], r["input"]) for r in array(PANDALM)}
    assert Prompt.objects.count() == Dialogue.objects.count() == len(asked)


def test_qa_feedback(capsys):
    import_file(QA_FEEDBACK, "qa-feedback")
    said = summary(capsys)
    assert said["records"] == "361"
    assert said["comparisons added"] == "2166"
    assert said["verdicts"] == "2166, of them ties: 266"
    assert said["unusable"] == "0"
    assert rows() == [1, 361, 361, 4 * 361, 2166, 2166]
    per_prompt = Prompt.objects.annotate(n=Count("comparisons")).values_list("n", flat=True)
    assert set(per_prompt) == {6}
    choices = Counter(Annotation.objects.values_list("choice", flat=True))
    assert choices == {"a": 1176, "b": 724, "tie": 266}
    prompt = Prompt.objects.order_by("pk")[0].user_message
    assert prompt.startswith("Drag Me to Hell\nHer boss advises her")
    assert prompt.endswith("\n\nQuestion: Where does drag me to hell take place?")
    before = rows()
    import_file(QA_FEEDBACK, "qa-feedback")
    assert summary(capsys)["already there"] == "2166"
    assert rows() == before


def test_ties_and_unusable_records_never_become_pairs(settings, tmp_path):
    settings.STORAGE_ROOT = tmp_path
    import_file(PANDALM, "pandalm")
    snapshot = write_snapshot("helpfulness")
    counts = snapshot.counts
    assert counts["ties"] + counts["holdout_ties"] == 36
    assert counts["pairs"] + counts["holdout"] == 654 - 27 - 36
    folder = storage.path(snapshot.storage_key)
    train, held = (
        {pair.root for name in names for pair in read_pairs(folder / f"{name}.jsonl")}
        for names in (("pairs", "ties"), ("holdout", "holdout_ties"))
    )
    assert counts["holdout_ties"] > 0
    assert train.isdisjoint(held)


def test_one_file_under_both_criteria_is_two_imports():
    import_file(QA_FEEDBACK, "qa-feedback", "helpfulness", "Helpful")
    import_file(QA_FEEDBACK, "qa-feedback", "safety", "Safe")
    assert Comparison.objects.count() == 2 * 2166
